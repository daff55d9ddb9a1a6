"""Score fields: the base classes a user extends, a Gaussian mixture, and densities with known geodesics."""

from latent_geodesics.core.fields.banana import Banana
from latent_geodesics.core.fields.base import Density, ScoreField
from latent_geodesics.core.fields.closed_forms import (
    Exponential,
    HalfSpace,
    IsotropicGaussian,
    PoincareBall,
    StereographicSphere,
    UniformDensity,
)
from latent_geodesics.core.fields.guarded import COARSE_ERROR, guarded, well_resolved
from latent_geodesics.core.fields.mixture import GaussianMixture
from latent_geodesics.core.fields.recorded import RecordedField
from latent_geodesics.core.fields.resolution import Resolution, rounded_resolution

__all__ = [
    "COARSE_ERROR",
    "Banana",
    "Density",
    "Exponential",
    "GaussianMixture",
    "HalfSpace",
    "IsotropicGaussian",
    "PoincareBall",
    "RecordedField",
    "Resolution",
    "ScoreField",
    "StereographicSphere",
    "UniformDensity",
    "guarded",
    "well_resolved",
    "rounded_resolution",
]
