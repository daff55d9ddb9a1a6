"""Solvers: two for the boundary problem, one for the initial problem."""

from latent_geodesics.solvers.base import BoundarySolver
from latent_geodesics.solvers.control_point_descent import ControlPointDescent
from latent_geodesics.solvers.control_points import ControlPointPath
from latent_geodesics.solvers.picard_anderson import PicardAnderson
from latent_geodesics.solvers.runge_kutta import RungeKutta4

__all__ = ["BoundarySolver", "ControlPointDescent", "ControlPointPath", "PicardAnderson", "RungeKutta4"]
