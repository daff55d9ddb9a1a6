"""The integrator with error control."""

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.core.records import Status

U = torch.linspace(0, 1, 11, dtype=torch.float64)


def ring():
    angle = 2 * torch.pi * torch.arange(8, dtype=torch.float64) / 8
    means = 3 * torch.stack([angle.cos(), angle.sin()], -1)
    return lg.GaussianMixture(means=means, scales=torch.full((8,), 0.7, dtype=torch.float64))


def problem(field=None):
    x0 = torch.tensor([[3.0, 0.0], [0.0, 2.5]], dtype=torch.float64)
    v0 = torch.tensor([[0.5, 4.0], [-3.0, 0.1]], dtype=torch.float64)
    return lg.InitialProblem(field=field or ring(), manifold=lg.Euclidean(), x0=x0, v0=v0, alpha=0.2)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7, 1e-9])
def test_the_error_follows_the_tolerance(tolerance):
    fine = lg.solvers.AdaptiveRungeKutta(tolerance=1e-12, max_evaluations=10**5).solve(problem()).path.point(U)
    solution = lg.solvers.AdaptiveRungeKutta(tolerance=tolerance).solve(problem())
    length = problem().v0.norm(dim=-1)[:, None]
    error = (solution.path.point(U) - fine).norm(dim=-1) / length
    assert float(error.max()) < 50 * tolerance


def test_six_evaluations_a_step_and_one_at_first():
    solution = lg.solvers.AdaptiveRungeKutta(tolerance=1e-6).solve(problem())
    assert torch.equal(solution.stats["evaluations"], 6 * solution.stats["iterations"] + 1)
    assert torch.equal(solution.stats["evaluations"], solution.stats["sequential"])


def test_pairs_take_steps_of_their_own():
    path = lg.solvers.AdaptiveRungeKutta(tolerance=1e-6).solve(problem()).path
    assert path.nodes.shape[0] == 2
    assert not torch.equal(path.nodes[0], path.nodes[1])
    assert bool((path.nodes[:, -1] == 1).all())


def test_steps_narrow_where_the_path_turns():
    class Step(lg.ScoreField):
        """A score that is strong in a thin layer only."""

        def score(self, x, u):
            strength = 40 * torch.exp(-((x[..., 0] - 0.5) ** 2) / 1e-3)
            return torch.stack([torch.zeros_like(strength), strength], -1)

    x0, v0 = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    initial = lg.InitialProblem(field=Step(), manifold=lg.Euclidean(), x0=x0, v0=v0, alpha=0.5)
    path = lg.solvers.AdaptiveRungeKutta(tolerance=1e-7).solve(initial).path
    middle = ((path.knots[0, :-1, 0] - 0.5).abs() < 0.1).nonzero().flatten()
    assert float(path.nodes[0].diff()[middle].max()) < float(path.nodes[0].diff().max()) / 4


def test_a_step_that_cannot_be_small_enough_is_a_status():
    class Jagged(lg.ScoreField):
        """A score that is different at each point."""

        def score(self, x, u):
            return 100 * torch.sin(1e9 * x)

    solution = lg.solvers.AdaptiveRungeKutta(tolerance=1e-10, max_evaluations=10**5).solve(problem(Jagged()))
    assert set(solution.status) == {Status.STEP_TOO_SMALL}
    assert bool((solution.stats["reached"] < 1).all())
    assert torch.isfinite(solution.path.point(U)).all()
