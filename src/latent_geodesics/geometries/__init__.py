"""Geometries: what a density makes of the length of a path, behind one seam."""

from latent_geodesics.geometries.base import Geometry, Sight
from latent_geodesics.geometries.conformal import Conformal

__all__ = ["Conformal", "Geometry", "Sight"]
