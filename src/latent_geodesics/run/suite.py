"""A suite of pairs with a version, and results on it as data: one JSON a method, checked against a schema.

A suite is a folder such as `benchmarks/clevr-morph-1/`. Its `suite.json` says which pairs, how many frames of which
size and which columns; every other file is a row, in the form of `suite_row.schema.json`. Rows hold the numbers of each
pair, so that means and intervals are made here and cannot be at odds with them. What would change the pairs, frames or
columns is another version.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from latent_geodesics.core.errors import UserError, near_name
from latent_geodesics.models.sources import file_hash
from latent_geodesics.run.compare.run_files import read_json
from latent_geodesics.run.compare.runs import RunRecord
from latent_geodesics.run.files import title_of, write_json
from latent_geodesics.run.results import KNOWN, STAGE_COLUMNS

DEFINITION = "suite.json"
ROW_SETTINGS = ("tau", "alpha_d", "alpha", "guidance", "condition", "score", "seed", "model.steps")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What all rows of a suite have in common.

    Attributes:
        name: Its name and version.
        manifest_sha256: The hash of the manifest that lists the pairs.
        pairs: Pair -> what it has in common with other pairs; statistics take those together.
        frames: Images of a sequence, both ends included.
        image_size: Height and width in pixels at which frames are measured.
        columns: What may be in a row.
    """

    name: str
    manifest_sha256: str
    pairs: Mapping[str, str]
    frames: int
    image_size: Sequence[int]
    columns: Sequence[str]

    @classmethod
    def read(cls, folder: Path) -> "Suite":
        """The suite of a folder.

        Raises:
            UserError: when there is none, or its file is not one.
        """
        file = folder / DEFINITION
        if not file.is_file():
            raise UserError(f"'{folder}' is no suite: it has no {DEFINITION}; task=submit makes it of a first run.")
        found = _json(file)
        try:
            suite = cls(**found)
            if not isinstance(suite.pairs, dict) or not isinstance(suite.columns, list) or not suite.columns:
                raise TypeError("pairs must be a mapping and columns a list")
        except TypeError as error:
            raise UserError(f"'{file}' defines no suite ({error}): take the one that came with the project.") from error
        if suite.name != folder.name:
            raise UserError(f"'{file}' is of the suite {suite.name!r}: it belongs into a folder of that name.")
        return suite

    def write(self, folder: Path) -> None:
        """Writes `suite.json`."""
        write_json(folder / DEFINITION, asdict(self))

    def check_row(self, content: Any, file: Path) -> None:
        """Refuses what is no row of this suite.

        Raises:
            UserError: says what is wrong with it first.
        """
        wrong = _against_schema(content) or self._against_suite(content, file)
        if wrong:
            raise UserError(f"'{file}' is no row of {self.name}: {wrong}.")

    def _against_suite(self, row: Mapping[str, Any], file: Path) -> str | None:
        if row["suite"] != self.name:
            return f"it is of the suite {row['suite']!r}"
        if row["method"] != file.stem:
            return f"its method is {row['method']!r}, which must be the name of the file"
        missing, foreign = sorted(set(self.pairs) - set(row["pairs"])), sorted(set(row["pairs"]) - set(self.pairs))
        if missing or foreign:
            what = f"it lacks the pair {missing[0]!r}" if missing else f"the suite has no pair {foreign[0]!r}"
            return f"{what}; every pair stands in a row once, with null for what failed"
        for column in [*(name for cells in row["pairs"].values() for name in cells), *row["whole"]]:
            if column not in self.columns:
                return f"the suite has no column {column!r}.{near_name(column, self.columns)}".rstrip(".?")
        numbers = [value for cells in row["pairs"].values() for value in cells.values() if value is not None]
        if not numbers and not row["whole"]:
            return "it holds no number"
        return None


def read_rows(folder: Path) -> tuple[Suite, list[dict[str, Any]]]:
    """A suite and all of its rows, in the order of the files' names.

    Raises:
        UserError: when one of the files is not what it should be.
    """
    suite, rows = Suite.read(folder), []
    for file in sorted(folder.glob("*.json")):
        if file.name != DEFINITION:
            row = _json(file)
            suite.check_row(row, file)
            rows.append(row)
    by_pair = {name for row in rows for cells in row["pairs"].values() for name, x in cells.items() if x is not None}
    for row in rows:
        if mixed := sorted(by_pair & set(row["whole"])):
            raise UserError(
                f"'{folder / row['method']}.json' is no row of {suite.name}: {mixed[0]!r} stands in its whole, and "
                "rows have it for each pair: give it so."
            )
    return suite, rows


def suite_of_run(run: RunRecord, name: str) -> Suite:
    """The suite that a finished run is on.

    Raises:
        UserError: when the run does not say enough for that.
    """
    if not run.finished:
        raise UserError(f"The run '{run.folder}' is not finished: start it again, then submit it.")
    records = read_json(run.folder, "metrics.json").get("records") or [{}]
    manifest = next((run.settings[key] for key in run.settings if key.endswith("data.manifest")), None)
    frames, size = records[0].get("frames"), records[0].get("image_size")
    if frames is None or size is None or manifest is None or not Path(str(manifest)).is_file():
        raise UserError(
            f"The run '{run.folder}' is none of task=interpolation on the pairs of a manifest that is here: such a run "
            "makes a row of a suite."
        )
    table = run.table.drop_duplicates("pair")
    clusters = table["cluster"] if "cluster" in table else table["pair"]
    return Suite(
        name=name,
        manifest_sha256=file_hash(Path(str(manifest))),
        pairs=dict(zip(table["pair"], clusters, strict=True)),
        frames=int(frames),
        image_size=[int(side) for side in size],
        columns=[*_columns(run.table), *dict.fromkeys(run.measured["column"])],
    )


def row_of(run: RunRecord, method: str, *, suite: str, by: str) -> dict[str, Any]:
    """What a run found of a method, as a row of a suite."""
    table = run.table[run.table["method"] == method].set_index("pair")
    of_method = run.measured[run.measured["method"] == method]
    environment, columns = read_json(run.folder, "environment.json"), _columns(run.table)
    return {
        "suite": suite,
        "method": method,
        "title": title_of(method),
        "by": by,
        "model": Path(str(run.settings.get("model.path_or_name", "unknown"))).name,
        "settings": {name: run.settings[name] for name in ROW_SETTINGS if name in run.settings},
        "weights": {str(name): str(value) for name, value in (environment.get("weights") or {}).items()},
        "commit": str(environment.get("commit") or "unknown"),
        "pairs": {str(pair): {name: _number(table.at[pair, name]) for name in columns} for pair in table.index},
        "whole": {
            str(record["column"]): {"value": value, "standard_error": _number(record["standard_error"])}
            for record in of_method.to_dict("records")
            if (value := _number(record["value"])) is not None
        },
    }


def _columns(table: pd.DataFrame) -> list[str]:
    """What a row tells of each pair: what metrics give and what it cost, without the stages of the time."""
    return [name for name in table.columns if name in KNOWN and name not in STAGE_COLUMNS]


def _number(value: Any) -> float | None:
    """A number to as many digits as single precision has, or none."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _json(file: Path) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number of JSON: write null")

    try:
        return json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{file}' cannot be read as JSON ({' '.join(str(error).split())}): correct it.") from error


def _against_schema(content: Any) -> str | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    schema = json.loads(files("latent_geodesics.run").joinpath("suite_row.schema.json").read_text(encoding="utf-8"))
    error = best_match(Draft202012Validator(schema).iter_errors(content))
    if error is None:
        return None
    place = "".join(f"[{key!r}]" for key in error.absolute_path)
    return f"{' '.join(error.message.split())[:200]}{f' (at {place})' if place else ''}"
