"""Rendered frames in memory, as images and as captioned latents, and the order in which training draws them.

A frame is an RGB image of bytes with the record of its scene. The i-th sample ever drawn (i counts over all
steps and processes) is fixed by the seed: epoch e visits the frames in the permutation of (seed, e). A resumed
run therefore continues with the very samples that the interrupted one would have drawn.

The diffusion model is trained on latents, encoded once, that may come with those of the frames' mirror images. Captions
name the objects and no place, so those of a frame are true of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor
from transformers import CLIPTokenizer

from latent_geodesics.core.errors import UserError
from recipes.clevr.rendering.dataset import load_shards
from recipes.clevr.rendering.scene import ClevrScene, random_caption


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Frames and their records.

    Args:
        images: bytes, channels first.
        records: one scene record a frame, as `recipes.clevr.rendering.dataset` describes them.
    """

    images: UInt8[Tensor, "n 3 h w"]
    records: Sequence[dict[str, Any]]

    def __post_init__(self) -> None:
        if len(self.records) != len(self.images):
            raise ValueError(f"a record a frame is needed, got {len(self.records)} for {len(self.images)} frames")

    def __len__(self) -> int:
        return len(self.records)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Frames":
        """All finished shards of a folder, in order.

        Raises:
            UserError: when there is no shard.
        """
        images, records = [], []
        for shard in load_shards(folder):
            images.append(torch.from_numpy(shard.frames).permute(0, 3, 1, 2).contiguous())
            records += shard.records
        return cls(images=torch.cat(images), records=records)

    def split(self, held_out: int) -> tuple["Frames", "Frames"]:
        """The frames to train on, and the last `held_out` ones.

        Raises:
            UserError: when nothing would be left to train on.
        """
        if not 0 < held_out < len(self):
            raise UserError(f"held_out is {held_out}, but there are {len(self)} frames: render more, or hold out fewer")
        cut = len(self) - held_out
        return (
            Frames(images=self.images[:cut], records=self.records[:cut]),
            Frames(images=self.images[cut:], records=self.records[cut:]),
        )


def sample_places(
    count: int, *, seed: int, step: int, batch: int, rank: int = 0, world: int = 1
) -> Int64[Tensor, " batch"]:
    """Which of `count` items the samples of a step are, `batch` of them for each of `world` processes that share it."""
    if count < 1:
        raise ValueError(f"count must be >= 1, got {count}")
    first = (step * world + rank) * batch
    drawn = range(first, first + batch)
    return torch.tensor([int(_permutation(count, seed, number // count)[number % count]) for number in drawn])


def step_generator(*, seed: int, step: int, rank: int = 0) -> torch.Generator:
    """The random numbers of one process at one step."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, dtype=np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


def as_unit(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Bytes as floats in [0, 1]."""
    return images.float() / 255


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> Int64[np.ndarray, " count"]:
    return np.random.default_rng([seed, epoch]).permutation(count)


@dataclass(frozen=True, kw_only=True)
class CaptionedLatents:
    """Latents with several captions each.

    Attributes:
        latents: posterior means of the frames, then those of their mirror images, if there are any.
        tokens: of some captions of each frame.
        empty: tokens of the empty caption.
    """

    latents: Float[Tensor, "m c i j"]
    tokens: Int[Tensor, "n k l"]
    empty: Int64[Tensor, " l"]

    def __post_init__(self) -> None:
        if len(self.latents) not in (len(self.tokens), 2 * len(self.tokens)):
            raise ValueError(
                f"captions for every latent, or for every latent and its mirror image, are needed: got {len(self)} "
                f"latents and captions of {len(self.tokens)} frames"
            )

    def __len__(self) -> int:
        return len(self.latents)

    def to(self, device: torch.device) -> "CaptionedLatents":
        """The same on a device."""
        return replace(
            self, latents=self.latents.to(device), tokens=self.tokens.to(device), empty=self.empty.to(device)
        )

    def captions(
        self, chosen: Int64[Tensor, " b"], *, variants: Int64[Tensor, " b"], empty: Tensor
    ) -> Int64[Tensor, "b l"]:
        """Tokens for the chosen latents: of the given variant of each caption, or of the empty one where `empty`."""
        tokens = self.tokens[chosen % len(self.tokens), variants].long()
        return torch.where(empty[:, None], self.empty, tokens)


def tokenise(
    records: Sequence[dict[str, Any]], tokenizer: CLIPTokenizer, *, variants: int, drop: float, seed: int
) -> tuple[Int[Tensor, "n k l"], Int64[Tensor, " l"]]:
    """Tokens of random captions of frames, and those of the empty caption.

    Args:
        records: the frames' scene records.
        tokenizer: of the captions.
        variants: captions a frame, >= 1.
        drop: share of captions that lose the size, the material or both.
        seed: decides the captions; those of frame i depend on it and on i.
    """
    texts = []
    for index, record in enumerate(records):
        scene, random = ClevrScene.from_dict(record["scene"]), np.random.default_rng([seed, index])
        texts += [random_caption(scene, random, drop_share=drop) for _ in range(variants)]
    # a caption comes many times over
    distinct = list(dict.fromkeys(["", *texts]))
    encoded = tokenizer(distinct, padding="max_length", truncation=True, return_tensors="pt").input_ids
    places = {text: place for place, text in enumerate(distinct)}
    tokens = encoded.to(torch.int16 if len(tokenizer) < 2**15 else torch.int32)
    return tokens[torch.tensor([places[text] for text in texts])].unflatten(0, (len(records), variants)), encoded[0]
