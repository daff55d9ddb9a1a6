"""Run folders as data: what each was asked for and what it found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from latent_geodesics.errors import UserError

__all__ = ["RunRecord", "find_runs", "varied_settings"]

CONFIG, RESULTS = "config.yaml", "results.csv"
# What differs between any two runs and says nothing of what they computed.
INCIDENTAL = ("output_dir", "logger", "expected", "trainer")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One finished run.

    Attributes:
        folder: Where it lies.
        settings: Its configuration, flat: `data.limit` -> value.
        table: Its `results.csv`, a row for each pair and method.
    """

    folder: Path
    settings: Mapping[str, Any]
    table: pd.DataFrame


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
    """The settings in which the runs differ, in the order of the configuration, without those that are incidental.

    A setting that another one implies, because the configuration hands it on, is named once, by its shortest key.
    """
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    keys = [key for key in keys if not key.startswith(INCIDENTAL)]
    varied: dict[tuple[str, ...], str] = {}
    for key in keys:
        values = tuple(repr(run.settings.get(key)) for run in runs)
        if len(set(values)) > 1:
            # Two settings that vary together, such as `alpha` and `task.alpha`, tell the same story.
            pattern = tuple(str(values.index(value)) for value in values)
            varied[pattern] = min(varied.get(pattern, key), key, key=lambda name: (name.count("."), len(name)))
    return list(varied.values())


def _read(folder: Path) -> RunRecord:
    try:
        settings = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
        table = pd.read_csv(folder / RESULTS, dtype={"pair": str, "method": str, "status": str})
    except (YAMLError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"The run '{folder}' cannot be read ({error}): leave it out or run it again.") from error
    missing = {"pair", "method", "status"} - set(table.columns)
    if missing:
        raise UserError(f"'{folder / RESULTS}' has no column {', '.join(sorted(missing))}: it is not a run's table.")
    return RunRecord(folder=folder, settings=_flat(settings), table=table)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; a list is a value."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
