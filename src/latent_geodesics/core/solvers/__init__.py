"""Solvers: three for the boundary problem, three for the initial problem."""

from latent_geodesics.core.solvers.base import BoundarySolver
from latent_geodesics.core.solvers.control_point_descent import ControlPointDescent
from latent_geodesics.core.solvers.control_points import ControlPointPath
from latent_geodesics.core.solvers.initial import InitialSolver
from latent_geodesics.core.solvers.parallel_collocation import ParallelCollocation
from latent_geodesics.core.solvers.picard_anderson import PicardAnderson
from latent_geodesics.core.solvers.runge_kutta import AdaptiveRungeKutta, RungeKutta4
from latent_geodesics.core.solvers.string_method import StringMethod

__all__ = [
    "AdaptiveRungeKutta",
    "BoundarySolver",
    "ControlPointDescent",
    "ControlPointPath",
    "InitialSolver",
    "ParallelCollocation",
    "PicardAnderson",
    "RungeKutta4",
    "StringMethod",
]
