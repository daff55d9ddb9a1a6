"""The autoencoder between images and clean flat latents.

A latent is the *mean* of the encoder's distribution, shifted and scaled as the model's family says, so encoding is
deterministic. It is done in float32: it runs once an image. Decoding may be done in half precision, which
no eye can tell from float32; where it overflows (the decoder of SDXL does), float32 takes over.
"""

import logging
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.chunking import Chunker
from latent_geodesics.models.families import Family
from latent_geodesics.models.precision import products_in

log = logging.getLogger(__name__)

# Images that were resized or blended stray from [0, 1] by rounding; more than this is a wrong scale.
_RANGE_TOLERANCE = 1e-3


class ImageCodec:
    """Encodes images into flat latents and decodes them.

    Args:
        vae: an autoencoder of diffusers, on its device, float32.
        family: what its latents are.
        image_size: `(height, width)` of the images in pixels.
        batch_size: the largest number of images in one call.
        decoding: the precision to decode in.
    """

    def __init__(
        self,
        *,
        vae: Any,
        family: Family,
        image_size: tuple[int, int],
        batch_size: int,
        decoding: torch.dtype = torch.float32,
    ) -> None:
        self._vae, self._family = vae, family
        self._decoding = decoding
        self._chunker = Chunker(size=batch_size)
        self.image_size = image_size
        self.latent_shape = family.latent_shape(vae, image_size)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "p 3 h w"]) -> Float[Tensor, "p d"]:
        """The clean latents of images in [0, 1]."""
        self._check(images)
        with products_in("float32", self._vae.device):
            return self._chunker.map(self._encode_chunk, images.to(self._vae.device, torch.float32))

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n 3 h w"]:
        """The images in [0, 1] of clean latents; what falls outside is clipped, NaN stays NaN."""
        images = self._chunker.map(self._decode_chunk, latents)
        if self._decoding is not torch.float32 and bool(torch.isfinite(latents).all() & ~torch.isfinite(images).all()):
            # `force_upcast` of diffusers would not tell beforehand: it is true unless a model's file says otherwise.
            log.warning("The decoder overflowed in half precision: images are decoded in float32 from here on.")
            self._decoding = torch.float32
            images = self._chunker.map(self._decode_chunk, latents)
        return (0.5 * images + 0.5).clamp(0.0, 1.0)

    @cached_property
    def _half(self) -> Any:
        """The autoencoder in the precision of decoding."""
        return torch.nn.Module.to(deepcopy(self._vae), self._decoding)

    def _encode_chunk(self, images: Float[Tensor, "p 3 h w"]) -> Float[Tensor, "p d"]:
        return self._family.encode(self._vae, 2.0 * images - 1.0).flatten(1)

    def _decode_chunk(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n 3 h w"]:
        vae = self._vae if self._decoding is torch.float32 else self._half
        with products_in("tf32", latents.device):
            return self._family.decode(vae, latents.reshape(-1, *self.latent_shape)).float()

    def _check(self, images: Tensor) -> None:
        height, width = self.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, height, width) or len(images) == 0:
            raise UserError(
                f"images must have the shape [p, 3, {height}, {width}]; received {list(images.shape)}: "
                "resize them, or load the model with another image_size"
            )
        if not images.is_floating_point():
            raise UserError(f"images must be floating-point numbers in [0, 1]; received {images.dtype}: divide by 255")
        lowest, highest = float(images.min()), float(images.max())
        # Written so that NaN fails too.
        if not (lowest >= -_RANGE_TOLERANCE and highest <= 1.0 + _RANGE_TOLERANCE):
            raise UserError(f"images must lie in [0, 1]; received values from {lowest:.3g} to {highest:.3g}")
