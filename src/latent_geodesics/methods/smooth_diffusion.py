"""Smooth Diffusion: the great circle in the latent space of a model made smooth by an adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.methods.base import PairMethod
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.methods.lines import slerp
from latent_geodesics.methods.sampling import check_tau, noise_level
from latent_geodesics.methods.timing import Draw
from latent_geodesics.models.lora import Loras


class SmoothDiffusion(PairMethod):
    """Creates Smooth Diffusion: both images are inverted and decoded with a LoRA that smooths the latent space.

    The LoRA is trained so that equal steps in the latent space change the image equally.

    References:
        Guo et al. 2023, Smooth Diffusion: crafting smooth latent spaces in diffusion models, arXiv 2312.04410.

    Deviation: inversion is solved step by step, without guidance, in place of null-text inversion.

    Args:
        weights: The LoRA, a .safetensors file or the folder of one, made for the model in use (the authors' is for
            Stable Diffusion 1.5).
        guidance: Classifier-free guidance at decoding; None is the run's.
        tau: Noise level of the latents; None is the run's, 1 is as published.
    """

    def __init__(self, *, weights: str | Path | None, guidance: float | None = 7.5, tau: float | None = 1.0) -> None:
        if weights is None:
            raise UserError(
                "Smooth Diffusion needs its LoRA, which does not ship: give the .safetensors file, or its folder, as "
                "methods.smooth_diffusion.weights=<path>."
            )
        if not Path(weights).exists():
            raise UserError(f"Smooth Diffusion's LoRA '{weights}' does not exist: give the file, or its folder.")
        self.weights, self.guidance, self.tau = Path(weights), guidance, check_tau(tau)

    @contextmanager
    def sequence(self, pair: EncodedPairs) -> Iterator[Draw]:
        """Inverts both images with the LoRA."""
        model, level = pair.model, noise_level(pair, self.tau)
        guidance = pair.guidance if self.guidance is None else self.guidance
        with Loras(model.network.steerable) as loras:
            loras.load("smooth", self.weights)
            loras.weigh({"smooth": 1.0})
            condition = torch.cat([pair.condition_a, pair.condition_b])
            ends = model.invert(pair.images, condition=condition, tau=level).sound

            def draw(u: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
                x = slerp(ends[:1], ends[1:], u)[0]
                return model.decode(x, condition=pair.condition(u)[0], tau=level, guidance=guidance)

            yield draw
