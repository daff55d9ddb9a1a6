"""Images and pairs of images: reading them, listing them, batching them."""

from latent_geodesics.data.images import read_image
from latent_geodesics.data.pairs import ImagePair, PairBatch, PairData, read_batch, read_manifest

__all__ = ["ImagePair", "PairBatch", "PairData", "read_batch", "read_image", "read_manifest"]
