"""The denoising network as a function of flat latents.

`Denoiser` hides everything that is particular to a U-Net in memory: latents are flat `[n d]` outside and `[n c h w]`
inside, float32 outside and half precision inside, and many rows are evaluated in chunks. It counts what it costs: one
*network evaluation* is one latent sent once through the U-Net.
"""

import math
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.models.chunking import Chunker
from latent_geodesics.models.noise_schedule import NoiseSchedule

__all__ = ["Denoiser"]


class Denoiser:
    """The network's predictions at flat latents, with the schedule that gives them a meaning.

    Args:
        unet: a conditional 2-D U-Net of diffusers, already on its device and in its dtype.
        schedule: the noise schedule it was trained with.
        shape: `(c, h, w)` of a latent.
        batch_size: the largest number of latents in one call.

    Attributes:
        evaluations: the number of latents sent through the network so far.
        calls: the number of times that it was asked so far, for however many latents at once.
    """

    def __init__(self, *, unet: Any, schedule: NoiseSchedule, shape: tuple[int, int, int], batch_size: int) -> None:
        self.unet = unet
        self.schedule = schedule
        self.shape = shape
        self.evaluations = 0
        self.calls = 0
        self._counting = Lock()  # chunks run in several threads
        self._chunker = Chunker(size=batch_size)

    @property
    def dimension(self) -> int:
        """The number d of values in a latent."""
        return math.prod(self.shape)

    @property
    def batch_size(self) -> int:
        """The largest number of latents in one call; it shrinks when memory runs out."""
        return self._chunker.size

    def output(
        self, x: Float[Tensor, "n d"], t: Int[Tensor, " n"], condition: Float[Tensor, "n l c"]
    ) -> Float[Tensor, "n d"]:
        """The raw network output of one call for all rows at once, float32, differentiable in `condition`."""
        self.calls += 1
        return self._chunk(x, t, condition)

    @torch.no_grad()
    def noise(
        self, x: Float[Tensor, "n d"], t: Int[Tensor, " n"], condition: Float[Tensor, "n l c"]
    ) -> Float[Tensor, "n d"]:
        """The predicted noise `eps(x, t, c)`, whatever the network was trained to predict."""
        return self.schedule.noise(x, self._outputs(x, t, condition), t)

    @torch.no_grad()
    def guided_output(
        self,
        x: Float[Tensor, "n d"],
        t: Int[Tensor, " n"],
        condition: Float[Tensor, "n l c"],
        negative: Float[Tensor, "n l c"],
        weight: float,
    ) -> Float[Tensor, "n d"]:
        """The classifier-free-guided output `(1 - w) out(negative) + w out(condition)`.

        The weight 1 needs one evaluation, not two, and so does the weight 0. All kinds of output are affine in `eps`
        at a given `x` and `t`, so guiding the raw output guides the noise.

        References:
            Ho, Salimans 2022, arXiv 2207.12598.
        """
        if weight == 1.0:
            return self._outputs(x, t, condition)
        if weight == 0.0:
            return self._outputs(x, t, negative)
        both = self._outputs(x.repeat(2, 1), t.repeat(2), torch.cat([negative, condition]))
        without, conditional = both.chunk(2)
        return without + weight * (conditional - without)

    def _outputs(
        self, x: Float[Tensor, "n d"], t: Int[Tensor, " n"], condition: Float[Tensor, "n l c"]
    ) -> Float[Tensor, "n d"]:
        self.calls += 1
        return self._chunker.map(self._chunk, x, t, condition)

    def _chunk(
        self, x: Float[Tensor, "n d"], t: Int[Tensor, " n"], condition: Float[Tensor, "n l c"]
    ) -> Float[Tensor, "n d"]:
        dtype = self.unet.dtype
        images = x.to(dtype).reshape(-1, *self.shape)
        output = self.unet(images, t, encoder_hidden_states=condition.to(dtype)).sample
        with self._counting:
            self.evaluations += len(x)
        return torch.as_tensor(output).flatten(1).float()
