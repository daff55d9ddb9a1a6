r"""How well distances rank changes whose true size is known, with bootstrap intervals.

Two kinds of known change:

- frames of a motion: the frames at positions u and v of one motion differ by |u - v| of it. In each family, Spearman's
  and Kendall's coefficient between distance and |u - v|, and the accuracy on triplets: for an anchor frame and two
  others, one nearer on the motion than the other, is its distance smaller? Intervals resample families.
- graded pairs: two images and a difficulty, a whole number that grows with what changes. The coefficients between
  distance and difficulty over all pairs (Kendall's tau-b and Spearman's rho with mean ranks, since difficulties tie).
  Intervals resample pairs.

Differences between two distances are taken within each resample, so that what is common to both cancels. Intervals are
percentiles (Efron, Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats

TAILS = (2.5, 97.5)
COEFFICIENTS: Mapping[str, Callable[..., Any]] = {"spearman": stats.spearmanr, "kendall": stats.kendalltau}
"""Spearman's rho, and Kendall's tau-b."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """How well one distance ranks, by one measure, and how it compares with the first of the distances.

    Attributes:
        value: The measure, with the ends `low` and `high` of its 95 % interval.
        gain: By how much the first distance is better than this one, with `gain_low` and `gain_high`.
        count: Families or pairs behind it.
    """

    distance: str
    measure: str
    value: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    count: int


def rank_families(
    table: pd.DataFrame, distances: Sequence[str], *, draws: int, generator: np.random.Generator
) -> list[Ranked]:
    """`family_spearman`, `family_kendall` and `family_triplets` of each distance: means over the families.

    Args:
        table: A row for each two frames of a family: `family`, `position_a`, `position_b` and a column a distance.
        distances: The columns to rank; the first is the one that the others are compared with.
        draws: Resamples.
        generator: Where the resamples come from.
    """
    families = [rows for _, rows in table.groupby("family", sort=False) if len(rows) > 2]
    if not families:
        return []
    found: list[Ranked] = []
    for measure in (*COEFFICIENTS, "triplets"):
        scores = np.array([[_of_family(measure, rows, name) for rows in families] for name in distances])
        chosen = generator.integers(len(families), size=(draws, len(families)))
        found += _ranked(f"family_{measure}", distances, scores.mean(1), scores[:, chosen].mean(2), len(families))
    return found


def rank_grades(
    table: pd.DataFrame, distances: Sequence[str], *, draws: int, generator: np.random.Generator
) -> list[Ranked]:
    """`grade_spearman` and `grade_kendall` of each distance over pairs with a column `difficulty`."""
    if table.empty or table["difficulty"].nunique() < 2:
        return []
    grades = table["difficulty"].to_numpy(float)
    columns = [table[name].to_numpy(float) for name in distances]
    chosen = generator.integers(len(table), size=(draws, len(table)))
    chosen = chosen[np.ptp(grades[chosen], axis=1) > 0]
    found: list[Ranked] = []
    for measure in COEFFICIENTS:
        values = np.array([_agreement(measure, grades, column) for column in columns])
        spread = [[_agreement(measure, grades[rows], column[rows]) for rows in chosen] for column in columns]
        found += _ranked(f"grade_{measure}", distances, values, np.array(spread), len(table))
    return found


def kin_triplets(matrix: Float[np.ndarray, "n n"], families: Sequence[str]) -> float:
    """How often an image is nearer to one of its own family than to one of another; NaN without such triplets."""
    kin = np.array(families, dtype=object)
    right, asked = 0, 0
    for anchor, family in enumerate(families):
        if not family:
            continue
        own = np.flatnonzero((kin == family) & (np.arange(len(kin)) != anchor))
        others = np.flatnonzero((kin != family) & (kin != ""))
        right += int((matrix[anchor, own][:, None] < matrix[anchor, others][None]).sum())
        asked += len(own) * len(others)
    return right / asked if asked else float("nan")


def _ranked(
    measure: str,
    distances: Sequence[str],
    values: Float[np.ndarray, " k"],
    spread: Float[np.ndarray, "k b"],
    count: int,
) -> list[Ranked]:
    low, high = np.percentile(spread, TAILS, axis=1)
    gain_low, gain_high = np.percentile(spread[0] - spread, TAILS, axis=1)
    found = {"value": values, "low": low, "high": high}
    found |= {"gain": values[0] - values, "gain_low": gain_low, "gain_high": gain_high}
    return [
        Ranked(
            distance=name, measure=measure, count=count, **{key: float(column[row]) for key, column in found.items()}
        )
        for row, name in enumerate(distances)
    ]


def _gaps(rows: pd.DataFrame) -> Float[np.ndarray, " m"]:
    # Rounded, so that equal steps of a motion are equal numbers.
    return (rows["position_a"] - rows["position_b"]).abs().round(9).to_numpy(float)


def _of_family(measure: str, rows: pd.DataFrame, name: str) -> float:
    return (
        _triplets(rows, name) if measure == "triplets" else _agreement(measure, _gaps(rows), rows[name].to_numpy(float))
    )


def _agreement(measure: str, truth: Float[np.ndarray, " m"], distance: Float[np.ndarray, " m"]) -> float:
    """A coefficient of rank correlation; 0 for a distance that tells nothing apart."""
    return 0.0 if np.ptp(distance) == 0 else float(COEFFICIENTS[measure](truth, distance).statistic)


def _triplets(rows: pd.DataFrame, name: str) -> float:
    """The share of triplets told right; a tie counts as wrong."""
    a, b = (rows[f"position_{end}"].round(9).to_numpy(float) for end in "ab")
    gaps, values = _gaps(rows), rows[name].to_numpy(float)
    right: Int[np.ndarray, ""] = np.zeros((), dtype=int)
    asked = 0
    for anchor in np.unique(np.concatenate([a, b])):
        mine = (a == anchor) | (b == anchor)
        nearer = gaps[mine][:, None] < gaps[mine][None]
        right = right + (nearer & (values[mine][:, None] < values[mine][None])).sum()
        asked += int(nearer.sum())
    return float(right) / asked if asked else float("nan")
