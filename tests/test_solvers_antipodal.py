"""Antipodal ends, which infinitely many great circles join: the density chooses, or it is said that it does not."""

import math

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.core.records import Status

U = torch.linspace(0, 1, 33, dtype=torch.float64)
SPHERE = lg.Sphere(1.5)


def vectors(count, d, seed):
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solve(field, x0, x1, *, solver=None, **geometry):
    problem = lg.BoundaryProblem(field=field, manifold=SPHERE, x0=x0, x1=x1, **(geometry or {"alpha": 0.6}))
    return (solver or lg.solvers.PicardAnderson()).solve(problem)


def mixture(d, dtype=torch.float64):
    return lg.GaussianMixture(
        means=SPHERE.project(vectors(5, d, 3)).to(dtype), scales=torch.full((5,), 0.9, dtype=dtype)
    )


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("geometry", [lg.Conformal(alpha=0.6), lg.Graph(lam=0.5)], ids=["conformal", "graph"])
def test_the_path_is_as_short_as_those_between_ends_that_are_almost_antipodal(d, geometry):
    field, x0 = mixture(d), SPHERE.project(vectors(3, d, 4))
    solution = solve(field, x0, -x0, geometry=geometry)
    assert set(solution.status) == {Status.CONVERGED}
    assert torch.equal(solution.path.point(U)[:, -1], -x0)
    assert bool(SPHERE.contains(solution.path.point(U), 1e-9).all())
    length = lg.geometry.length(solution.path, field, geometry)
    nudges = torch.cat([torch.eye(d, dtype=torch.float64), -torch.eye(d, dtype=torch.float64)])[: 2 * min(d, 4)]
    beside = [SPHERE.project(-x0 + 1e-3 * SPHERE.tangent(x0, nudge.expand_as(x0))) for nudge in nudges]
    many = solve(field, x0.repeat(len(beside), 1), torch.cat(beside), geometry=geometry)
    shortest = lg.geometry.length(many.path, field, geometry).reshape(-1, 3).amin(0)
    assert bool((length <= 1.03 * shortest).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_density_on_one_side_is_passed_on_that_side(dtype):
    x0, side = SPHERE.project(torch.eye(6, dtype=dtype)[:1]), SPHERE.project(torch.eye(6, dtype=dtype)[1:2])
    field = lg.GaussianMixture(means=side, scales=torch.tensor([1.0], dtype=dtype))
    solution = solve(field, x0, -x0)
    assert solution.status == (Status.CONVERGED,)
    # By symmetry the arc through the side is the geodesic.
    torch.testing.assert_close(solution.path.point(U)[:, 16], side, atol=2e-3, rtol=0)
    assert int(solution.stats["evaluations"]) == field.evaluations


@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_where_the_density_is_symmetric_about_the_ends_it_is_said_and_a_great_circle_given(d, dtype):
    x0 = SPHERE.project(vectors(2, d, 6)).to(dtype)
    field = lg.GaussianMixture(
        means=torch.stack([0.8 * x0[0], 0 * x0[0]]), scales=torch.tensor([0.7, 1.0], dtype=dtype)
    )
    solution = solve(field, x0[:1], -x0[:1])
    assert solution.status == (Status.ANTIPODAL_ENDS,)
    assert "does not tell the great circles" in solution.status[0].sentence
    arc = solution.path.point(U)
    assert float((arc.norm(dim=-1) - 1.5).abs().max()) < 1e-5
    turned = SPHERE.angle(arc[:, :1].expand_as(arc).double(), arc.double())
    torch.testing.assert_close(turned[0], math.pi * U, atol=1e-3, rtol=0)
    # A pair that is not symmetric, in the same batch, is solved as it is alone.
    both = solve(field, x0, -x0)
    assert both.status == (Status.ANTIPODAL_ENDS, Status.CONVERGED)
    alone = solve(field, x0[1:], -x0[1:])
    torch.testing.assert_close(both.path.point(U)[1], alone.path.point(U)[0], atol=1e-6, rtol=0)


def test_other_boundary_solvers_begin_at_the_same_arc():
    field, x0 = mixture(4), SPHERE.project(vectors(2, 4, 8))
    best = lg.geometry.length(solve(field, x0, -x0).path, field, 0.6)
    plain = lg.geometry.length(lg.GreatCircle(x0=x0, x1=-x0, sphere=SPHERE), field, 0.6)
    for solver in (lg.solvers.ControlPointDescent(tolerance=0.1), lg.solvers.StringMethod(max_evaluations=3000)):
        solution = solve(field, x0, -x0, solver=solver)
        assert Status.ANTIPODAL_ENDS not in solution.status
        assert bool(torch.isfinite(solution.path.point(U)).all())
        if isinstance(solver, lg.solvers.ControlPointDescent):
            length = lg.geometry.length(solution.path, field, 0.6)
            assert bool((length < plain).all())
            assert bool((length < 1.2 * best).all())


def test_the_choice_costs_no_more_than_the_budget_allows():
    field, x0 = mixture(3), SPHERE.project(vectors(1, 3, 4))
    for budget in (10, 60, 90):
        solution = solve(field, x0, -x0, solver=lg.solvers.PicardAnderson(max_evaluations=budget))
        assert int(solution.stats["evaluations"]) <= budget
        assert solution.status == (Status.BUDGET_EXHAUSTED,)


def test_arcs_keep_their_direction_in_parts_reversed_and_in_float64():
    x0 = SPHERE.project(vectors(3, 5, 1)).float()
    x1 = torch.cat([-x0[:2], x0[:1]])
    arcs = lg.GreatCircle(x0=x0, x1=x1, sphere=SPHERE, direction=vectors(3, 5, 2).float())
    points = arcs.point(U)
    torch.testing.assert_close(arcs.reversed().point(1 - U), points, atol=1e-5, rtol=0)
    torch.testing.assert_close(arcs.restrict(torch.tensor([1, 2])).point(U), points[1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(arcs.double().point(U), points.double(), atol=1e-5, rtol=0)
