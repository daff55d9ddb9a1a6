"""The files of a run's folder, read as data: nothing that they name is made, resolved or read besides.

A folder may come from someone else. Its configuration stays text, its links may not lead out of it, and a damaged file
is refused: a column or a row that is left out in silence changes a mean.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.sources import file_hash
from latent_geodesics.run.files import inside, unguarded
from latent_geodesics.run.results import COLUMNS, DESCRIPTIVE, HIGHER_IS_BETTER, LOWER_IS_BETTER

CONFIG, RESULTS, METRICS = "config.yaml", "results.csv", "metrics.json"
SUMMARY, FILES = "summary.json", "files.json"
MEASURED = ("method", "column", "value", "standard_error")
NUMBERS = {*COLUMNS, *HIGHER_IS_BETTER, *LOWER_IS_BETTER}
TRUTHS = {"true": "1", "false": "0"}
NONE = ("", "nan", "none", "null", "na", "n/a", "<na>")
ADVICE = "leave the run out, or do it again"


@dataclass(frozen=True, kw_only=True)
class MetricsFile:
    """What `metrics.json` holds.

    Attributes:
        numbers: A row for each number: method, column, value, standard_error.
        summed: The columns whose sources give sums over the pairs.
        origins: Column -> by which weights, and of how many images, its numbers are.
    """

    numbers: pd.DataFrame
    summed: frozenset[str] = frozenset()
    origins: Mapping[str, frozenset[str]] = field(default_factory=dict)


def check_whole(folder: Path) -> None:
    """Compares what a comparison reads of a finished run with the checksums that the run left; older ones have none.

    Raises:
        UserError: when a file is lost, or not as the run left it: a flipped bit may make another number of one.
    """
    known = read_json(folder, FILES)
    if RESULTS not in known or not (folder / SUMMARY).exists():  # not a run with a table, or one that is done again
        return
    for name in (CONFIG, RESULTS, METRICS, SUMMARY, "environment.json"):
        file = inside(folder, name)
        if not file.is_file() and (name in known or name == CONFIG):
            raise UserError(f"'{file}' is lost from a finished run: {ADVICE}.")
        if name in known and file_hash(file) != known[name]:
            raise UserError(
                f"'{file}' is not as its run left it (its checksum in {FILES} is another): {ADVICE}; if it was changed "
                f"on purpose, delete that {FILES}."
            )


def read_config(folder: Path) -> dict[str, Any]:
    """A run's configuration as plain values; what an interpolation such as `${oc.env:HOME}` names is not looked up.

    Raises:
        UserError: when it cannot be read.
    """
    file = inside(folder, CONFIG)
    try:
        found = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except (YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{file}' cannot be read ({_short(error)}): {ADVICE}.") from error
    if not found or not isinstance(found, dict):
        raise UserError(f"'{file}' is no configuration of a run: {ADVICE}.")
    return {str(key): value for key, value in found.items()}


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A file of JSON with a mapping; empty where there is none.

    Raises:
        UserError: when it cannot be read.
    """
    file = inside(folder, name)
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{file}' cannot be read ({_short(error)}): {ADVICE}.") from error
    if not isinstance(found, dict):
        raise UserError(f"'{file}' cannot be read (it holds no mapping): {ADVICE}.")
    return found


def read_table(folder: Path) -> pd.DataFrame:
    """A run's `results.csv`: words as they are, numbers as numbers, NaN for what is empty.

    Raises:
        UserError: when it is no table of a run, a line is cut off, or a cell among numbers is none.
    """
    file = inside(folder, RESULTS)
    rows: list[list[str]] = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines, strict=True)
            header = [unguarded(name) for name in next(reader, [])]
            _check_header(header, file)
            for row in reader:
                if row and len(row) != len(header):
                    raise UserError(
                        f"'{file}', line {reader.line_num}, has {len(row)} cells under {len(header)} headings, as one "
                        f"that is cut off: {ADVICE}."
                    )
                rows += [row] if row else []
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise UserError(f"'{file}' cannot be read ({_short(error)}): {ADVICE}.") from error
    table = pd.DataFrame(rows, columns=header, dtype=object)
    return pd.DataFrame({name: _column(table[name], file) for name in header})


def read_measured(folder: Path) -> MetricsFile:
    """A run's `metrics.json`; nothing where there is none.

    Raises:
        UserError: when it cannot be read.
    """
    records = read_json(folder, METRICS).get("records", [])
    try:
        lines = [{name: record[name] for name in MEASURED} for record in records]
        numbers = pd.DataFrame(lines, columns=list(MEASURED))
        numbers = numbers.astype({"method": str, "column": str, "value": float, "standard_error": float})
        origins: dict[str, frozenset[str]] = {}
        for record in records:
            known = {"weights": record.get("weights") or {}, "counts": _images(record)}
            name = str(record["column"])
            origins[name] = origins.get(name, frozenset()) | {json.dumps(known, sort_keys=True)}
        summed = frozenset(str(record["column"]) for record in records if record.get("over_pairs") == "sum")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        file = folder / METRICS
        raise UserError(f"'{file}' cannot be read ({error!r}): {ADVICE}.") from error
    return MetricsFile(numbers=numbers, summed=summed, origins=origins)


def _images(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of how many images a number is, where it is no mean over pairs: those are counted by the table itself."""
    counts = record.get("counts") or {}
    return {} if "pairs" in counts else {str(what): int(count) for what, count in counts.items()}


def _check_header(header: list[str], file: Path) -> None:
    missing = sorted({"pair", "method", "status"} - set(header))
    if missing:
        raise UserError(f"'{file}' has no column {', '.join(missing)}: it is not a run's table.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"'{file}' has the column {', '.join(twice)} twice: {ADVICE}.")


def _column(cells: "pd.Series[Any]", file: Path) -> "pd.Series[Any]":
    """A column as numbers, or as words where it holds words."""
    name = str(cells.name)
    if name in DESCRIPTIVE:
        return cells.map(unguarded)
    lowered = cells.str.strip().str.lower()
    filled = ~lowered.isin(NONE)
    numbers = pd.to_numeric(lowered.replace(TRUTHS).where(filled), errors="coerce")
    unread = filled & numbers.isna()
    if not unread.any():
        return numbers.astype(float)
    if name not in NUMBERS and unread.sum() > (filled & ~unread).sum():
        return cells.map(unguarded)
    place = int(unread.to_numpy().argmax())
    raise UserError(
        f"'{file}', line {place + 2}, has '{cells.iloc[place]}' in the column {name}, which is no number: {ADVICE}."
    )


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
