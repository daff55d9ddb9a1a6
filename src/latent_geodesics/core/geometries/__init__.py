"""Geometries: what a density makes of the length of a path, behind one seam."""

from latent_geodesics.core.geometries.base import Conformal, Geometry, Sight
from latent_geodesics.core.geometries.graph import Graph
from latent_geodesics.core.geometries.typical import Typical

__all__ = ["Conformal", "Geometry", "Graph", "Sight", "Typical"]
