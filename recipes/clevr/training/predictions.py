"""What a diffusion model is trained to predict, and the noise that its inputs get.

With z a latent, e Gaussian noise and u in [0, 1) a place on the scale of noise levels:

- `epsilon`: x = sqrt(abar_t) z + sqrt(1 - abar_t) e at the whole time t = floor(1000 u) of Stable Diffusion's schedule;
  the target is e, its squared error weighted by min(snr_t, gamma) / snr_t, snr_t = abar_t / (1 - abar_t);
- `velocity`, rectified flow: x = (1 - u) z + u e; the target is v = e - z, unweighted. The network is told 1000 u, as
  diffusers' `FlowMatchEulerDiscreteScheduler` tells it.

References: Ho et al., Denoising diffusion probabilistic models, 2020, arXiv 2006.11239; Hang et al., Efficient
diffusion training via min-SNR weighting strategy, 2023, arXiv 2303.09556; Liu et al., Flow straight and fast, 2022,
arXiv 2209.03003.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from jaxtyping import Float
from torch import Tensor

__all__ = ["PREDICTIONS", "Epsilon", "Noised", "Prediction", "Velocity", "build_prediction", "build_scheduler"]

PREDICTIONS: tuple[str, ...] = ("epsilon", "velocity")
_TIMES = 1000  # of both schedulers


@dataclass(frozen=True)
class Noised:
    """What the network is given and what it should answer.

    Attributes:
        inputs: noised latents.
        times: diffusion times as the network is told them.
        targets: what it should predict.
        weights: of the squared error of each latent, >= 0.
    """

    inputs: Float[Tensor, "b c i j"]
    times: Tensor
    targets: Float[Tensor, "b c i j"]
    weights: Float[Tensor, " b"]


class Prediction(Protocol):
    """One kind of prediction."""

    def noised(
        self, latents: Float[Tensor, "b c i j"], noise: Float[Tensor, "b c i j"], places: Float[Tensor, " b"]
    ) -> Noised:
        """Noises latents.

        Args:
            latents: without noise.
            noise: Gaussian.
            places: noise levels in [0, 1), 0 without noise.
        """
        ...

    def to(self, device: torch.device) -> "Prediction":
        """The same with its tensors on a device."""
        ...


class Epsilon:
    """Predicts the noise.

    Args:
        gamma: of the min-SNR weight, > 0.
        signal: abar of each time; that of Stable Diffusion unless given.
    """

    def __init__(self, *, gamma: float, signal: Float[Tensor, " t"] | None = None) -> None:
        self.gamma = gamma
        self.signal = build_scheduler("epsilon").alphas_cumprod.float() if signal is None else signal

    def noised(
        self, latents: Float[Tensor, "b c i j"], noise: Float[Tensor, "b c i j"], places: Float[Tensor, " b"]
    ) -> Noised:
        """Noises latents by the diffusion schedule."""
        times = (places * len(self.signal)).long().clamp(max=len(self.signal) - 1)
        signal = self.signal[times]
        level = signal[:, None, None, None]
        return Noised(
            inputs=level.sqrt() * latents + (1 - level).sqrt() * noise,
            times=times,
            targets=noise,
            weights=(self.gamma * (1 - signal) / signal).clamp(max=1.0),
        )

    def to(self, device: torch.device) -> "Epsilon":
        """The same on a device."""
        return Epsilon(gamma=self.gamma, signal=self.signal.to(device))


class Velocity:
    """Predicts the velocity of rectified flow."""

    def noised(
        self, latents: Float[Tensor, "b c i j"], noise: Float[Tensor, "b c i j"], places: Float[Tensor, " b"]
    ) -> Noised:
        """Mixes latents and noise in proportion."""
        share = places[:, None, None, None]
        return Noised(
            inputs=(1 - share) * latents + share * noise,
            times=_TIMES * places,
            targets=noise - latents,
            weights=torch.ones_like(places),
        )

    def to(self, device: torch.device) -> "Velocity":
        """The same: it holds no tensor."""
        return self


def build_prediction(name: str, *, gamma: float) -> Prediction:
    """A prediction by its name, of `PREDICTIONS`; `gamma` is of the min-SNR weight."""
    return Epsilon(gamma=gamma) if name == "epsilon" else Velocity()


def build_scheduler(prediction: str = "epsilon") -> Any:
    """The scheduler that ships with a prediction: Stable Diffusion's DDIM, or Euler steps of the unshifted flow."""
    if prediction == "velocity":
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=_TIMES, shift=1.0)
        # The folder is otherwise that of Stable Diffusion, whose network predicts noise: this says which one it is.
        scheduler.register_to_config(prediction_type="flow_prediction")
        return scheduler
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=_TIMES,
        prediction_type="epsilon",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )
