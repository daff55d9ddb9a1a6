"""What the methods that steer the network share: where its latents come from and how it is guided."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.models.attention import AttentionMixture, attending
from latent_geodesics.models.inversion import times
from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.models.scores import check_guidance


def check_tau(tau: float | None) -> float | None:
    """Refuses what is neither None nor a noise level; 1 is pure noise."""
    if tau is not None and not 0.0 < tau <= 1.0:
        raise UserError(f"a method's tau must lie above 0 and be at most 1, or null for the run's; received {tau}")
    return tau


def check_share(name: str, value: float) -> float:
    """Refuses what is no share of a whole."""
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{name} must lie in [0, 1]; received {value}")
    return value


def noise_level(pair: EncodedPairs, tau: float | None) -> float:
    """The noise level in [0, 1) that a method works at: its own, or the run's."""
    return pair.tau if tau is None else min(tau, math.nextafter(1.0, 0.0))


def noisy_ends(pair: EncodedPairs, tau: float | None) -> Float[Tensor, "2 d"]:
    """Both images' latents at that level; those of the run where it is the run's."""
    if tau is None:
        return torch.cat([pair.latents_a, pair.latents_b])
    condition = torch.cat([pair.condition_a, pair.condition_b])
    return pair.model.invert(pair.images, condition=condition, tau=noise_level(pair, tau)).sound


def frame_groups(model: LatentModel, count: int) -> list[slice]:
    """Groups of frames that fit in one call of the network together with both ends."""
    size = max(1, model.network.batch_size - 2)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def guided(
    model: LatentModel,
    x: Float[Tensor, "n d"],
    level: int,
    *,
    condition: Float[Tensor, "n l c"],
    weight: float,
    mixture: AttentionMixture | None = None,
    part: str = "",
    cross: bool = True,
) -> Float[Tensor, "n d"]:
    """The guided raw output for all rows in one call; the mixture holds for the conditional branch only."""
    check_guidance(weight)
    network = model.network
    t = times(network.schedule, x, level)
    with attending(network.steerable, mixture, part=part, cross=cross):
        conditional = network.output(x, t, condition)
    if weight == 1.0:
        return conditional
    empty = model.condition([""]).to(condition).expand_as(condition)
    without = network.output(x, t, empty)
    return without + weight * (conditional - without)
