"""Captioned latents in memory: what the diffusion model is trained on, encoded and tokenised once.

A frame may come with its mirror image. Captions name the objects and no place, so those of a frame are true of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from transformers import CLIPTokenizer

from recipes.clevr.rendering.captions import random_caption
from recipes.clevr.rendering.scene import Scene

__all__ = ["CaptionedLatents", "tokenise"]


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
        scene, random = Scene.from_dict(record["scene"]), np.random.default_rng([seed, index])
        texts += [random_caption(scene, random, drop_share=drop) for _ in range(variants)]
    # a caption comes many times over
    distinct = list(dict.fromkeys(["", *texts]))
    encoded = tokenizer(distinct, padding="max_length", truncation=True, return_tensors="pt").input_ids
    places = {text: place for place, text in enumerate(distinct)}
    tokens = encoded.to(torch.int16 if len(tokenizer) < 2**15 else torch.int32)
    return tokens[torch.tensor([places[text] for text in texts])].unflatten(0, (len(records), variants)), encoded[0]
