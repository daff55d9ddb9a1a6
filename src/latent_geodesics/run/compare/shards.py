"""Runs that did a share each of the same pairs (`data.shard=i/n`), put together as the one run that they are.

Rows are rows. A number that is no mean over pairs, such as a Fréchet distance, is computed anew from the states that
every batch left in its run's folder.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import read_shard
from latent_geodesics.metrics import MetricPanel, MorphMetric
from latent_geodesics.run.compare.run_files import MEASURED, read_config
from latent_geodesics.run.compare.runs import RunRecord, incidental, shown_value
from latent_geodesics.run.compare.shard_metrics import set_metrics
from latent_geodesics.run.each import FOLDER, read_batches
from latent_geodesics.run.files import inside

SHARD = ("data.shard", "task.data.shard")


def join_shards(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs, with shards of one run replaced by that run; its folder is the first shard's.

    Raises:
        UserError: when one share of a run is there twice.
    """
    families: dict[str, list[RunRecord]] = {}
    for run in runs:
        # A run that is whole is a family of its own.
        key = repr(_common(run)) if _is_shard(run) else str(run.folder)
        families.setdefault(key, []).append(run)
    return [_joined(family) if _is_shard(family[0]) else family[0] for family in families.values()]


def _is_shard(run: RunRecord) -> bool:
    return run.settings.get(SHARD[0]) is not None


def _common(run: RunRecord) -> dict[str, Any]:
    return {
        name: shown_value(run, value)
        for name, value in sorted(run.settings.items())
        if name not in SHARD and not incidental(name)
    }


def _joined(family: Sequence[RunRecord]) -> RunRecord:
    shards: dict[int, RunRecord] = {}
    counts = set()
    for run in family:
        number, count = read_shard(str(run.settings[SHARD[0]]))
        counts.add(count)
        if number in shards:
            raise UserError(
                f"The shard {number}/{count} is there twice, in '{shards[number].folder}' and '{run.folder}': leave "
                "one out."
            )
        shards[number] = run
    if len(counts) > 1:
        raise UserError(f"The runs are shards of different cuts ({sorted(counts)}): compare those of one cut.")
    count, ordered = counts.pop(), [shards[number] for number in sorted(shards)]
    measured, lost = _measured(ordered)
    remarks = [remark for run in ordered for remark in run.remarks]
    if len(ordered) < count:
        lacking = count - len(ordered)
        verb = "is" if lacking == 1 else "are"
        remarks.append(f"Of the {count} shards of '{ordered[0].folder}' {lacking} {verb} missing.")
    if lost:
        remarks.append(f"What makes {', '.join(lost)} is not of this project, so that shards give no such number.")
    counted = [run.pairs for run in ordered]
    return replace(
        ordered[0],
        settings={name: value for name, value in ordered[0].settings.items() if name not in SHARD},
        table=pd.concat([run.table for run in ordered], ignore_index=True),
        measured=measured,
        finished=all(run.finished for run in ordered),
        pairs=None if None in counted else sum(pairs for pairs in counted if pairs is not None),
        origins=_origins(ordered),
        environment=_shared([run.environment for run in ordered], remarks, ordered[0]),
        remarks=remarks,
    )


def _origins(runs: Sequence[RunRecord]) -> dict[str, frozenset[str]]:
    """What the numbers of all shards are made of: the same weights, and as many images as all have together."""
    found: dict[str, frozenset[str]] = {}
    for name in dict.fromkeys(name for run in runs for name in run.origins):
        by_weights: dict[str, dict[str, int]] = {}
        for origin in (json.loads(one) for run in runs for one in sorted(run.origins.get(name, ()))[:1]):
            counts = by_weights.setdefault(json.dumps(origin["weights"]), {})
            for what, count in origin["counts"].items():
                counts[what] = count if what == "dimensions" else counts.get(what, 0) + count
        found[name] = frozenset(
            json.dumps({"weights": json.loads(weights), "counts": counts}, sort_keys=True)
            for weights, counts in by_weights.items()
        )
    return found


def _shared(environments: Sequence[Mapping[str, str]], remarks: list[str], first: RunRecord) -> dict[str, str]:
    """What the shards have in common of commit and weights; what they have not is remarked upon."""
    names = dict.fromkeys(name for one in environments for name in one)
    found = {name: {one[name] for one in environments if name in one} for name in names}
    apart = [name for name, values in found.items() if len(values) > 1]
    if apart:
        remarks.append(f"The shards of '{first.folder}' differ in {', '.join(apart)}.")
    return {name: min(values) for name, values in found.items() if len(values) == 1}


def _measured(runs: Sequence[RunRecord]) -> tuple[pd.DataFrame, list[str]]:
    """The numbers of all shards together that are no means over pairs, and the columns that cannot be had so.

    Raises:
        UserError: when the batches of a shard cannot be read, or hold no states that fit.
    """
    wanted = list(dict.fromkeys(column for run in runs for column in run.measured["column"]))
    if not wanted:
        return runs[0].measured, []
    metrics = set_metrics(read_config(runs[0].folder).get("metrics"))
    panels: dict[str, MetricPanel] = {}
    for run in runs:
        for file in (run.folder / FOLDER).glob("*"):
            inside(run.folder, file.relative_to(run.folder))
        for content in read_batches(run.folder):
            _add(panels, metrics, content, run)
    lines = [line for panel in panels.values() for line in panel.numbers() if line["column"] in wanted]
    made = {line["column"] for line in lines}
    return pd.DataFrame(lines, columns=list(MEASURED)), [column for column in wanted if column not in made]


def _add(
    panels: dict[str, MetricPanel], metrics: Mapping[str, MorphMetric], content: Mapping[str, Any], run: RunRecord
) -> None:
    """Takes a batch's states into the panels of their methods."""
    try:
        for method, states in content["kept"]["states"].items():
            panels.setdefault(method, MetricPanel(method=method, metrics=metrics)).add(states)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"The batches of '{run.folder}' do not hold what its metrics need ({error!r}): leave the run out, or do it "
            "again."
        ) from error
