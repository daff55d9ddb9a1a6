import torch

import latent_geodesics as lg
from latent_geodesics.core.solvers import PicardAnderson
from latent_geodesics.methods import Geodesic


def problem_on_a_sphere(alpha):
    rng = torch.Generator().manual_seed(0)
    sphere = lg.Sphere(radius=3.0)
    ends = sphere.project(torch.randn(2, 4, 5, generator=rng, dtype=torch.float64))
    field = lg.GaussianMixture(
        means=torch.eye(5, dtype=torch.float64)[:2] * 3, scales=torch.full((2,), 2.0, dtype=torch.float64)
    )
    return lg.BoundaryProblem(field=field, manifold=sphere, x0=ends[0], x1=ends[1], alpha=alpha)


def norms(sphere, alpha):
    method = Geodesic(solver=PicardAnderson(), sphere=sphere)
    problem = problem_on_a_sphere(alpha)
    solution = method.solve(problem)
    assert all(status.ok for status in solution.status)
    assert method.manifold(problem).contains(solution.path.point(torch.tensor([0.5]))[:, 0], 1e-6).all()
    return solution.path.point(torch.linspace(0, 1, 9)).norm(dim=-1)


def test_on_the_sphere_every_point_keeps_the_norm():
    torch.testing.assert_close(norms(True, 0.1), torch.full((4, 9), 3.0, dtype=torch.float64))


def test_in_flat_space_only_the_ends_do():
    found = norms(False, 0.1)
    torch.testing.assert_close(found[:, [0, -1]], torch.full((4, 2), 3.0, dtype=torch.float64))
    assert (found[:, 1:-1] < 3.0 - 1e-3).all()
