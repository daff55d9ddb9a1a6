"""What a reader must know before ranking the rows of a comparison: runs that are not whole, and what differs unseen."""

from collections.abc import Iterable, Mapping, Sequence

from latent_geodesics.run.compare.runs import SEED, RunRecord, bound_settings, shown_value, varied_settings
from latent_geodesics.run.results import DESCRIPTIVE

SHOWN = 6


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
        counted = run.pairs if run.pairs is not None and run.pairs > held else most
        of = f"{held} of {counted} pairs" if held < counted else f"{held} pairs"
        if not run.finished:
            found.append(
                f"The run '{run.folder}' is not finished (it was interrupted, or something in it failed): its rows are "
                f"over {of}."
            )
        elif run.pairs is not None and held < run.pairs:
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


def _bound(runs: Sequence[RunRecord]) -> list[str]:
    """Settings that vary together."""
    return [
        f"Where {key} differs, {_listed(others)} {'differs' if len(others) == 1 else 'differ'} as well: no difference "
        f"between the rows can be put down to {key} alone."
        for key, others in bound_settings(runs).items()
    ]


def _origins(runs: Sequence[RunRecord], columns: Sequence[str]) -> list[str]:
    """Columns whose numbers are made of different things."""
    apart = []
    for column in columns:
        known = {one for run in runs for one in run.origins.get(column, ())}
        if len(known) > 1:
            apart.append(column)
    if not apart:
        return []
    return [
        f"The numbers of {_listed(apart)} are by different weights or of different numbers of images (see metrics.json "
        "of the runs): they do not compare."
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


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    """Some names, and how many more there are."""
    shown = list(names)[:SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
