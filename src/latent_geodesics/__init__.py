"""Probability-density geodesics in the latent space of image diffusion models.

Given the score of a density, find the shortest path between two points where improbable regions are slow to cross.

Example:
    >>> import torch
    >>> import latent_geodesics as lg
    >>> x0, x1 = torch.tensor([[0.6, 0.0]]), torch.tensor([[0.0, 0.6]])
    >>> problem = lg.BoundaryProblem(field=lg.PoincareBall(), manifold=lg.Euclidean(), x0=x0, x1=x1)
    >>> solution = lg.solvers.PicardAnderson().solve(problem)
    >>> solution.path.point(torch.linspace(0, 1, 17)).shape
    torch.Size([1, 17, 2])
"""

from typing import TYPE_CHECKING

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.former import install
from latent_geodesics.core.lazy import names_on_demand

if TYPE_CHECKING:
    from latent_geodesics.core import geometries, geometry, solvers
    from latent_geodesics.core.fields import (
        Banana,
        Density,
        Exponential,
        GaussianMixture,
        HalfSpace,
        IsotropicGaussian,
        PoincareBall,
        RecordedField,
        Resolution,
        ScoreField,
        StereographicSphere,
        UniformDensity,
    )
    from latent_geodesics.core.geometries import Conformal, Geometry, Graph, Typical
    from latent_geodesics.core.hermite import HermitePath
    from latent_geodesics.core.manifold import Euclidean, Manifold, Sphere
    from latent_geodesics.core.path import GreatCircle, KnotPath, Path, StraightLine, shortest_path
    from latent_geodesics.core.records import BoundaryProblem, InitialProblem, Solution, Status, Trace
    from latent_geodesics.models import load_model
    from latent_geodesics.run.interpolation import Interpolation, interpolate

__all__ = [
    "Banana",
    "BoundaryProblem",
    "Conformal",
    "Density",
    "Euclidean",
    "Exponential",
    "GaussianMixture",
    "Geometry",
    "Graph",
    "GreatCircle",
    "HalfSpace",
    "HermitePath",
    "InitialProblem",
    "Interpolation",
    "IsotropicGaussian",
    "KnotPath",
    "Manifold",
    "Path",
    "PoincareBall",
    "RecordedField",
    "Resolution",
    "ScoreField",
    "Solution",
    "Sphere",
    "Status",
    "StereographicSphere",
    "StraightLine",
    "Trace",
    "Typical",
    "UniformDensity",
    "UserError",
    "geometries",
    "geometry",
    "interpolate",
    "load_model",
    "shortest_path",
    "solvers",
]

install()

# torch takes seconds to import: a wrong argument on the command line is told without it.
__getattr__, __dir__ = names_on_demand(__name__)
