"""Runs of different data sets in one comparison: pairs of one name are told apart, so that they are not compared."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from latent_geodesics.run.compare.runs import RunRecord

__all__ = ["told_apart"]

CHOOSING = frozenset({"split", "every", "limit", "batch_size", "shard", "verify", "seed", "prompts"})
"""Options that take some pairs of a data set, or say how they are read."""
TAIL = 2


def told_apart(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs; where they are of different data sets, each pair's name says of which.

    A data set is what the options `data.*` name, of paths the last two parts: on another machine it may lie elsewhere.
    """
    sets = [_data_set(run.settings) for run in runs]
    known = list(dict.fromkeys(sets))
    names = dict(zip(known, _short(known), strict=True))
    if len(known) < 2:
        return list(runs)
    told = "; ".join(names.values())
    remark = f"The runs are of different data sets ({told}): pairs of one name are different pairs, and not compared."
    return [
        replace(
            run,
            table=run.table.assign(pair=[f"{names[of]}: {pair}" for pair in run.table["pair"]]),
            remarks=(*run.remarks, remark),
        )
        for run, of in zip(runs, sets, strict=True)
    ]


def _data_set(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What tells a run's data set: option -> value, without those that are not set."""
    own = {name: value for name, value in settings.items() if name.startswith("data.") and value is not None}
    if own.get("data.image_a") is not None or own.get("data.keys") is not None:
        own.pop("data.manifest", None)  # which they take the place of
    return tuple(
        (name.removeprefix("data."), _tail(value))
        for name, value in sorted(own.items())
        if name.split(".")[1] not in CHOOSING and not name.startswith("data.prompt_")
    )


def _tail(value: Any) -> str:
    """A value as text, of a path what does not change with the machine."""
    return "/".join(Path(value).parts[-TAIL:]) if isinstance(value, str) else repr(value)


def _short(sets: Sequence[tuple[tuple[str, str], ...]]) -> list[str]:
    """Each data set by those options alone in which they differ."""
    shared = set.intersection(*map(set, sets)) if sets else set()
    return [
        ", ".join(f"{name}={value}" for name, value in one if (name, value) not in shared) or "other" for one in sets
    ]
