"""Rendered frames in memory, and the order in which training draws them.

A frame is an RGB image of bytes with the record of its scene. The i-th sample ever drawn (i counts over all
steps and processes) is fixed by the seed: epoch e visits the frames in the permutation of (seed, e). A resumed
run therefore continues with the very samples that the interrupted one would have drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from latent_geodesics.core.errors import UserError

__all__ = ["Frames", "SampleOrder", "as_unit", "step_generator"]


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
        from recipes.clevr.rendering.dataset import load_shards

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


class SampleOrder:
    """Which of n items the b samples of a step are, for each of several processes that share the steps.

    Args:
        count: number of items n >= 1.
        seed: decides the permutations.
    """

    def __init__(self, *, count: int, seed: int) -> None:
        if count < 1:
            raise ValueError(f"count must be >= 1, got {count}")
        self.count, self.seed = count, seed

    def indices(self, *, step: int, batch: int, rank: int = 0, world: int = 1) -> Int64[Tensor, " batch"]:
        """Items of process `rank` of `world` at `step`, `batch` of them."""
        first = (step * world + rank) * batch
        places = range(first, first + batch)
        chosen = [int(_permutation(self.count, self.seed, place // self.count)[place % self.count]) for place in places]
        return torch.tensor(chosen, dtype=torch.int64)


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
