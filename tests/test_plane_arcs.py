"""Geodesics of the plane in closed form: circles in the right place, run through at a constant speed."""

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.data.scenes import half_plane_geodesic, poincare_disc_geodesic

U = torch.linspace(0, 1, 20001, dtype=torch.float64)
HALF_PLANE = [([-1.5, 0.35], [1.0, 1.1]), ([0.3, 0.2], [0.3, 2.0]), ([2.0, 1.0], [-2.0, 0.1])]
DISC = [
    ([-0.82, -0.38], [-0.15, 0.75]),
    ([-0.4, -0.4], [0.6, 0.6]),
    ([0.9, 0.0], [0.0, -0.5]),
    ([0.0, 0.0], [0.5, 0.1]),
]


def point(values):
    return torch.tensor(values, dtype=torch.float64)


def length(points, density):
    steps = points.diff(dim=0).norm(dim=-1)
    cost = (-density.log_prob(points, U)).exp()
    return ((cost[1:] + cost[:-1]) / 2 * steps).sum()


@pytest.mark.parametrize(
    ("geodesic", "density", "ends"),
    [(half_plane_geodesic, lg.HalfSpace(), ends) for ends in HALF_PLANE]
    + [(poincare_disc_geodesic, lg.PoincareBall(), ends) for ends in DISC],
)
def test_the_arc_joins_the_ends_at_constant_speed_and_is_as_long_as_their_distance(geodesic, density, ends):
    a, b = map(point, ends)
    points = geodesic(a, b, U)
    assert torch.allclose(points[[0, -1]], torch.stack([a, b]), atol=1e-12)
    steps = points.diff(dim=0).norm(dim=-1)
    assert torch.allclose(steps, steps.mean().expand_as(steps), rtol=1e-6)
    assert float(length(points, density)) == pytest.approx(float(density.distance(a, b)), rel=1e-5)


@pytest.mark.parametrize(
    ("geodesic", "density", "ends"),
    [(half_plane_geodesic, lg.HalfSpace(), HALF_PLANE[0]), (poincare_disc_geodesic, lg.PoincareBall(), DISC[0])],
)
def test_the_default_solver_finds_the_arc(geodesic, density, ends):
    a, b = map(point, ends)
    problem = lg.BoundaryProblem(field=density, manifold=lg.Euclidean(), x0=a[None], x1=b[None])
    u = torch.linspace(0, 1, 33, dtype=torch.float64)
    found = lg.solvers.PicardAnderson(intervals=64, tolerance=1e-7, max_evaluations=5000).solve(problem)
    assert float((found.path.point(u)[0] - geodesic(a, b, u)).norm(dim=-1).max()) < 1e-6 * float((b - a).norm())
