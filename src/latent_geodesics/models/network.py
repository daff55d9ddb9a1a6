"""The networks of a model as functions of flat latents: the denoising one, and the autoencoder.

`Denoiser` hides everything that is particular to a network in memory: latents are flat `[n d]` outside and `[n c h w]`
inside, float32 outside and half precision inside, and many rows are evaluated in chunks. It counts what it costs: one
*network evaluation* is one latent sent once through the network.

`ImageCodec` leads from images to clean latents and back. A latent is the *mean* of the encoder's distribution, shifted
and scaled as the model's family says, so encoding is deterministic. It is done in float32: it runs once an image.
Decoding may be done in half precision, which no eye can tell from float32; where it overflows (the decoder of SDXL
does), float32 takes over.
"""

import logging
import math
from copy import copy, deepcopy
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.accelerator import Chunker
from latent_geodesics.models.families import Family
from latent_geodesics.models.families.base import Embeddings
from latent_geodesics.models.noise_schedule import Latents, NoiseSchedule, Times
from latent_geodesics.models.precision import NOMINAL_ERROR, products_in

log = logging.getLogger(__name__)

# Images that were resized or blended stray from [0, 1] by rounding; more than this is a wrong scale.
_RANGE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Guidance:
    """What every row is conditioned on: embeddings, their opposite, and the weight of classifier-free guidance."""

    condition: Embeddings  # text embedding of each row
    negative: Embeddings  # embedding that guidance moves away from, of each row; unused when `weight` is 1
    weight: float = 1.0  # guidance weight w >= 0; 1 is purely conditional

    def rows(self, which: Int[Tensor, " m"]) -> "Guidance":
        """The guidance of some of the rows."""
        return Guidance(self.condition[which], self.negative[which], self.weight)


@dataclass
class _Costs:
    """What networks were asked; chunks run in several threads."""

    evaluations: int = 0
    calls: int = 0
    counting: Lock = field(default_factory=Lock)


class Denoiser:
    """The network's predictions at flat latents, with the schedule that gives them a meaning."""

    def __init__(
        self,
        *,
        module: Any,  # a denoising network of diffusers, already on its device and in its dtype
        family: Family,  # how it is asked
        pixels: int,  # how many pixels of an image lie along one side of a latent
        schedule: NoiseSchedule,  # the noise schedule it was trained with
        shape: tuple[int, int, int],  # `(c, h, w)` of a latent
        batch_size: int,  # the largest number of latents in one call
        precision: str | None = None,  # one of `precision.PRECISIONS`; by default that of the weights
    ) -> None:
        self.module, self.family, self.pixels, self.schedule, self.shape = module, family, pixels, schedule, shape
        self.precision = precision or str(module.dtype).removeprefix("torch.")
        self.dimension = math.prod(shape)  # d, the number of values in a latent
        self._costs, self._chunker = _Costs(), Chunker(size=batch_size)

    @property
    def evaluations(self) -> int:
        """The number of latents sent through the network so far."""
        return self._costs.evaluations

    @property
    def calls(self) -> int:
        """The number of times that it was asked so far, for however many latents at once."""
        return self._costs.calls

    @property
    def spent(self) -> tuple[int, int]:
        """Evaluations and calls so far; what is no part of a run's cost is undone by setting them back."""
        return self._costs.evaluations, self._costs.calls

    @spent.setter
    def spent(self, costs: tuple[int, int]) -> None:
        self._costs.evaluations, self._costs.calls = costs

    def beside(self, module: Any, precision: str) -> "Denoiser":
        """The same with another network, in another precision; their costs are counted together."""
        other = copy(self)
        other.module, other.precision, other._chunker = module, precision, Chunker(size=self.batch_size)
        return other

    @property
    def batch_size(self) -> int:
        """The largest number of latents in one call; it shrinks when memory runs out."""
        return self._chunker.size

    def output(self, x: Latents, t: Times, condition: Embeddings) -> Latents:
        """The raw network output of one call for all rows at once, float32, differentiable in `condition`.

        Where float16 overflows the network turns to float32, for good, and says so; not while something is fitted
        through it, which has a loss scale of its own.
        """
        self._costs.calls += 1
        output = self._chunk(x, t, condition)
        narrow = self.module.dtype is torch.float16 and not torch.is_grad_enabled()
        if narrow and not bool(torch.isfinite(output).all()):
            log.warning("The network overflowed in float16: it goes on in float32. Choose dtype=bfloat16 or float32.")
            torch.nn.Module.to(self.module, torch.float32)
            self.precision = "float32"
            output = self._chunk(x, t, condition)
        return output

    @property
    def rounding(self) -> float:
        """The relative error that is usual of its precision; zero for float32."""
        return NOMINAL_ERROR.get(self.precision, 0.0)

    @property
    def steerable(self) -> Any:
        """The network, whose attention layers may be steered and adapted; a `UserError` when it is no U-Net."""
        if not self.family.controlled:
            raise UserError(
                f"steering attention and training adapters are known for U-Nets, and this model's network is a "
                f"{type(self.module).__name__}: choose another method, such as geodesic, slerp or lerp"
            )
        return self.module

    @property
    def adapted(self) -> bool:
        """Whether adapters are on the network, which no copy of it in another precision has."""
        return bool(getattr(self.module, "peft_config", None))

    @torch.no_grad()
    def noise(self, x: Latents, t: Times, condition: Embeddings) -> Latents:
        """The predicted noise `eps(x, t, c)`, whatever the network was trained to predict."""
        return self.schedule.noise(x, self.guided_output(x, t, Guidance(condition, condition)), t)

    @torch.no_grad()
    def guided_output(self, x: Latents, t: Times, guidance: Guidance) -> Latents:
        """The classifier-free-guided output `(1 - w) out(negative) + w out(condition)` (Ho, Salimans 2022).

        The weight 1 needs one evaluation, not two, and so does the weight 0. All kinds of output are affine in `eps` at
        a given `x` and `t`, so guiding the raw output guides the noise.
        """
        weight, condition = guidance.weight, guidance.condition if guidance.weight else guidance.negative
        both = weight not in (0.0, 1.0)
        if both:
            x, t, condition = x.repeat(2, 1), t.repeat(2), torch.cat([guidance.negative, condition])
        self._costs.calls += 1
        output = self._chunker.map(self._chunk, x, t, condition)
        if not both:
            return output
        without, conditional = output.chunk(2)
        return without + weight * (conditional - without)

    def _chunk(self, x: Latents, t: Times, condition: Embeddings) -> Latents:
        dtype = self.module.dtype
        images = x.to(dtype).reshape(-1, *self.shape)
        told = self.schedule.told(t)
        with products_in(self.precision, x.device):
            output = self.family.predict(self.module, images, told, condition.to(dtype), self.pixels)
        with self._costs.counting:
            self._costs.evaluations += len(x)
        return output.flatten(1).float()


@dataclass(kw_only=True, eq=False)
class ImageCodec:
    """Encodes images into flat latents and decodes them."""

    vae: Any  # an autoencoder of diffusers, on its device, float32
    family: Family  # what its latents are
    image_size: tuple[int, int]  # `(height, width)` of the images in pixels
    batch_size: InitVar[int]  # the largest number of images in one call
    decoding: torch.dtype = torch.float32  # the precision to decode in

    def __post_init__(self, batch_size: int) -> None:
        self._chunker = Chunker(size=batch_size)
        self.latent_shape = self.family.latent_shape(self.vae, self.image_size)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "p 3 h w"]) -> Float[Tensor, "p d"]:
        """The clean latents of images in [0, 1]."""
        self._check(images)
        given = images.to(self.vae.device, torch.float32)
        with products_in("float32", given.device):
            return self._chunker.map(lambda some: self.family.encode(self.vae, 2.0 * some - 1.0).flatten(1), given)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n 3 h w"]:
        """The images in [0, 1] of clean latents; what falls outside is clipped, NaN stays NaN."""
        images = self._chunker.map(self._decode_chunk, latents)
        if self.decoding is not torch.float32 and bool(torch.isfinite(latents).all() & ~torch.isfinite(images).all()):
            # `force_upcast` of diffusers would not tell beforehand: it is true unless a model's file says otherwise.
            log.warning("The decoder overflowed in half precision: images are decoded in float32 from here on.")
            self.decoding = torch.float32
            images = self._chunker.map(self._decode_chunk, latents)
        return (0.5 * images + 0.5).clamp(0.0, 1.0)

    @cached_property
    def _half(self) -> Any:
        return torch.nn.Module.to(deepcopy(self.vae), self.decoding)

    def _decode_chunk(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n 3 h w"]:
        vae = self.vae if self.decoding is torch.float32 else self._half
        with products_in("tf32", latents.device):
            return self.family.decode(vae, latents.reshape(-1, *self.latent_shape)).float()

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
