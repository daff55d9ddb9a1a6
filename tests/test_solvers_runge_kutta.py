"""The integrator of the initial problem."""

import math

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.core.records import Status

U = torch.linspace(0, 1, 11, dtype=torch.float64)
SPHERE = lg.Sphere(3.0)
FIELD = lg.IsotropicGaussian(mean=torch.tensor([0.5, 0.0, 0.0, 0.0], dtype=torch.float64), scale=2.0)


def start(manifold, pairs=3):
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, pairs, 4, generator=generator, dtype=torch.float64)
    x = manifold.project(x)
    return x, 2 * manifold.tangent(x, v)


def integrate(manifold, *, steps=20, field=FIELD, alpha=0.7, **options):
    x0, v0 = start(manifold)
    problem = lg.InitialProblem(field=field, manifold=manifold, x0=x0, v0=v0, alpha=alpha)
    return lg.solvers.RungeKutta4(steps=steps, **options).solve(problem)


def order(manifold, **options):
    fine = integrate(manifold, steps=200).path.point(U)
    errors = [
        float((integrate(manifold, steps=steps, **options).path.point(U) - fine).norm(dim=-1).max())
        for steps in (8, 16)
    ]
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("manifold", [lg.Euclidean(), SPHERE], ids=["flat", "sphere"])
def test_it_is_of_order_four(manifold):
    assert order(manifold) > 3.5


@pytest.mark.parametrize("manifold", [lg.Euclidean(), SPHERE], ids=["flat", "sphere"])
def test_its_error_falls_sixteenfold_when_the_step_halves(manifold):
    fine = integrate(manifold, steps=320).path.knots[:, -1]
    coarse, half = ((integrate(manifold, steps=s).path.knots[:, -1] - fine).norm(dim=-1) for s in (20, 40))
    assert bool((coarse / half > 12).all())
    assert bool((coarse / half < 20).all())


def test_without_the_normal_term_it_is_of_order_two_on_a_sphere():
    assert 1.5 < order(SPHERE, normal_term=False) < 2.5


@pytest.mark.parametrize("manifold", [lg.Euclidean(), SPHERE], ids=["flat", "sphere"])
def test_knots_lie_on_the_manifold_at_constant_speed(manifold):
    solution = integrate(manifold)
    x0, v0 = start(manifold)
    assert torch.equal(solution.path.point(U)[:, 0], x0)
    assert bool(manifold.contains(solution.path.point(U), 1e-12).all())
    speed = solution.path.velocities.norm(dim=-1)
    torch.testing.assert_close(speed, v0.norm(dim=-1, keepdim=True).expand_as(speed))
    assert set(solution.status) == {Status.INTEGRATED}


def test_it_follows_a_half_circle_of_the_half_space():
    x0, v0 = torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([[1.2, 0.0]], dtype=torch.float64)
    problem = lg.InitialProblem(field=lg.HalfSpace(), manifold=lg.Euclidean(), x0=x0, v0=v0)
    path = lg.solvers.RungeKutta4(steps=50).solve(problem).path
    torch.testing.assert_close(path.point(U).norm(dim=-1), torch.ones(1, 11, dtype=torch.float64))
    end = torch.tensor([math.sin(1.2), math.cos(1.2)], dtype=torch.float64)
    torch.testing.assert_close(path.point(U)[0, -1], end, atol=1e-7, rtol=0)


def test_it_continues_what_the_boundary_solver_finds():
    x0, x1 = start(SPHERE)[0][:2], start(SPHERE)[0][1:3]
    boundary = lg.BoundaryProblem(field=FIELD, manifold=SPHERE, x0=x0, x1=x1, alpha=0.5)
    path = lg.solvers.PicardAnderson(tolerance=1e-8, intervals=32, max_evaluations=2000).solve(boundary).path
    initial = lg.InitialProblem(field=FIELD, manifold=SPHERE, x0=x0, v0=path.velocity(U[:1])[:, 0], alpha=0.5)
    found = lg.solvers.RungeKutta4(steps=100).solve(initial).path
    torch.testing.assert_close(found.point(U), path.point(U), atol=1e-4, rtol=0)


def test_a_uniform_density_gives_great_circles():
    solution = integrate(SPHERE, field=lg.UniformDensity(), steps=100)
    x0, v0 = start(SPHERE)
    torch.testing.assert_close(solution.path.point(U[-1:])[:, 0], SPHERE.exp(x0, v0), atol=1e-6, rtol=0)


def test_evaluations_and_trace():
    field = lg.IsotropicGaussian(mean=FIELD.mean, scale=2.0)
    solution = integrate(SPHERE, field=field)
    assert solution.stats["evaluations"].tolist() == [81] * 3
    assert solution.stats["iterations"].tolist() == [20] * 3
    assert field.evaluations == 243
    assert solution.trace.length.shape == (20, 3)
    expected = lg.geometry.relative_length(solution.path, field, 0.7)
    torch.testing.assert_close(solution.trace.length[-1], expected, rtol=5e-3, atol=0)
    assert bool((solution.stats["residual"] < 0.02).all())


def test_a_score_that_is_not_finite_stops_its_pair_alone():
    x0 = torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    v0 = torch.tensor([[2.0, 0.0], [0.1, 0.05]], dtype=torch.float64)
    problem = lg.InitialProblem(field=lg.PoincareBall(), manifold=lg.Euclidean(), x0=x0, v0=v0)
    solution = lg.solvers.RungeKutta4(steps=30).solve(problem)
    assert solution.status == (Status.NON_FINITE_SCORE, Status.INTEGRATED)
    assert torch.isfinite(solution.path.point(U)).all()
    assert float(solution.path.point(U)[0].norm(dim=-1).max()) < 1
    assert solution.stats["evaluations"][0] < solution.stats["evaluations"][1]
    alone = lg.InitialProblem(field=lg.PoincareBall(), manifold=lg.Euclidean(), x0=x0[1:], v0=v0[1:])
    found = lg.solvers.RungeKutta4(steps=30).solve(alone)
    torch.testing.assert_close(found.path.point(U)[0], solution.path.point(U)[1], rtol=1e-12, atol=1e-14)


def test_a_normal_velocity_stays_where_it_is():
    x0 = start(SPHERE)[0]
    problem = lg.InitialProblem(field=FIELD, manifold=SPHERE, x0=x0, v0=x0.clone())
    solution = lg.solvers.RungeKutta4(steps=5).solve(problem)
    torch.testing.assert_close(solution.path.point(U), x0[:, None].expand(-1, 11, -1))


def test_steps_are_validated():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        lg.solvers.RungeKutta4(steps=0)
