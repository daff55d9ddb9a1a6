"""Intervals and tests over pairs that come in clusters."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from latent_geodesics.run.statistics import interval, paired_difference, resampled_means


def test_pairs_that_stand_for_themselves_are_resampled_as_ever():
    values = np.random.default_rng(0).normal(size=12)
    drawn = np.random.default_rng(0).choice(values, size=(2000, 12)).mean(1)
    found = interval(values, seed=0)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert found == interval(values, clusters=[f"p{k:02d}" for k in range(12)])


def test_the_spread_of_a_mean_is_that_of_its_clusters():
    """Copies of a value add nothing: 6 clusters of 5 equal values are as sure as 6 values."""
    few = np.random.default_rng(2).normal(size=6)
    many, names = np.repeat(few, 5), np.repeat(list("abcdef"), 5)
    alone, together = interval(few), interval(many, clusters=names)
    assert together.mean == pytest.approx(alone.mean)
    assert together.n == 30
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    pretended = interval(many)
    assert pretended.high - pretended.low < 0.6 * (alone.high - alone.low)


def test_the_resampled_mean_of_uneven_clusters_has_the_spread_of_a_ratio():
    """Var(mean) = sum_c n_c^2 (mean_c - mean)^2 / n^2, the first-order variance of a ratio of sums."""
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(200), rng.integers(1, 6, size=200))
    values = rng.normal(size=200)[clusters] + 0.1 * rng.normal(size=len(clusters))
    drawn = resampled_means(values, clusters, draws=4000, generator=rng)
    sums, counts = np.bincount(clusters, weights=values), np.bincount(clusters)
    expected = np.sqrt(((sums - values.mean() * counts) ** 2).sum()) / len(values)
    assert drawn.mean() == pytest.approx(values.mean(), abs=4 * expected / 60)
    assert drawn.std() == pytest.approx(expected, rel=0.06)


def test_intervals_over_clusters_hold_the_mean_as_often_as_they_say():
    rng, held, naive = np.random.default_rng(4), 0, 0
    names = [str(k) for k in np.repeat(np.arange(25), 4)]
    for trial in range(200):
        values = np.repeat(rng.normal(size=25), 4) + 0.3 * rng.normal(size=100)
        one, other = interval(values, clusters=names, seed=trial), interval(values, seed=trial)
        held += one.low <= 0 <= one.high
        naive += other.low <= 0 <= other.high
    assert 175 <= held <= 199
    assert naive < 150


def test_within_one_cluster_nothing_is_known_of_the_spread():
    found = interval([1.0, 2.0, 4.0], clusters=["a", "a", "a"])
    assert found.mean == pytest.approx(7 / 3)
    assert np.isnan(found.low) and np.isnan(found.high)
    series = pd.Series([1.0, 2.0, 4.0], index=list("xyz"))
    difference = paired_difference(series, 0 * series, clusters=pd.Series("a", index=series.index))
    assert np.isnan(difference.p_value)


def test_the_test_of_single_pairs_is_wilcoxons():
    gain = pd.Series(np.random.default_rng(5).normal(0.4, 1, size=11))
    found = paired_difference(gain, 0 * gain, clusters=pd.Series(range(11)).astype(str))
    assert found.p_value == stats.wilcoxon(gain).pvalue


@pytest.mark.parametrize(("clusters", "p"), [("aabbccdd", 2 / 2**4), ("aaaabbbb", 2 / 2**2), ("abcdefgg", 2 / 2**7)])
def test_as_many_signs_are_exchanged_as_there_are_clusters(clusters, p):
    """All gains are positive, so that of 2^k signs only the two extremes reach the sum."""
    gain = pd.Series(np.linspace(1, 2, 8))
    found = paired_difference(gain, 0 * gain, clusters=pd.Series(list(clusters)))
    assert found.p_value == pytest.approx(p)


def test_with_many_clusters_signs_are_drawn():
    rng = np.random.default_rng(6)
    names = pd.Series(np.repeat(np.arange(20), 2).astype(str))
    under_none = [
        paired_difference(pd.Series(np.repeat(rng.normal(size=20), 2)), pd.Series(np.zeros(40)), clusters=names).p_value
        for _ in range(40)
    ]
    assert 0.3 < np.mean(under_none) < 0.7
    gain = pd.Series(np.repeat(rng.normal(2, 1, size=20), 2))
    assert paired_difference(gain, 0 * gain, clusters=names).p_value < 1e-3


def test_pairs_without_a_number_leave_their_clusters():
    ours = pd.Series([1.0, 3.0, np.nan, 2.0], index=list("wxyz"))
    clusters = pd.Series(["a", "a", "b", "c"], index=list("wxyz"))
    found = paired_difference(ours, pd.Series(0.0, index=list("wxyz")), clusters=clusters)
    assert found.interval.n == 3
    assert found.interval.mean == pytest.approx(2)
    assert found.p_value == pytest.approx(2 / 2**2)
