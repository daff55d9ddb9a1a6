"""Images, pairs of images and videos: reading them, listing them, batching them."""

from typing import TYPE_CHECKING

from latent_geodesics.core.lazy import names_on_demand

if TYPE_CHECKING:
    from latent_geodesics.data.batches import Batches, NumberedBatch
    from latent_geodesics.data.benchmarks import Afhq, CelebAHq, MorphBench
    from latent_geodesics.data.folder import FolderPairs
    from latent_geodesics.data.images import read_image
    from latent_geodesics.data.keys import KeyBatch, KeyData, KeySequence, read_keys
    from latent_geodesics.data.pairs import (
        ImagePair,
        PairBatch,
        PairData,
        PairSelection,
        in_batches,
        read_batch,
        read_manifest,
        read_shard,
    )
    from latent_geodesics.data.videos import Video, VideoBatch, VideoData, read_video

__all__ = [
    "Afhq",
    "Batches",
    "CelebAHq",
    "FolderPairs",
    "ImagePair",
    "KeyBatch",
    "KeyData",
    "KeySequence",
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
    "read_keys",
    "read_manifest",
    "read_shard",
    "read_video",
]

# Lightning, which the batches need, takes many times as long to import as everything else here.
__getattr__, __dir__ = names_on_demand(__name__)
