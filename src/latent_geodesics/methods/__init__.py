"""Methods: anything that turns a pair of images into a sequence of images, behind one seam."""

from latent_geodesics.methods.base import Method, Morph, PathMethod
from latent_geodesics.methods.encoding import EncodedPairs, PairEncoder
from latent_geodesics.methods.geodesic import Geodesic
from latent_geodesics.methods.lines import Lerp, Slerp

__all__ = ["EncodedPairs", "Geodesic", "Lerp", "Method", "Morph", "PairEncoder", "PathMethod", "Slerp"]
