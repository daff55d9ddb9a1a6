"""Methods: anything that turns a pair of images into a sequence of images, behind one seam."""

from latent_geodesics.methods.aid import InnerAttentionInterpolation, OuterAttentionInterpolation
from latent_geodesics.methods.base import (
    Attempt,
    CurveMethod,
    Method,
    Morph,
    PairMethod,
    PathMethod,
    Retimed,
    TimedMethod,
    attempt,
    status_sentence,
)
from latent_geodesics.methods.diffmorpher import DiffMorpher
from latent_geodesics.methods.encoding import EncodedPairs, PairEncoder
from latent_geodesics.methods.freemorph import FreeMorph
from latent_geodesics.methods.geodesic import Geodesic, Reposed
from latent_geodesics.methods.impus import Impus
from latent_geodesics.methods.lines import AdainSlerp, Lerp, LinearCombination, Slerp
from latent_geodesics.methods.nao import NormGuided
from latent_geodesics.methods.noise_diffusion import NoiseDiffusion
from latent_geodesics.methods.references import AutoencodedTruth, CrossFade, InvertedTruth, TrueFrames
from latent_geodesics.methods.smooth_diffusion import SmoothDiffusion
from latent_geodesics.methods.timing import AttributeDistance, PerceptualTiming, Timing
from latent_geodesics.methods.wang_golland import WangGolland

__all__ = [
    "AdainSlerp",
    "Attempt",
    "AttributeDistance",
    "AutoencodedTruth",
    "CrossFade",
    "CurveMethod",
    "DiffMorpher",
    "EncodedPairs",
    "FreeMorph",
    "Geodesic",
    "Impus",
    "InnerAttentionInterpolation",
    "InvertedTruth",
    "Lerp",
    "LinearCombination",
    "Method",
    "Morph",
    "NoiseDiffusion",
    "NormGuided",
    "OuterAttentionInterpolation",
    "PairEncoder",
    "PairMethod",
    "PathMethod",
    "PerceptualTiming",
    "Reposed",
    "Retimed",
    "Slerp",
    "SmoothDiffusion",
    "TimedMethod",
    "Timing",
    "TrueFrames",
    "WangGolland",
    "attempt",
    "status_sentence",
]
