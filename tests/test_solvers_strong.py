"""What the default solver promises of problems that are strong, of minima, and of the lengths that it reports."""

import math
from dataclasses import replace

import pytest
import torch
from random_mixtures import by_minimisation, exact_length, random_mixtures, strength

import latent_geodesics as lg
from latent_geodesics.core.records import Status
from latent_geodesics.core.solvers import picard_anderson
from latent_geodesics.core.solvers.group import equal_speed
from latent_geodesics.core.solvers.refinement import Refinement
from latent_geodesics.core.solvers.search import shortest_of_several
from latent_geodesics.core.solvers.second_variation import SmallSystem

U = torch.linspace(0, 1, 17, dtype=torch.float64)
SOLVED = (Status.CONVERGED, Status.RESOLVED)


def solve(field, x0, x1, *, manifold=None, alpha=1.0, **options):
    problem = lg.BoundaryProblem(field=field, manifold=manifold or lg.Euclidean(), x0=x0, x1=x1, alpha=alpha)
    return lg.solvers.PicardAnderson(**options).solve(problem)


@pytest.mark.parametrize(("d", "pairs"), [pytest.param(2, 12, marks=pytest.mark.slow), (4, 3)])
def test_strong_mixtures_converge_to_paths_that_are_short_and_geodesics_between_their_knots(d, pairs):
    field, x0, x1, wanted = random_mixtures(pairs, d=d, seed=11, strengths=(3.0, 20.0))
    solution = solve(field, x0, x1)
    assert torch.allclose(strength(field, x0, x1), wanted, rtol=1e-9)
    # From the knots of the line that the search began at; three points of it alone were off by up to half.
    assert bool((solution.stats["strength"] / wanted).log().abs().max() < 0.1)
    solved = torch.tensor([status in SOLVED for status in solution.status])
    assert float(solved.double().mean()) >= 0.95
    found = exact_length(solution.path, field)
    assert bool((found <= exact_length(lg.StraightLine(x0=x0, x1=x1), field))[solved].all())
    u = torch.linspace(0, 1, 402, dtype=torch.float64)[1:-1]
    x = solution.path.point(u)
    pull = field.score(x, x[..., 0]).norm(dim=-1).mean(-1)
    residual = lg.geometry.residual(solution.path, field, lg.Euclidean(), 1.0, u).mean(-1) / pull
    assert float((residual[solved] < 1e-2).double().mean()) >= 0.95
    few = torch.arange(2)
    shortest = by_minimisation(field.restrict(few), x0[:2], x1[:2], starts=3)
    assert bool((found[:2] < 1.01 * shortest).all())


def test_a_pair_does_not_depend_on_its_batch_where_it_is_strong():
    field, x0, x1, _ = random_mixtures(4, seed=3, strengths=(1.0, 20.0))
    together = solve(field, x0, x1)
    for pair in range(4):
        rows = torch.tensor([pair])
        alone = solve(field.restrict(rows), x0[rows], x1[rows])
        u = torch.linspace(0, 1, 33, dtype=torch.float64)
        torch.testing.assert_close(alone.path.point(u)[0], together.path.point(u)[pair], atol=1e-7, rtol=0)
        assert alone.stats["evaluations"][0] == together.stats["evaluations"][pair]
        assert alone.status[0] == together.status[pair]


def test_a_start_that_leads_nowhere_gives_way_to_the_continuation(monkeypatch):
    field, x0, x1, _ = random_mixtures(2, seed=3, strengths=(4.0, 10.0))
    expected = solve(field, x0, x1, starts=1)
    settle, asked = Refinement.settle, []

    def astray(group, strengths, record, *, starts):
        found = shortest_of_several(group, strengths, record, starts=1)
        aside = found.shortest.place.offsets * torch.tensor([1.1, 1.0])[:, None, None]
        return replace(found, shortest=group.moved(group.evaluate(aside, record)))

    def stalled(self, group, *, kicks=0):
        asked.append(group.numbers.tolist())
        return [self.ended(group, Status.STALLED)] if len(asked) == 1 else settle(self, group, kicks=kicks)

    monkeypatch.setattr(picard_anderson, "shortest_of_several", astray)
    monkeypatch.setattr(Refinement, "settle", stalled)
    solution = solve(field, x0, x1)
    assert asked[:2] == [[0, 1], [0]]
    assert solution.status == (Status.CONVERGED, Status.STALLED)
    torch.testing.assert_close(solution.path.point(U)[0], expected.path.point(U)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("tolerance", [None, 3e-2, 1e-3])
def test_the_estimated_error_covers_the_true_one_and_is_no_more_than_ten_times_it(tolerance):
    x = torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    x0, x1 = 0.75 * torch.nn.functional.normalize(x, dim=-1)
    half = torch.rand(2, 16, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 + 0.3
    errors, estimates = [], []
    for density, ends in ((lg.PoincareBall(), (x0, x1)), (lg.HalfSpace(), half)):
        solution = solve(density, *ends, tolerance=tolerance)
        assert set(solution.status) == {Status.CONVERGED}
        errors.append((lg.geometry.length(solution.path, density, 1.0) / density.distance(*ends) - 1).abs())
        estimates.append(solution.stats["length_error"])
    error, estimate = torch.cat(errors), torch.cat(estimates)
    assert float((error <= estimate).double().mean()) >= 0.95
    assert float((estimate / error.clamp(min=1e-12)).median()) < 10


@pytest.mark.parametrize("budget", [20, 60])
def test_a_strong_problem_keeps_its_budget(budget):
    """The grid that it would be searched for on has 64 intervals."""
    field = lg.IsotropicGaussian(mean=torch.zeros(2, dtype=torch.float64), scale=0.25)
    x0, x1 = torch.tensor([[[-1.0, 0.4]], [[1.0, 0.4]]], dtype=torch.float64)
    solution = solve(field, x0, x1, max_evaluations=budget)
    assert float(solution.stats["strength"][0]) > 15
    assert solution.status == (Status.BUDGET_EXHAUSTED,)
    assert int(solution.stats["evaluations"][0]) <= budget


def test_a_saddle_is_left_for_the_shorter_side():
    """Between two hills the line through the pass is a geodesic by symmetry, and longer than one over either hill."""
    means = torch.tensor([[0.0, 1.5], [0.0, -1.5]], dtype=torch.float64)
    field = lg.GaussianMixture(means=means, scales=torch.tensor([0.8, 0.8], dtype=torch.float64))
    x0, x1 = torch.tensor([[-1.0, 0.0]], dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    line = lg.geometry.length(lg.StraightLine(x0=x0, x1=x1), field, 1.0)
    at_knots = solve(field, x0, x1, refine=False, memory=0)
    assert at_knots.status == (Status.CONVERGED,)
    assert float(lg.geometry.length(at_knots.path, field, 1.0) / line) == pytest.approx(1, abs=1e-9)
    solution = solve(field, x0, x1)
    assert solution.status == (Status.CONVERGED,)
    assert float(lg.geometry.length(solution.path, field, 1.0) / line) < 0.995
    assert float(solution.path.point(torch.tensor([0.5]))[..., 1].abs()) > 0.1
    # Without the evaluations to leave it, it says what it is.
    poor = solve(field, x0, x1, max_evaluations=60)
    assert poor.status in ((Status.SADDLE,), (Status.BUDGET_EXHAUSTED,))
    assert "max_evaluations" in poor.status[0].sentence


def test_equal_speed_moves_knots_along_their_own_curve():
    generator = torch.Generator().manual_seed(2)
    x0, x1 = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    from latent_geodesics.core.path import shortest_path
    from latent_geodesics.core.solvers.collocation import Collocation

    for manifold in (lg.Euclidean(), lg.Sphere(2.0)):
        ends = manifold.project(x0), manifold.project(x1)
        grid = Collocation(base=shortest_path(manifold, *ends), manifold=manifold, intervals=16)
        u = grid.nodes[1:-1]
        side = torch.randn(3, 1, 4, generator=generator, dtype=torch.float64)
        offsets = 0.5 * (math.pi * u**1.5).sin()[:, None] * side
        moved = grid.path(equal_speed(grid, offsets))
        speed = moved.velocity(grid.nodes).norm(dim=-1)
        assert float((speed / speed.mean(-1, keepdim=True) - 1).abs().max()) < 6e-2
        fine = grid.path(offsets).point(torch.linspace(0, 1, 4001, dtype=torch.float64))
        off = torch.cdist(moved.point(torch.linspace(0, 1, 50, dtype=torch.float64)), fine).amin(-1)
        assert float(off.max()) < 2e-3


def test_the_least_second_variation_is_that_of_the_whole_matrix():
    """A straight line in a uniform density has pi^2, and a content adds what it is."""
    from latent_geodesics.core.path import Spline

    nodes = torch.linspace(0, 1, 33, dtype=torch.float64)
    spline = Spline(nodes)
    content = torch.eye(2, dtype=torch.float64).expand(1, 31, 2, 2) * -20.0
    parts = {
        "first": spline.matrix(nodes, 1),
        "second": spline.matrix(nodes, 2),
        "stretch": torch.zeros(1, 33, dtype=torch.float64),
        "direction": torch.tensor([1.0, 0.0], dtype=torch.float64).expand(1, 31, 2),
        "defect": (math.pi * nodes[1:-1]).sin()[None, :, None] * torch.tensor([0.0, 1.0], dtype=torch.float64),
        "turned": torch.zeros(1, dtype=torch.float64),
    }
    least, mode = SmallSystem(content=content, **parts).least()
    assert float(least) == pytest.approx(math.pi**2 - 20, rel=1e-2)
    assert float(mode[..., 0].abs().max()) < 1e-6
    above, none = SmallSystem(content=content, **parts).least(most=float(least) - 1e-6)
    assert (float(above), float(none.abs().max())) == (float(least) - 1e-6, 0.0)
    below, same = SmallSystem(content=content, **parts).least(most=float(least) + 1e-6)
    assert (float(below), float((same - mode).abs().max())) == (float(least), 0.0)
    step = SmallSystem(content=torch.zeros_like(content), **parts).solve(torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(step, parts["defect"] / math.pi**2, atol=1e-6, rtol=0)
