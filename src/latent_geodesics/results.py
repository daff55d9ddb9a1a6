"""What a run finds, as records: a batch from the test loop, and a row for every pair and method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.methods import EncodedPairs, Morph
from latent_geodesics.metrics import PathCurves, known_columns

__all__ = ["BatchResult", "MethodResult", "summarise", "wins"]

DESCRIPTIVE = ("pair", "group", "method", "status")
LOWER_IS_BETTER = (*(name for name, column in known_columns().items() if column.better == "lower"), "seconds")
HIGHER_IS_BETTER = tuple(name for name, column in known_columns().items() if column.better == "higher")


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """What one method made of a batch of pairs, and how it measured."""

    method: str
    morph: Morph
    curves: PathCurves | None
    scores: Mapping[str, Float[Tensor, " p"]]

    def row(self, index: int, *, pair: str, group: str) -> dict[str, Any]:
        """The line of `results.csv` for one pair of the batch."""
        numbers = {name: float(values[index]) for name, values in self.scores.items()}
        return {
            "pair": pair,
            "group": group,
            "method": self.method,
            "status": self.morph.statuses[index],
            "seconds": self.morph.seconds,
            "evaluations": int(self.morph.evaluations[index]),
            "unet_calls": self.morph.unet_calls,
            "peak_memory_mb": self.morph.peak_memory_mb,
        } | numbers


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """What all methods made of a batch of pairs; `u` are the positions of the frames."""

    pairs: EncodedPairs
    u: Float[Tensor, " n"]
    methods: tuple[MethodResult, ...]


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Means over the pairs as a flat mapping `<method>/<column>` -> number, and how often the geodesic wins."""
    numbers = [column for column in table.columns if column not in DESCRIPTIVE]
    summary: dict[str, float] = {"pairs": float(table["pair"].nunique())}
    for method, rows in table.groupby("method", sort=False):
        for column in numbers:
            values = rows[column].to_numpy(dtype=float)
            if np.isfinite(values).any():
                summary[f"{method}/{column}"] = float(np.nanmean(values))
    return summary | wins(table, methods=("geodesic", "geodesic_paper"), against="slerp")


def wins(table: pd.DataFrame, *, methods: Sequence[str], against: str) -> dict[str, float]:
    """The share of pairs on which a method is strictly better than another, column by column."""
    shares: dict[str, float] = {}
    other = table[table["method"] == against].set_index("pair")
    for method in methods:
        ours = table[table["method"] == method].set_index("pair")
        both = ours.index.intersection(other.index)
        if both.empty:
            continue
        for column in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER):
            if column not in table.columns:
                continue
            gain = ours.loc[both, column].astype(float) - other.loc[both, column].astype(float)
            gain = gain.dropna() * (1 if column in HIGHER_IS_BETTER else -1)
            if len(gain):
                shares[f"{method}/{column}_better_than_{against}"] = float((gain > 0).mean())
    return shares
