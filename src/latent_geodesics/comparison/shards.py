"""Runs that did a share each of the same pairs (`data.shard=i/n`), put together as the one run that they are.

Rows are rows. A number that is no mean over pairs, such as a Fréchet distance, is computed anew from the states that
every batch left in its run's folder, by the metrics that the runs' configuration names.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from hydra.utils import instantiate
from omegaconf import OmegaConf

from latent_geodesics.batch_store import read_batches
from latent_geodesics.comparison.runs import CONFIG, INCIDENTAL, MEASURED, RunRecord
from latent_geodesics.data import read_shard
from latent_geodesics.errors import UserError
from latent_geodesics.metrics import MetricPanel

__all__ = ["join_shards"]

log = logging.getLogger(__name__)

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
        name: value
        for name, value in run.settings.items()
        if name not in SHARD and name.partition(".")[0] not in INCIDENTAL
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
    missing = [str(number) for number in range(1, counts.pop() + 1) if number not in shards]
    if missing:
        log.warning("Shards are missing (%s): the tables hold the pairs of the others.", ", ".join(missing))
    ordered = [shards[number] for number in sorted(shards)]
    return RunRecord(
        folder=ordered[0].folder,
        settings={name: value for name, value in ordered[0].settings.items() if name not in SHARD},
        table=pd.concat([run.table for run in ordered], ignore_index=True),
        measured=_measured(ordered),
        summed=ordered[0].summed,
    )


def _measured(runs: Sequence[RunRecord]) -> pd.DataFrame:
    """The numbers of all shards together that are no means over pairs."""
    wanted = list(dict.fromkeys(column for run in runs for column in run.measured["column"]))
    if not wanted:
        return runs[0].measured
    config = OmegaConf.load(runs[0].folder / CONFIG)
    metrics = instantiate(OmegaConf.select(config, "metrics"), _convert_="all")
    panels: dict[str, MetricPanel] = {}
    for run in runs:
        for content in read_batches(run.folder):
            states: Mapping[str, Any] = content["states"]
            for method, of_method in states.items():
                panels.setdefault(method, MetricPanel(method=method, metrics=metrics)).add(of_method)
    lines = [line for panel in panels.values() for line in panel.numbers() if line["column"] in wanted]
    return pd.DataFrame(lines, columns=list(MEASURED))
