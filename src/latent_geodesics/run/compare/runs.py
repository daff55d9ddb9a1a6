"""Run folders as data: what each was asked for, what it found, and what a reader must know before ranking them."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.data.file_order import in_natural_order
from latent_geodesics.run.compare.run_files import (
    CONFIG,
    FILES,
    RESULTS,
    check_whole,
    read_config,
    read_json,
    read_measured,
    read_table,
)
from latent_geodesics.run.compare.settings import SEQUENCES, TASK, goes_with_images, setting_title, value_words
from latent_geodesics.run.config import flat_settings
from latent_geodesics.run.results import DESCRIPTIVE, column_title

SEED, HASH = "seed", "sha256 of "
TWO_IMAGES = "two images"
"""What people read of the data of a run of image_a and image_b."""
# What differs between any two runs and says nothing of what they computed.
INCIDENTAL = ("output_dir", "logger", "expected", "trainer", "in_force")
ASIDE = ("cache_dir", "cache_limit_mb", "verify")
TRACES = ("environment.json", "metrics.json", "batches")
"""What a run leaves before it ends; a table that is there without them and without a summary is not known to be cut."""

FIRST = (TASK, SEQUENCES)
"""What is named before others that differ with it."""
COMPUTED = ("trainer.precision",)
PLURALS = {"": "", "s": "", "ies": "y"}

SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run.

    Attributes:
        folder: Where it lies.
        settings: Its configuration, flat: `data.limit` -> value, `solver` -> the option chosen of that group.
        table: Its `results.csv`, a row for each pair and method.
        measured: Its numbers that are no means over pairs, such as FID: method, column, value, standard_error.
        summed: The columns of the table whose sources give sums over the pairs.
        finished: Whether it ended as it should: it then has a summary.
        pairs: How many pairs its summary counts; None where it counts none.
        origins: Column -> by which weights, and of how many images, its numbers are.
        environment: Its commit and the hashes of its weights, where they are known.
        remarks: What else a reader must know of it.
    """

    folder: Path
    settings: Mapping[str, Any]
    table: pd.DataFrame
    measured: pd.DataFrame
    summed: frozenset[str] = frozenset()
    finished: bool = True
    pairs: int | None = None
    origins: Mapping[str, frozenset[str]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    def value(self, name: str) -> Any:
        """What the run has for something that varies: a setting, or the hash of some weights."""
        return self.environment.get(name) if name.startswith(HASH) else self.settings.get(name)


def find_runs(folders: Iterable[str | Path]) -> list[RunRecord]:
    """Every run in the given folders: each a run's folder, or one that holds such folders at any depth.

    A folder that is named twice, by whatever path, counts once.

    Raises:
        UserError: where a folder does not exist or holds no run, or a run cannot be read or is damaged.
    """
    records: dict[Path, RunRecord] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"The folder '{folder}' does not exist: name folders of runs, such as runs/interpolation.")
        for file in sorted(folder.rglob(FILES)):
            check_whole(file.parent)
        found = in_natural_order(file.parent for file in folder.rglob(RESULTS) if (file.parent / CONFIG).is_file())
        if not found:
            raise UserError(f"The folder '{folder}' holds no run: one has both {CONFIG} and {RESULTS}.")
        for run in found:
            if run.resolve() not in records:
                records[run.resolve()] = read_run(run)
        first = found[0].resolve()
        remarks = _without_table(folder, {str(records[run.resolve()].settings.get("task")) for run in found})
        records[first] = replace(records[first], remarks=[*records[first].remarks, *remarks])
    return list(records.values())


def _without_table(folder: Path, tasks: Collection[str]) -> list[str]:
    """What to say of the runs of these tasks that left no table, such as ones that failed at once."""
    left_out = []
    for file in sorted(folder.rglob(CONFIG)):
        if (file.parent / RESULTS).exists() or "wandb" in file.relative_to(folder).parts:
            continue
        choices = read_config(file.parent).get("choices")
        if isinstance(choices, dict) and choices.get("task") in tasks:
            left_out.append(f"The run '{file.parent}' left no {RESULTS} and is not in the tables.")
    return left_out


def read_run(folder: Path) -> RunRecord:
    """The run of a folder.

    Raises:
        UserError: when a file of it cannot be read.
    """
    settings, table, measured = read_config(folder), read_table(folder), read_measured(folder)
    summary, environment = read_json(folder, "summary.json"), read_json(folder, "environment.json")
    chosen, weights, pairs = settings.pop("choices", None), environment.get("weights"), summary.get("pairs")
    hashes = weights.items() if isinstance(weights, dict) else ()
    flat = flat_settings(settings)
    if isinstance(chosen, dict) and flat.get("data.image_a") is not None:
        chosen = chosen | {"data": TWO_IMAGES}  # they take the place of the chosen data set
    known = {f"{HASH}{name}": str(value)[:12] for name, value in hashes}
    if environment.get("commit"):
        known["commit"] = str(environment["commit"])[:12]
    return RunRecord(
        folder=folder,
        settings=(dict(chosen) if isinstance(chosen, dict) else {}) | _of_one_meaning(flat),
        table=table,
        measured=measured.numbers[~measured.numbers["column"].isin(table.columns)],
        summed=measured.summed,
        finished=bool(summary) or not any((folder / trace).exists() for trace in TRACES),
        pairs=int(pairs) if isinstance(pairs, int | float) and pairs == pairs and abs(pairs) < 2**53 else None,
        origins=measured.origins,
        environment=known,
    )


def _of_one_meaning(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with the place that task=score calls `frames` under a name of its own."""
    return {SEQUENCES if key == "frames" and isinstance(value, str) else key: value for key, value in settings.items()}


def incidental(key: str) -> bool:
    """Whether a setting says nothing of what was computed."""
    parts = key.split(".")
    return key not in COMPUTED and (
        parts[0] in INCIDENTAL or parts[-1] in ASIDE or "weights" in parts[:-1]  # whose hashes count, not their place
    )


def varied_settings(runs: Sequence[RunRecord]) -> list[str]:
    """The settings in which the runs differ, without those that are incidental or follow from another one.

    A setting follows from another when equal values of that one always come with equal values of it, as `task.alpha`
    does from `alpha`, or a solver's options from the choice of the solver. Of two that follow from each other the task
    is kept, or the place of the scored sequences, else the one with the shorter name. Nothing follows from the seed,
    over which runs are averaged, but its copies.
    """
    return _split(runs)[0]


def bound_settings(runs: Sequence[RunRecord]) -> Mapping[str, Sequence[str]]:
    """A varied setting -> those of other meaning that follow from it, so that nothing can be put down to it alone.

    Copies, such as `task.alpha`, and the options of a group that was chosen are not among them.
    """
    kept, values = _split(runs)
    told = [values[key] for key in kept]
    found: dict[str, list[str]] = {}
    for key in values:
        if key in kept or values[key] in told or _is_option(key, values):
            continue
        told.append(values[key])
        found.setdefault(next(one for one in kept if one != SEED and _follows(values[key], values[one])), []).append(
            key
        )
    return found


def _split(runs: Sequence[RunRecord]) -> tuple[list[str], dict[str, list[str]]]:
    """The settings that are kept, and the values of all that vary, in which runs are compared by what is shown."""
    keys = [key for key in dict.fromkeys(key for run in runs for key in run.settings) if not incidental(key)]
    keys += _known_hashes(runs)
    values = {key: [shown_value(run, run.value(key)) for run in runs] for key in keys}
    seeds = values.get(SEED)
    values = {
        key: found
        for key, found in values.items()
        if len(set(found)) > 1 and (key == SEED or found != seeds or not key.endswith(SEED))
    }
    kept: list[str] = []
    for key in sorted(values, key=lambda key: (-len(set(values[key])), key.count("."), key not in FIRST, len(key))):
        if key == SEED or not any(_follows(values[key], values[other]) for other in kept if other != SEED):
            kept.append(key)
    return [key for key in values if key in kept], values


def shown_value(run: RunRecord, value: Any) -> str:
    """A setting's value as what it is compared by: equal numbers are equal, and the run's own folder does not count."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value)) if abs(value) < 2**53 else repr(value)
    own = run.settings.get("output_dir")
    return repr(value).replace(own, "") if isinstance(own, str) and len(own) > 1 else repr(value)


def value_words_of(runs: Sequence[RunRecord], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """What people read of the runs' values of some settings: setting -> `shown_value` -> words."""
    found = {name: {shown_value(run, run.value(name)): run.value(name) for run in runs} for name in names}
    return {name: value_words(name, values) for name, values in found.items()}


def _known_hashes(runs: Sequence[RunRecord]) -> list[str]:
    """The hashes of weights that are known of all runs: one path may hold other weights another day."""
    named = dict.fromkeys(name for run in runs for name in run.environment if name.startswith(HASH))
    return [name for name in named if all(name in run.environment for run in runs)]


def _is_option(key: str, values: Mapping[str, Any]) -> bool:
    """Whether a setting is an option of a group, such as `task.solver.memory`, whose choice varies, or its weights."""
    if key.startswith(HASH):
        of = {"model"} if key == f"{HASH}model" else {"metrics", "protocol"}
        return any(not of.isdisjoint(name.split(".")) for name in values)
    parts = key.split(".")[:-1]
    singular = {part.removesuffix(end) + rest for part in parts for end, rest in PLURALS.items() if part.endswith(end)}
    return not singular.isdisjoint(name for name in values if "." not in name)


def _follows(values: Sequence[str], other: Sequence[str]) -> bool:
    """Whether each of the other's values comes with one of these alone."""
    return len(set(zip(other, values, strict=True))) == len(set(other))


def notes_on(runs: Sequence[RunRecord], columns: Sequence[str]) -> list[str]:
    """A sentence for each thing that a table of these runs and columns does not show by itself."""
    varied = [name for name in varied_settings(runs) if name != SEED]
    return [
        *_unfinished(runs),
        *dict.fromkeys(remark for run in runs for remark in run.remarks),
        *_several_rows(runs),
        *_same_runs(runs, varied),
        *_seeds(runs, varied),
        *_bound(runs),
        *_origins(runs, columns),
        *_commits(runs),
    ]


def _unfinished(runs: Sequence[RunRecord]) -> list[str]:
    """The runs that are not whole."""
    pairs = {run.folder: run.table["pair"].nunique() for run in runs}
    most = max(pairs.values(), default=0)
    found = []
    for run in runs:
        held = pairs[run.folder]
        if run.finished and (run.pairs is None or held >= run.pairs):
            continue
        whole = run.pairs if run.pairs is not None and run.pairs > held else most
        of = f"{held} of {counted(whole, 'pair')}" if held < whole else counted(held, "pair")
        if not run.finished:
            found.append(
                f"The run '{run.folder}' is not finished (it was interrupted, or something in it failed): its rows are "
                f"over {of}."
            )
        else:
            found.append(f"Rows of the run '{run.folder}' are missing: its table holds {of}.")
    return found


def _several_rows(runs: Sequence[RunRecord]) -> list[str]:
    """Runs in which a pair and method have several rows, which are averaged."""
    found = []
    for run in runs:
        twice = run.table[run.table.duplicated(["pair", "method"], keep=False)]
        if len(twice):
            words = [str(name) for name in twice.select_dtypes(exclude="number") if name not in DESCRIPTIVE]
            apart = [name for name in words if (twice.groupby(["pair", "method"])[name].nunique() > 1).any()]
            by = f", which differ in {_listed(apart)}," if apart else ""
            found.append(
                f"The run '{run.folder}' has several rows for a pair and method{by} of which the mean is taken."
            )
    return found


def _same_runs(runs: Sequence[RunRecord], varied: Sequence[str]) -> list[str]:
    """Runs of the same settings and seed, which count as repeats."""
    same = _grouped(runs, [*varied, SEED])
    return [
        f"The runs {_listed([repr(str(run.folder)) for run in group])} have the same settings and the same seed: they "
        "are averaged pair by pair, as repeats of one run."
        for group in same
        if len(group) > 1
    ]


def _seeds(runs: Sequence[RunRecord], varied: Sequence[str]) -> list[str]:
    """Settings under which the seeds have different pairs, so that some means are over fewer seeds."""
    uneven = [group for group in _grouped(runs, varied) if len({frozenset(run.table["pair"]) for run in group}) > 1]
    if not uneven:
        return []
    return ["Runs that differ in their seed alone have different pairs: some pairs are means over fewer seeds."]


def _of_a_method_of_some(key: str, runs: Sequence[RunRecord]) -> bool:
    """Whether a setting is an option of a method that not all runs have: rows of one method alone are compared."""
    method = re.match(r"(?:.*\.)?methods\.[^.]+\.", key)
    return method is not None and not all(any(name.startswith(method[0]) for name in run.settings) for run in runs)


def _bound(runs: Sequence[RunRecord]) -> list[str]:
    """Settings that vary together, but for those that go with the images."""
    found = []
    for key, bound in bound_settings(runs).items():
        if TASK in (key, *bound):
            tasks = dict.fromkeys(str(run.settings.get(TASK)) for run in runs)
            found.append(
                f"The runs are of different tasks ({', '.join(tasks)}), which have other settings: no difference "
                "between their rows can be put down to one setting."
            )
            continue
        others = [
            setting_title(name)
            for name in bound
            if not (goes_with_images(key) and goes_with_images(name)) and not _of_a_method_of_some(name, runs)
        ]
        if others:
            name = setting_title(key)
            found.append(
                f"Where {name} differs, {_listed(others)} {'differs' if len(others) == 1 else 'differ'} as well: no "
                f"difference between the rows can be put down to {name} alone."
            )
    return found


def _origins(runs: Sequence[RunRecord], columns: Sequence[str]) -> list[str]:
    """Columns whose numbers are made of different things."""
    apart = []
    for column in columns:
        known = {one for run in runs for one in run.origins.get(column, ())}
        if len(known) > 1:
            apart.append(column)
    if not apart:
        return []
    named = _listed(list(map(column_title, apart)), joint="; ")
    return [
        f"The numbers of {named} are by different weights or of different numbers of images (see metrics.json of the "
        "runs): they do not compare."
    ]


def _commits(runs: Sequence[RunRecord]) -> list[str]:
    """Whether the runs are of different states of the program."""
    commits = dict.fromkeys(run.environment["commit"] for run in runs if "commit" in run.environment)
    return [f"The runs are of different commits of the program: {_listed(list(commits))}."] if len(commits) > 1 else []


def _grouped(runs: Sequence[RunRecord], names: Sequence[str]) -> Iterable[list[RunRecord]]:
    """The runs with the same values of some settings."""
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(tuple(shown_value(run, run.value(name)) for name in names), []).append(run)
    return groups.values()


def _listed(names: Sequence[str] | Mapping[str, object], *, joint: str = ", ") -> str:
    """Some names, and how many more there are."""
    shown = list(names)[:SHOWN]
    more = len(names) - len(shown)
    return joint.join(shown) + (f" and {more} more" if more else "")
