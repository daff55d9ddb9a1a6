"""Images and pairs of images: reading them, listing them, batching them."""

from latent_geodesics.data.batches import NumberedBatch, PairBatches
from latent_geodesics.data.benchmarks import Afhq, CelebAHq, MorphBench
from latent_geodesics.data.images import read_image
from latent_geodesics.data.pairs import (
    ImagePair,
    PairBatch,
    PairData,
    PairSelection,
    read_batch,
    read_manifest,
    read_shard,
)
from latent_geodesics.data.video_files import read_video
from latent_geodesics.data.videos import Video, VideoBatch, VideoData

__all__ = [
    "Afhq",
    "CelebAHq",
    "ImagePair",
    "MorphBench",
    "NumberedBatch",
    "PairBatch",
    "PairBatches",
    "PairData",
    "PairSelection",
    "Video",
    "VideoBatch",
    "VideoData",
    "read_batch",
    "read_image",
    "read_manifest",
    "read_shard",
    "read_video",
]
