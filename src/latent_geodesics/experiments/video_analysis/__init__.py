"""How close the path of a video's frames is to a geodesic: its paths, their geodesic gradient, and what follows.

References:
    Yu et al., Probability Density Geodesics in Image Diffusion Latent Space (2025), arXiv 2504.06675, Figure 3.
"""

from latent_geodesics.experiments.video_analysis.analysis import Again, Analyser, BatchMeasures, PathMeasures
from latent_geodesics.experiments.video_analysis.derivatives import Arcs, Bend, Derivatives, PublishedSpline
from latent_geodesics.experiments.video_analysis.encoding import EncodedVideos, VideoEncoder
from latent_geodesics.experiments.video_analysis.gradient import Gradient, independent_draws, measure_gradient
from latent_geodesics.experiments.video_analysis.optimised import Optimised, Optimiser
from latent_geodesics.experiments.video_analysis.variations import (
    great_circle,
    mean_step,
    perturbed,
    smoothed,
    tangent_noise,
)

__all__ = [
    "Again",
    "Analyser",
    "Arcs",
    "BatchMeasures",
    "Bend",
    "Derivatives",
    "EncodedVideos",
    "Gradient",
    "Optimised",
    "Optimiser",
    "PathMeasures",
    "PublishedSpline",
    "VideoEncoder",
    "great_circle",
    "independent_draws",
    "mean_step",
    "measure_gradient",
    "perturbed",
    "smoothed",
    "tangent_noise",
]
