"""Score fields: the base classes a user extends, a Gaussian mixture, and densities with known geodesics."""

from latent_geodesics.core.fields.banana import Banana
from latent_geodesics.core.fields.base import (
    COARSE_ERROR,
    Density,
    Resolution,
    ScoreField,
    guarded,
    rounded_resolution,
    well_resolved,
)
from latent_geodesics.core.fields.closed_forms import (
    Exponential,
    HalfSpace,
    IsotropicGaussian,
    PoincareBall,
    StereographicSphere,
    UniformDensity,
)
from latent_geodesics.core.fields.mixture import GaussianMixture
from latent_geodesics.core.fields.recorded import RecordedField

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
