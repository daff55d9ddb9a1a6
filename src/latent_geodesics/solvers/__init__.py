"""Solvers: two for the boundary problem, one for the initial problem."""

from latent_geodesics.solvers.base import BoundarySolver

__all__ = ["BoundarySolver"]
