"""Images, pairs of images and videos: reading them, listing them, batching them."""

from latent_geodesics.data.batches import Batches, NumberedBatch, in_batches
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
    "Batches",
    "CelebAHq",
    "ImagePair",
    "MorphBench",
    "NumberedBatch",
    "PairBatch",
    "PairData",
    "PairSelection",
    "Video",
    "VideoBatch",
    "VideoData",
    "in_batches",
    "read_batch",
    "read_image",
    "read_manifest",
    "read_shard",
    "read_video",
]
