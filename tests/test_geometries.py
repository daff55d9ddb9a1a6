"""Geometries: the seam, and each against closed forms, quadrature and direct minimisation."""

import pytest
import torch

import latent_geodesics as lg

U = torch.linspace(0, 1, 17, dtype=torch.float64)


def test_alpha_is_short_for_the_conformal_geometry():
    x0, x1 = torch.tensor([[0.5, 0.0]]).double(), torch.tensor([[0.0, 0.6]]).double()
    ends = {"field": lg.PoincareBall(), "manifold": lg.Euclidean(), "x0": x0, "x1": x1}
    short, long = lg.BoundaryProblem(**ends, alpha=0.5), lg.BoundaryProblem(**ends, geometry=lg.Conformal(alpha=0.5))
    assert short.geometry == long.geometry
    assert lg.BoundaryProblem(**ends).geometry == lg.Conformal(alpha=1.0)
    paths = [lg.solvers.PicardAnderson().solve(problem).path for problem in (short, long)]
    assert torch.equal(paths[0].point(U), paths[1].point(U))
    measured = [lg.geometry.residual(paths[0], lg.PoincareBall(), lg.Euclidean(), g, U) for g in (0.5, long.geometry)]
    assert torch.equal(*measured)
    with pytest.raises(ValueError, match="not both"):
        lg.BoundaryProblem(**ends, alpha=0.5, geometry=lg.Conformal(alpha=0.5))
    with pytest.raises(ValueError, match=r"must be a Geometry.*received 0\.5"):
        lg.BoundaryProblem(**ends, geometry=0.5)
    for wrong in (-1.0, float("nan"), "much", True):
        with pytest.raises(ValueError, match="alpha must be a finite number"):
            lg.Conformal(alpha=wrong)
