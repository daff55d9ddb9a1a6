"""Fitting a LoRA to images, so that the model denoises them well.

Minimise over an adapter's factors, for images with clean latents z and embeddings c,

    E_{image, t ~ U{0..T-1}, eps ~ N(0, I)}  mean (out(x_t, t, c) - target)^2,      x_t = sqrt(abar_t) z + sigma_t eps,

with AdamW.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from latent_geodesics.errors import UserError
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
        """
        loras.add(name, rank=self.rank, seed=seed)
        loras.weigh({name: 1.0}, train=True)
        rng = torch.Generator().manual_seed(seed)
        parameters = list(loras.parameters(name))
        with torch.inference_mode(False), torch.enable_grad():
            latents, conditions = latents.clone(), conditions.clone()
            optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate)
            for _ in tqdm(range(self.steps), desc=f"LoRA {name}", disable=None, leave=False):
                loss = self._loss(network, latents, conditions, rng)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        if not all(bool(parameter.isfinite().all()) for parameter in parameters):
            raise UserError("fitting a LoRA diverged; lower its learning_rate, or load the model with dtype=float32")
        loras.weigh({name: 1.0})

    def _loss(
        self,
        network: Denoiser,
        latents: Float[Tensor, "m d"],
        conditions: Float[Tensor, "m l c"],
        rng: torch.Generator,
    ) -> Float[Tensor, ""]:
        """The error of one batch, summed: AdamW does not mind the scale, and half precision would lose the mean's."""
        schedule, size = network.schedule, (self.batch_size,)
        which = torch.randint(len(latents), size, generator=rng).to(latents.device)
        t = torch.randint(schedule.training_times, size, generator=rng).to(latents.device)
        x0 = latents[which]
        noise = torch.randn(*x0.shape, generator=rng).to(x0)
        output = network.output(schedule.diffuse(x0, noise, t), t, conditions[which])
        return (output - schedule.target(x0, noise, t)).square().sum()
