"""Solvers: two for the boundary problem, one for the initial problem."""

from latent_geodesics.solvers.base import BoundarySolver
from latent_geodesics.solvers.picard_anderson import PicardAnderson

__all__ = ["BoundarySolver", "PicardAnderson"]
