"""The autoencoder between images and clean flat latents.

A latent is the *mean* of the encoder's distribution, shifted and multiplied by the model's scaling factor, so
encoding is deterministic. The autoencoder always works in float32: it runs once an image, and in half precision it
can overflow.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.errors import UserError
from latent_geodesics.models.chunking import Chunker

__all__ = ["ImageCodec", "reduction_factor"]

# Images that were resized or blended stray from [0, 1] by rounding; more than this is a wrong scale.
_RANGE_TOLERANCE = 1e-3


def reduction_factor(vae: Any) -> int:
    """How many image pixels lie along one side of a latent pixel."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


class ImageCodec:
    """Encodes images into flat latents and decodes them.

    Args:
        vae: an `AutoencoderKL` of diffusers, on its device, float32.
        image_size: `(height, width)` of the images in pixels.
        batch_size: the largest number of images in one call.
    """

    def __init__(self, *, vae: Any, image_size: tuple[int, int], batch_size: int) -> None:
        self._vae = vae
        self._chunker = Chunker(size=batch_size)
        self._scale = float(vae.config.scaling_factor)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
        self.image_size = image_size
        factor = reduction_factor(vae)
        self.latent_shape = (int(vae.config.latent_channels), image_size[0] // factor, image_size[1] // factor)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "p 3 h w"]) -> Float[Tensor, "p d"]:
        """The clean latents of images in [0, 1]."""
        self._check(images)
        return self._chunker.map(self._encode_chunk, images.to(self._vae.device, torch.float32))

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n 3 h w"]:
        """The images in [0, 1] of clean latents; what falls outside is clipped."""
        return self._chunker.map(self._decode_chunk, latents)

    def _encode_chunk(self, images: Float[Tensor, "p 3 h w"]) -> Float[Tensor, "p d"]:
        mean: Tensor = self._vae.encode(2.0 * images - 1.0).latent_dist.mode()
        return (self._scale * (mean - self._shift)).flatten(1)

    def _decode_chunk(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n 3 h w"]:
        mean = latents.reshape(-1, *self.latent_shape) / self._scale + self._shift
        images: Tensor = self._vae.decode(mean).sample
        return (0.5 * images + 0.5).clamp(0.0, 1.0)

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
