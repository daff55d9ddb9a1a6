"""Metrics of sequences of images, of the paths that they came from and of sets of images, behind one seam."""

from latent_geodesics.metrics.attributes import AttributeErrors
from latent_geodesics.metrics.base import (
    Column,
    FrameMetric,
    MorphMetric,
    Provenance,
    RunFacts,
    SequenceMetric,
    SetMetric,
    known_columns,
)
from latent_geodesics.metrics.feature_distances import FeatureDistances
from latent_geodesics.metrics.measured import (
    FrameDistances,
    GivenPairs,
    MeasuredMorph,
    MetricMemory,
    PathCurves,
    closed_curves,
    in_eight_bits,
    path_curves,
    reference_curves,
)
from latent_geodesics.metrics.networks import (
    ClevrFeatures,
    ClevrPerception,
    FeatureNetwork,
    ImageNetRange,
    Inception,
    InputRange,
    Lpips,
    Package,
    PerceptualNetwork,
    SignedRange,
    UnitRange,
)
from latent_geodesics.metrics.panel import MetricPanel, MetricRecord, check_metrics
from latent_geodesics.metrics.path_quality import DensityBow, NoiseNorm, PathQuality
from latent_geodesics.metrics.perceptual import PerceptualSmoothness, Reconstruction, TruthError
from latent_geodesics.metrics.pixels import Ghosting, OpticalFlow, Sharpness, Verdict, verdict_word
from latent_geodesics.metrics.protocol import (
    AllFrames,
    Average,
    Evenness,
    FrameChoice,
    InnerFrames,
    Protocol,
    ProtocolSteps,
    RandomFrames,
    StandardDeviation,
    StepStatistic,
    Total,
    Variance,
)
from latent_geodesics.metrics.topiq import TopiqNoReference, TopiqTruth
from latent_geodesics.metrics.typicality import Typicality
from latent_geodesics.metrics.visible import ColorVideoVdp, Flip

__all__ = [
    "AllFrames", "AttributeErrors", "Average", "ClevrFeatures", "ClevrPerception", "ColorVideoVdp", "Column",
    "DensityBow", "Evenness", "FeatureDistances", "FeatureNetwork", "Flip", "FrameChoice", "FrameDistances",
    "FrameMetric", "Ghosting", "GivenPairs", "ImageNetRange", "Inception", "InnerFrames", "InputRange", "Lpips",
    "MeasuredMorph", "MetricMemory", "MetricPanel", "MetricRecord", "MorphMetric", "NoiseNorm", "OpticalFlow",
    "Package", "PathCurves", "PathQuality", "PerceptualNetwork", "PerceptualSmoothness", "Protocol",
    "ProtocolSteps", "Provenance", "RandomFrames", "Reconstruction", "RunFacts", "SequenceMetric", "SetMetric",
    "Sharpness", "SignedRange", "StandardDeviation", "StepStatistic", "TopiqNoReference", "TopiqTruth", "Total",
    "TruthError", "Typicality", "UnitRange", "Variance", "Verdict", "check_metrics", "closed_curves",
    "in_eight_bits", "known_columns", "path_curves", "reference_curves", "verdict_word",
]  # fmt: skip
