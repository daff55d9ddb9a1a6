"""Sequences against true ones after a monotone alignment of their times: what is known in closed form."""

from functools import lru_cache

import pytest
import torch
from measured import NETWORK, fade, measured, motion
from test_metrics_contract import CONF

from latent_geodesics.metrics import TruthError
from latent_geodesics.metrics.perceptual import align


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(CONF.parent)


def between(x, y):
    return (torch.tensor(x)[:, None] - torch.tensor(y)[None, :]).abs().double()


def least_by_trying_all(cost):
    """The least weighted sum over all warping paths, over n + m."""
    n, m = cost.shape

    @lru_cache
    def to(i, j):
        here = float(cost[i, j])
        if i == j == 0:
            return 2 * here
        ways = [(i - 1, j - 1, 2), (i - 1, j, 1), (i, j - 1, 1)]
        return min(to(a, b) + w * here for a, b, w in ways if a >= 0 and b >= 0)

    return to(n - 1, m - 1) / (n + m)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_best_of_all_warping_paths(seed):
    cost = torch.rand(5 + seed % 3, 6, generator=torch.Generator().manual_seed(seed)).double()
    found = align(cost)
    assert found.error == pytest.approx(least_by_trying_all(cost))
    assert found.cells[0] == (0, 0)
    assert found.cells[-1] == (cost.shape[0] - 1, cost.shape[1] - 1)
    steps = {(b[0] - a[0], b[1] - a[1]) for a, b in zip(found.cells[:-1], found.cells[1:], strict=True)}
    assert steps <= {(0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize(
    "shown", [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2, 3, 4], [0, 1, 1, 2, 2, 3, 3, 4], [0, 1, 2, 3, 4, 4, 4]]
)
def test_the_true_frames_at_another_pace_have_no_error(shown):
    values = torch.tensor([0.0, 1.0, 4.0, 9.0, 16.0])
    found = align(between(values[shown].tolist(), values.tolist()))
    assert found.error == 0
    assert found.per_frame.tolist() == [0] * len(shown)
    assert [i for i, _ in found.cells] == sorted(i for i, _ in found.cells)


def test_equal_times_are_kept_where_they_are_best():
    found = align(between([0.0, 1.5, 2.5, 4.0], [0.0, 1.0, 3.0, 4.0]))
    assert found.cells == ((0, 0), (1, 1), (2, 2), (3, 3))
    assert found.error == pytest.approx(0.25)
    assert found.per_frame.tolist() == [0, 0.5, 0.5, 0]


def test_waiting_and_jumping_is_charged_for_the_frames_that_are_passed_over():
    """Frames 0 0 0 0 4 against 0 1 2 3 4: from the zeros 1 and 2, then 3 from the 4 by a step in both: 5 of 10."""
    assert align(between([0.0, 0, 0, 0, 4], [0.0, 1, 2, 3, 4])).error == pytest.approx(5 / 10)


def test_order_is_kept():
    values = [0.0, 3.0, 1.0, 4.0]
    assert align(between(values, [0.0, 1.0, 3.0, 4.0])).error > 0
    assert align(between(values[::-1], values)).error > 1


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        align(torch.tensor([[0.0, torch.nan]]))


def test_a_motion_at_another_pace_beats_a_fade_once_times_are_aligned():
    """Frame by frame a cross-fade is nearer to a motion than the motion itself a little late is."""
    true = motion(9)
    late = true[[0, 0, 1, 2, 3, 4, 5, 6, 8]]
    metric = TruthError(network=NETWORK)
    slow, faded, same = (metric.measure(measured(frames[None])) for frames in (late, fade(9), true))
    assert set(slow) == set(metric.names)
    for plain, aligned in (("truth_rmse", "truth_rmse_aligned"), ("truth_clevr", "truth_clevr_aligned")):
        assert float(same[aligned]) == pytest.approx(0, abs=1e-6)
        assert float(slow[aligned]) < 0.6 * float(slow[plain])
        assert float(slow[aligned]) < float(faded[aligned])
        assert float(faded[aligned]) <= float(faded[plain]) * (1 + 1e-6)


def test_every_frame_has_its_part_of_the_aligned_error():
    frames = motion(7, start=0.3)[None]
    metric = TruthError(network=NETWORK)
    each, whole = metric.per_frame(measured(frames)), metric.measure(measured(frames))
    assert all(values.shape == (1, 7) for values in each.values())
    truth = motion(7)
    cost = torch.cdist(frames[0].flatten(1).double(), truth.flatten(1).double()).square() / truth[0].numel()
    assert float(whole["truth_rmse_aligned"]) == pytest.approx(least_by_trying_all(cost) ** 0.5, rel=1e-6)
    assert float(each["truth_rmse_aligned"][0, -1]) == pytest.approx(0, abs=1e-6)


def test_distances_across_are_those_of_the_network():
    view, metric = measured(motion(6, start=0.35)[None]), TruthError(network=NETWORK)
    across = view.truth_distances(metric.network, 0)
    torch.testing.assert_close(across.diagonal(), view.distances(metric.network).truth[0], rtol=1e-4, atol=1e-6)
    one = metric.network.distance(view.morph.frames[0, 4:5], view.truth(0)[1:2])
    torch.testing.assert_close(across[4, 1], one[0], rtol=1e-4, atol=1e-6)
    assert measured(motion(6)[None], truth=False).truth_distances(metric.network, 0) is None
