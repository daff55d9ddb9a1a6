"""Fitting a LoRA to images, so that the model denoises them well.

Minimise over an adapter's factors, for images with clean latents z and embeddings c,

    E_{image, t ~ U{0..T-1}, eps ~ N(0, I)}  mean (out(x_t, t, c) - target)^2,      x_t = sqrt(abar_t) z + sigma_t eps,

with AdamW, the factors being float32 whatever the network computes in (`fitting`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.fitting import Fit, NoisyDraws
from latent_geodesics.models.lora import Loras
from latent_geodesics.models.network import Denoiser

__all__ = ["LoraTraining"]


@dataclass(frozen=True, kw_only=True)
class LoraTraining:
    """How an adapter is made.

    Args:
        rank: its rank, at least 1.
        steps: optimisation steps, at least 1.
        learning_rate: step size of AdamW, above 0.
        batch_size: draws of (image, t, eps) a step, at least 1.
    """

    rank: int = 16
    steps: int = 200
    learning_rate: float = 2e-4
    batch_size: int = 1

    def __post_init__(self) -> None:
        whole = min(self.rank, self.steps, self.batch_size) >= 1
        if not whole or not 0.0 < self.learning_rate < float("inf"):
            raise UserError(
                "a LoRA needs rank >= 1, steps >= 1, batch_size >= 1 and a finite learning_rate > 0; received "
                f"{self.rank}, {self.steps}, {self.batch_size} and {self.learning_rate}"
            )

    def run(
        self,
        network: Denoiser,
        loras: Loras,
        name: str,
        *,
        latents: Float[Tensor, "m d"],
        conditions: Float[Tensor, "m l c"],
        seed: int,
    ) -> None:
        """Adds an adapter of that name and fits it; it is left as the only one in force.

        Args:
            network: the denoising network.
            loras: where the adapter goes.
            name: its name.
            latents: clean latents of the images; every draw takes one of them at random.
            conditions: embedding of each.
            seed: seed of the factors and of the draws.

        Raises:
            UserError: when the fit does not stay finite; the sentence tells a learning rate from a precision.
        """
        loras.add(name, rank=self.rank, seed=seed)
        loras.weigh({name: 1.0}, train=True)
        rng = torch.Generator().manual_seed(seed)
        with torch.inference_mode(False), torch.enable_grad():
            latents, conditions = latents.clone(), conditions.clone()

            def draw() -> NoisyDraws:
                return NoisyDraws.sample(latents, self.batch_size, times=network.schedule.training_times, rng=rng)

            def losses(draws: NoisyDraws) -> Float[Tensor, " 1"]:
                return draws.errors(network, conditions[draws.which]).sum()[None]

            def without(draws: NoisyDraws) -> Float[Tensor, " 1"]:
                loras.weigh({})
                return losses(draws)

            Fit(name=f"fitting the LoRA '{name}'", steps=self.steps, learning_rate=self.learning_rate).run(
                [loras.parameters(name)], network=network, draw=draw, losses=losses, without=without
            )
        loras.weigh({name: 1.0})
