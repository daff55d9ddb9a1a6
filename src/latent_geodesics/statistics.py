"""How sure a mean is, and whether two methods differ on the same pairs. Every resampling is seeded.

`interval`: the percentile bootstrap over pairs (Efron, 1979). `normal_interval`: of a number with a standard error.
`paired_difference`: the mean difference over the pairs that both have, its bootstrap interval, and the two-sided
p-value of Wilcoxon's signed-rank test (1945), which asks for no normal distribution. `holm`: p-values corrected for
asking about several methods at once (Holm, 1979). `separation`: whether a number tells two groups apart (the area under
the curve; Mann and Whitney, 1947).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

__all__ = ["Difference", "Interval", "holm", "interval", "normal_interval", "paired_difference", "separation"]

LEVEL = 0.95
DRAWS = 2000
FEWEST = 2


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


def interval(values: Sequence[float] | np.ndarray, *, seed: int = 0) -> Interval:
    """The mean of the finite values and its bootstrap interval; the same values give the same interval."""
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) == 0:
        return Interval(mean=np.nan, low=np.nan, high=np.nan, n=0)
    mean = float(numbers.mean())
    if len(numbers) < FEWEST:
        return Interval(mean=mean, low=np.nan, high=np.nan, n=len(numbers))
    drawn = np.random.default_rng(seed).choice(numbers, size=(DRAWS, len(numbers))).mean(1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean=mean, low=float(low), high=float(high), n=len(numbers))


def normal_interval(mean: float, standard_error: float, *, n: int) -> Interval:
    """The interval of a number whose standard error is known; NaN bounds where it is not."""
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * standard_error
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


def paired_difference(ours: "pd.Series[float]", theirs: "pd.Series[float]", *, seed: int = 0) -> Difference:
    """Ours minus theirs over the pairs that both have; the series are indexed by pair."""
    gain = (ours - theirs).dropna().to_numpy(dtype=float)
    gain = gain[np.isfinite(gain)]
    found = interval(gain, seed=seed)
    tested = len(gain) >= FEWEST and bool(np.any(gain != 0))
    return Difference(interval=found, p_value=float(stats.wilcoxon(gain).pvalue) if tested else np.nan)


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
