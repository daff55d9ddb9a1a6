"""Score fields: the base classes a user extends, a Gaussian mixture, and densities with known geodesics."""

from latent_geodesics.fields.base import Density, ScoreField
from latent_geodesics.fields.closed_forms import (
    Exponential,
    HalfSpace,
    IsotropicGaussian,
    PoincareBall,
    StereographicSphere,
    UniformDensity,
)
from latent_geodesics.fields.mixture import GaussianMixture

__all__ = [
    "Density",
    "Exponential",
    "GaussianMixture",
    "HalfSpace",
    "IsotropicGaussian",
    "PoincareBall",
    "ScoreField",
    "StereographicSphere",
    "UniformDensity",
]
