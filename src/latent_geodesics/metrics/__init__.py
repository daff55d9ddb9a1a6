"""Metrics of a sequence of images and of the path that it came from, behind one seam."""

from latent_geodesics.metrics.base import MeasuredMorph, SequenceMetric
from latent_geodesics.metrics.curves import PathCurves, path_curves
from latent_geodesics.metrics.path_quality import PathQuality
from latent_geodesics.metrics.perceptual import PerceptualSmoothness, Reconstruction, TruthError

__all__ = [
    "MeasuredMorph",
    "PathCurves",
    "PathQuality",
    "PerceptualSmoothness",
    "Reconstruction",
    "SequenceMetric",
    "TruthError",
    "path_curves",
]
