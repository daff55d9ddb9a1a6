"""Score fields: the base classes a user extends, a Gaussian mixture, and densities with known geodesics."""

from latent_geodesics.fields.banana import Banana
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
from latent_geodesics.fields.recorded import RecordedField

__all__ = [
    "Banana",
    "Density",
    "Exponential",
    "GaussianMixture",
    "HalfSpace",
    "IsotropicGaussian",
    "PoincareBall",
    "RecordedField",
    "ScoreField",
    "StereographicSphere",
    "UniformDensity",
]
