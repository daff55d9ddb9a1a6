"""Run folders as data: what each was asked for and what it found."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from latent_geodesics.config import flat_settings
from latent_geodesics.errors import UserError

__all__ = ["RunRecord", "find_runs", "varied_settings"]

CONFIG, RESULTS, METRICS = "config.yaml", "results.csv", "metrics.json"
MEASURED = ("method", "column", "value", "standard_error")
# What differs between any two runs and says nothing of what they computed.
INCIDENTAL = ("output_dir", "logger", "expected", "trainer")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One finished run.

    Attributes:
        folder: Where it lies.
        settings: Its configuration, flat: `data.limit` -> value, `solver` -> the option chosen of that group.
        table: Its `results.csv`, a row for each pair and method.
        measured: Its numbers that are no means over pairs, such as FID: method, column, value, standard_error.
        summed: The columns of the table whose sources give sums over the pairs.
    """

    folder: Path
    settings: Mapping[str, Any]
    table: pd.DataFrame
    measured: pd.DataFrame
    summed: frozenset[str] = frozenset()


def find_runs(folders: Iterable[str | Path]) -> list[RunRecord]:
    """Every run in the given folders: each a run's folder, or one that holds such folders at any depth.

    Raises:
        UserError: where a folder does not exist or holds no run, or a run cannot be read.
    """
    records: dict[Path, RunRecord] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"The folder '{folder}' does not exist: name folders of runs, such as runs/interpolation.")
        found = sorted(file.parent for file in folder.rglob(RESULTS) if (file.parent / CONFIG).is_file())
        if not found:
            raise UserError(f"The folder '{folder}' holds no run: one has both {CONFIG} and {RESULTS}.")
        records |= {run: _read(run) for run in found}
    return list(records.values())


def varied_settings(runs: Sequence[RunRecord]) -> list[str]:
    """The settings in which the runs differ, without those that are incidental or follow from another one.

    A setting follows from another when equal values of that one always come with equal values of it, as `task.alpha`
    does from `alpha`, or a solver's options from the choice of the solver. Of two that follow from each other the one
    with the shorter name is kept.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings if not key.startswith(INCIDENTAL))
    values = {key: [repr(run.settings.get(key)) for run in runs] for key in keys}
    order = sorted(
        (key for key in keys if len(set(values[key])) > 1),
        key=lambda key: (-len(set(values[key])), key.count("."), len(key)),
    )
    kept: list[str] = []
    for key in order:
        if not any(_follows(values[key], values[other]) for other in kept):
            kept.append(key)
    return [key for key in keys if key in kept]


def _follows(values: Sequence[str], other: Sequence[str]) -> bool:
    """Whether each of the other's values comes with one of these alone."""
    return len(set(zip(other, values, strict=True))) == len(set(other))


def _read(folder: Path) -> RunRecord:
    try:
        settings = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
        table = pd.read_csv(folder / RESULTS, dtype={"pair": str, "method": str, "status": str})
    except (YAMLError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"The run '{folder}' cannot be read ({error}): leave it out or run it again.") from error
    missing = {"pair", "method", "status"} - set(table.columns)
    if missing:
        raise UserError(f"'{folder / RESULTS}' has no column {', '.join(sorted(missing))}: it is not a run's table.")
    assert isinstance(settings, dict)
    chosen = dict(settings.pop("choices", {}))
    measured, summed = _measured(folder)
    return RunRecord(
        folder=folder,
        settings=chosen | flat_settings(settings),
        table=table,
        measured=measured[~measured["column"].isin(table.columns)],
        summed=summed,
    )


def _measured(folder: Path) -> tuple[pd.DataFrame, frozenset[str]]:
    """All numbers of `metrics.json`, and the columns that are sums over the pairs."""
    file = folder / METRICS
    try:
        records = json.loads(file.read_text(encoding="utf-8"))["records"] if file.is_file() else []
        lines = [{name: record[name] for name in MEASURED} for record in records]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{file}' cannot be read ({error!r}): leave the run out or run it again.") from error
    found = pd.DataFrame(lines, columns=list(MEASURED)).astype({"value": float, "standard_error": float})
    return found, frozenset(record["column"] for record in records if record.get("over_pairs") == "sum")
