"""What the integrators of the initial problem have in common."""

import math

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.core.records import Status

U = torch.linspace(0, 1, 11, dtype=torch.float64)
SPHERE = lg.Sphere(3.0)
CENTRE = torch.tensor([0.5, 0.0, 0.0, 0.0], dtype=torch.float64)
SOLVERS = {
    "rk4": lambda **options: lg.solvers.RungeKutta4(steps=60, **options),
    "adaptive": lambda **options: lg.solvers.AdaptiveRungeKutta(tolerance=1e-8, **options),
    "parallel": lambda **options: lg.solvers.ParallelCollocation(tolerance=1e-8, **options),
}
ALL = pytest.mark.parametrize("name", SOLVERS)
MANIFOLDS = pytest.mark.parametrize("manifold", [lg.Euclidean(), SPHERE], ids=["flat", "sphere"])


class Watched(lg.Density):
    """A Gaussian that counts the calls of its score."""

    def __init__(self):
        self.inner, self.calls = lg.IsotropicGaussian(mean=CENTRE, scale=2.0), 0

    def log_prob(self, x, u):
        return self.inner.log_prob(x, u)

    def score(self, x, u):
        self.calls += 1
        assert u.shape == x.shape[:-1]
        assert bool(((u >= 0) & (u <= 1)).all())
        return self.inner.score(x, u)


def start(manifold, pairs=3):
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, pairs, 4, generator=generator, dtype=torch.float64)
    x = manifold.project(x)
    return x, 2 * manifold.tangent(x, v)


def problem(manifold, *, field=None, alpha=0.7, rows=slice(None), dtype=torch.float64):
    x0, v0 = (part[rows].to(dtype) for part in start(manifold))
    return lg.InitialProblem(field=field or Watched(), manifold=manifold, x0=x0, v0=v0, alpha=alpha)


@MANIFOLDS
def test_they_agree(manifold):
    ends = [SOLVERS[name]().solve(problem(manifold)).path.point(U) for name in SOLVERS]
    fine = lg.solvers.RungeKutta4(steps=400).solve(problem(manifold)).path.point(U)
    for end, tolerance in zip(ends, (2e-5, 2e-7, 2e-7), strict=True):
        torch.testing.assert_close(end, fine, atol=tolerance, rtol=0)


@ALL
@MANIFOLDS
def test_knots_lie_on_the_manifold_at_constant_speed(name, manifold):
    solution = SOLVERS[name]().solve(problem(manifold))
    x0, v0 = start(manifold)
    assert set(solution.status) == {Status.INTEGRATED}
    assert solution.stats["reached"].tolist() == [1.0] * 3
    assert torch.equal(solution.path.point(U)[:, 0], x0)
    assert bool(manifold.contains(solution.path.knots, 1e-14).all())
    speed = solution.path.velocities.norm(dim=-1)
    torch.testing.assert_close(speed, v0.norm(dim=-1, keepdim=True).expand_as(speed), rtol=1e-13, atol=0)
    if manifold is SPHERE:
        radial = (solution.path.velocities * solution.path.knots).sum(-1)
        assert float(radial.abs().max()) < 1e-13 * 9
    assert bool((solution.stats["residual"] < 3e-4).all())


@ALL
@MANIFOLDS
def test_the_path_between_the_knots_satisfies_the_equation(name, manifold):
    solution, at = SOLVERS[name]().solve(problem(manifold)), torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    speed = solution.path.velocity(at).norm(dim=-1)
    torch.testing.assert_close(speed, start(manifold)[1].norm(dim=-1, keepdim=True).expand_as(speed), rtol=1e-4, atol=0)
    assert float(lg.geometry.residual(solution.path, Watched(), manifold, 0.7, at).max()) < 5e-3


@ALL
def test_it_follows_a_half_circle_of_the_half_space(name):
    x0, v0 = torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([[1.2, 0.0]], dtype=torch.float64)
    initial = lg.InitialProblem(field=lg.HalfSpace(), manifold=lg.Euclidean(), x0=x0, v0=v0)
    path = SOLVERS[name]().solve(initial).path
    torch.testing.assert_close(path.point(U).norm(dim=-1), torch.ones(1, 11, dtype=torch.float64), atol=1e-6, rtol=0)
    end = torch.tensor([math.sin(1.2), math.cos(1.2)], dtype=torch.float64)
    torch.testing.assert_close(path.point(U)[0, -1], end, atol=1e-6, rtol=0)


@ALL
def test_a_uniform_density_gives_great_circles_however_long(name):
    x0, v0 = start(SPHERE)
    v0 = 5 * v0 / v0.norm(dim=-1, keepdim=True) * 3.0
    initial = lg.InitialProblem(field=lg.UniformDensity(), manifold=SPHERE, x0=x0, v0=v0)
    solution = SOLVERS[name]().solve(initial)
    angle = 5 * U[:, None]
    wanted = angle.cos() * x0[:, None] + angle.sin() * v0[:, None] / 5
    torch.testing.assert_close(solution.path.point(U), wanted, atol=2e-5, rtol=0)


@ALL
def test_alpha_zero_asks_for_great_circles(name):
    x0, v0 = start(SPHERE)
    path = SOLVERS[name]().solve(problem(SPHERE, alpha=0.0)).path
    torch.testing.assert_close(path.point(U[-1:])[:, 0], SPHERE.exp(x0, v0), atol=1e-5, rtol=0)


@ALL
def test_the_books_are_right(name):
    field = Watched()
    solution = SOLVERS[name]().solve(problem(SPHERE, field=field))
    assert field.evaluations == int(solution.stats["evaluations"].sum())
    assert field.calls == int(solution.stats["sequential"].max())
    assert bool((solution.stats["iterations"] > 0).all())
    assert bool((solution.trace.evaluations[-1] == solution.stats["evaluations"]).all())
    expected = lg.geometry.relative_length(solution.path, field, 0.7)
    torch.testing.assert_close(solution.trace.length[-1], expected, rtol=2e-2, atol=0)


@ALL
@MANIFOLDS
def test_a_pair_does_not_depend_on_its_batch(name, manifold):
    together = SOLVERS[name]().solve(problem(manifold))
    for row in range(3):
        alone = SOLVERS[name]().solve(problem(manifold, rows=slice(row, row + 1)))
        torch.testing.assert_close(alone.path.point(U)[0], together.path.point(U)[row], rtol=1e-12, atol=1e-12)
        for count in ("evaluations", "sequential", "iterations"):
            assert int(alone.stats[count]) == int(together.stats[count][row])


@ALL
def test_a_score_that_is_not_finite_stops_its_pair_alone(name):
    x0 = torch.zeros(2, 2, dtype=torch.float64)
    v0 = torch.tensor([[1.9, 0.0], [0.1, 0.05]], dtype=torch.float64)
    initial = lg.InitialProblem(field=lg.PoincareBall(), manifold=lg.Euclidean(), x0=x0, v0=v0)
    solution = SOLVERS[name]().solve(initial)
    assert solution.status == (Status.NON_FINITE_SCORE, Status.INTEGRATED)
    assert not solution.status[0].ok
    assert torch.isfinite(solution.path.point(U)).all()
    ends = solution.path.point(U)[:, -1].norm(dim=-1)
    assert 0.5 < float(solution.stats["reached"][0]) < 1 / 1.9
    assert 0.9 < float(ends[0]) < 1
    assert bool((solution.path.velocity(U[-1:])[0] == 0).all())
    assert float(ends[1]) == pytest.approx(0.125**0.5 / 10**0.5, rel=1e-9)


@ALL
def test_a_score_that_is_nowhere_finite_leaves_the_start(name):
    class Nowhere(lg.ScoreField):
        def score(self, x, u):
            return torch.full_like(x, torch.nan)

    solution = SOLVERS[name]().solve(problem(SPHERE, field=Nowhere()))
    assert set(solution.status) == {Status.NON_FINITE_SCORE}
    torch.testing.assert_close(solution.path.point(U), start(SPHERE)[0][:, None].expand(-1, 11, -1))
    assert bool((solution.stats["reached"] == 0).all())


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["zero", "radial"])
def test_a_velocity_without_a_direction_is_a_status(name, dtype, kind):
    x0, v0 = (part.to(dtype) for part in start(SPHERE))
    v0 = v0.clone()
    v0[1] = 0 if kind == "zero" else 0.7 * x0[1]
    solution = SOLVERS[name]().solve(lg.InitialProblem(field=Watched(), manifold=SPHERE, x0=x0, v0=v0, alpha=0.1))
    assert solution.status == (Status.INTEGRATED, Status.ZERO_VELOCITY, Status.INTEGRATED)
    assert "tangent" in solution.status[1].sentence
    torch.testing.assert_close(solution.path.point(U)[1], x0[1].expand(11, -1))
    assert solution.stats["evaluations"][1] == 0


@pytest.mark.parametrize("name", ["adaptive", "parallel"])
def test_a_budget_stops_a_path_where_it_got_to(name):
    solution = SOLVERS[name](max_evaluations=40).solve(problem(SPHERE))
    assert set(solution.status) == {Status.STOPPED_SHORT}
    assert "max_evaluations" in Status.STOPPED_SHORT.sentence
    assert bool((solution.stats["evaluations"] <= 40).all())
    reached = float(solution.stats["reached"][0])
    assert 0 <= reached < 1
    whole = SOLVERS[name]().solve(problem(SPHERE)).path
    at = torch.tensor([reached], dtype=torch.float64)
    torch.testing.assert_close(solution.path.point(U[-1:])[0], whole.point(at)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["adaptive", "parallel"])
def test_a_tolerance_below_rounding_error_is_a_status(name):
    solver = {"adaptive": lg.solvers.AdaptiveRungeKutta, "parallel": lg.solvers.ParallelCollocation}[name]
    solution = solver(tolerance=1e-15, max_evaluations=10**5).solve(problem(SPHERE, dtype=torch.float32))
    assert set(solution.status) <= {Status.STEP_TOO_SMALL, Status.STOPPED_SHORT}
    assert "float64" in Status.STEP_TOO_SMALL.sentence


@pytest.mark.parametrize("name", ["adaptive", "parallel"])
def test_float32_reaches_a_tolerance_within_its_precision(name):
    solver = {"adaptive": lg.solvers.AdaptiveRungeKutta, "parallel": lg.solvers.ParallelCollocation}[name]
    solution = solver(tolerance=1e-5).solve(problem(SPHERE, dtype=torch.float32))
    assert set(solution.status) == {Status.INTEGRATED}
    fine = SOLVERS[name]().solve(problem(SPHERE)).path.point(U)
    torch.testing.assert_close(solution.path.point(U).double(), fine, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("solver", "options", "words"),
    [
        (lg.solvers.AdaptiveRungeKutta, {"tolerance": 0}, "tolerance must lie between 0 and 1"),
        (lg.solvers.AdaptiveRungeKutta, {"max_evaluations": 0}, "max_evaluations must be at least 1"),
        (lg.solvers.ParallelCollocation, {"nodes": 3}, "nodes must be at least 4"),
        (lg.solvers.ParallelCollocation, {"tolerance": 1.5}, "tolerance must lie between 0 and 1"),
        (lg.solvers.ParallelCollocation, {"max_evaluations": 0}, "max_evaluations must be at least 1"),
        (lg.solvers.ParallelCollocation, {"memory": -1}, "memory must not be negative"),
        (lg.solvers.ParallelCollocation, {"patience": 1}, "patience must be at least 2"),
    ],
)
def test_arguments_are_validated(solver, options, words):
    with pytest.raises(ValueError, match=words):
        solver(**options)
