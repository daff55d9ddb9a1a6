"""How sure a mean is, and whether two methods differ on the same pairs. Every resampling is seeded.

Pairs may come in clusters, such as pairs of one kind, whose members say less than as many pairs of different kinds:
clusters are then what is drawn, and what is tested, whole.

`interval`: the percentile bootstrap over pairs (Efron, 1979) or their clusters (Davison and Hinkley, 1997, section
3.8). `normal_interval`: of a number with a standard error. `paired_difference`: the mean difference over the pairs that
both have, its bootstrap interval, and the two-sided p-value of Wilcoxon's signed-rank test (1945), which asks for no
normal distribution; with clusters, of the same statistic when the signs of whole clusters are exchanged (as by Rosner,
Glynn and Lee, 2006). `holm`: p-values corrected for asking about several methods at once (Holm, 1979). `separation`:
whether a number tells two groups apart (the area under the curve; Mann and Whitney, 1947).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
DRAWS = 2000
FEWEST = 2
MOST_EXACT = 14
FLIPS = 20_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over `n` values and the interval that holds it with 95 % confidence; NaN bounds below two values."""

    mean: float
    low: float
    high: float
    n: int

    def sum(self) -> "Interval":
        """The same of the sum of the values."""
        return Interval(mean=self.mean * self.n, low=self.low * self.n, high=self.high * self.n, n=self.n)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much a method lies above another, pair by pair; `p_value` is NaN where nothing can be tested."""

    interval: Interval
    p_value: float

    def sum(self) -> "Difference":
        """The same of the sum of the values."""
        return Difference(interval=self.interval.sum(), p_value=self.p_value)


def interval(values: Sequence[float] | np.ndarray, *, clusters: Sequence[str] | None = None, seed: int = 0) -> Interval:
    """The mean of the finite values and its bootstrap interval; the same values give the same interval.

    Args:
        values: A number of each pair.
        clusters: What each pair belongs to; None for a cluster of each. Within a single cluster nothing can be drawn.
        seed: Of the resampling.
    """
    numbers = np.asarray(values, dtype=float)
    known = np.isfinite(numbers)
    numbers, members = numbers[known], _codes(clusters, known)
    if len(numbers) == 0:
        return Interval(mean=np.nan, low=np.nan, high=np.nan, n=0)
    mean, count = float(numbers.mean()), int(members.max()) + 1
    if count < FEWEST:
        return Interval(mean=mean, low=np.nan, high=np.nan, n=len(numbers))
    drawn = resampled_means(numbers, members, draws=DRAWS, generator=np.random.default_rng(seed))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean=mean, low=float(low), high=float(high), n=len(numbers))


def resampled_means(
    values: np.ndarray, clusters: np.ndarray, *, draws: int, generator: np.random.Generator
) -> np.ndarray:
    """The means over as many clusters as there are, drawn with replacement, a pair of a cluster with all of it.

    Args:
        values: A finite number of each pair.
        clusters: The cluster of each pair.
        draws: How many means.
        generator: What draws.
    """
    _, members = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(members, weights=values), np.bincount(members)
    chosen = generator.integers(len(sums), size=(draws, len(sums)))
    means: np.ndarray = sums[chosen].sum(1) / counts[chosen].sum(1)
    return means


def normal_interval(mean: float, standard_error: float, *, n: int) -> Interval:
    """The interval of a number whose standard error is known; NaN bounds where it is not."""
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * standard_error
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


def paired_difference(
    ours: "pd.Series[float]",
    theirs: "pd.Series[float]",
    *,
    clusters: "pd.Series[str] | None" = None,
    seed: int = 0,
) -> Difference:
    """Ours minus theirs over the pairs that both have; the series are indexed by pair, that of the clusters too."""
    gain = (ours - theirs).dropna()
    gain = gain[np.isfinite(gain)]
    named = None if clusters is None else clusters.reindex(gain.index).astype(str).tolist()
    numbers = gain.to_numpy(dtype=float)
    found = interval(numbers, clusters=named, seed=seed)
    members = _codes(named, np.ones(len(numbers), dtype=bool))
    tested = len(set(members.tolist())) >= FEWEST and bool(np.any(numbers != 0))
    return Difference(interval=found, p_value=_signed_rank(numbers, members, seed) if tested else np.nan)


def _codes(clusters: Sequence[str] | None, known: np.ndarray) -> np.ndarray:
    """A number for the cluster of each pair that is known, from 0 on."""
    if clusters is None:
        return np.arange(int(known.sum()))
    codes: np.ndarray = np.unique(np.asarray(clusters)[known], return_inverse=True)[1]
    return codes


def _signed_rank(gain: np.ndarray, clusters: np.ndarray, seed: int) -> float:
    """The two-sided p-value of the sum of signed ranks when clusters change their signs as a whole."""
    moved = gain != 0
    gain, clusters = gain[moved], np.unique(clusters[moved], return_inverse=True)[1]
    count = int(clusters.max()) + 1
    if count == len(gain):
        return float(stats.wilcoxon(gain).pvalue)
    sums = np.bincount(clusters, weights=np.sign(gain) * stats.rankdata(np.abs(gain)))
    if count <= MOST_EXACT:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return float((np.abs(signs @ sums) >= abs(sums.sum()) * (1 - 1e-12)).mean())
    signs = np.random.default_rng(seed).choice((-1, 1), size=(FLIPS, count))
    beyond = int((np.abs(signs @ sums) >= abs(sums.sum()) * (1 - 1e-12)).sum())
    return (1 + beyond) / (1 + FLIPS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; NaN stays NaN and does not count."""
    order = sorted((p, place) for place, p in enumerate(p_values) if np.isfinite(p))
    corrected = [float("nan")] * len(p_values)
    least = 0.0
    for rank, (p, place) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p))
        corrected[place] = least
    return corrected


def separation(ours: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> float:
    """The probability that one of `ours` is below one of `others`, ties counting half: 0.5 tells nothing apart."""
    a, b = np.asarray(ours, dtype=float), np.asarray(others, dtype=float)
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if not len(a) or not len(b):
        return float("nan")
    difference = b[None, :] - a[:, None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())
