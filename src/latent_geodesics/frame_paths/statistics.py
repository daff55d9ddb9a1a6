"""Intervals and comparisons that the verdicts rest on. Every resampling is seeded, so a table can be made again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Interval", "bootstrap", "separation"]

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % interval; all three are NaN where there was nothing to average."""

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float] | np.ndarray, *, seed: int = 0) -> Interval:
    """The mean of independent values and its percentile bootstrap interval; values that are not finite are left out.

    Args:
        values: At least one for an interval; a single one has an interval of no width.
        seed: Of the resampling.
    """
    sample = np.asarray(values, dtype=float)
    sample = sample[np.isfinite(sample)]
    if not len(sample):
        return Interval(mean=np.nan, low=np.nan, high=np.nan)
    generator = np.random.default_rng(seed)
    means = sample[generator.integers(len(sample), size=(RESAMPLES, len(sample)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean=float(sample.mean()), low=float(low), high=float(high))


def separation(ours: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> float:
    """The probability that one of `ours` is below one of `others`, ties counting half: 0.5 tells nothing apart."""
    a, b = np.asarray(ours, dtype=float), np.asarray(others, dtype=float)
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if not len(a) or not len(b):
        return float("nan")
    difference = b[None, :] - a[:, None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())
