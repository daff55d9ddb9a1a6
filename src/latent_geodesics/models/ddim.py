"""DDIM steps for methods that steer the network while it denoises: the same steps as `inversion`, the loop laid open.

A step from level j to level k keeps the predicted clean latent and noise,

    x_k = sqrt(abar_k) x_0(x_j) + sigma_k eps(x_j),

and levels may be skipped. What the network says is left to the caller, who may change weights or attention on the way.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.noise_schedule import NoiseSchedule

__all__ = ["Predict", "ascend", "descend", "sampling_levels", "times"]

Predict = Callable[[Tensor, int], Tensor]
"""The raw network output [n d] at latents [n d] of a DDIM level."""


def times(schedule: NoiseSchedule, x: Float[Tensor, "n d"], level: int) -> Int[Tensor, " n"]:
    """The diffusion time of a level, for every row."""
    return torch.full((len(x),), schedule.time(level), dtype=torch.long, device=x.device)


def sampling_levels(level: int, steps: int | None = None) -> list[int]:
    """The levels visited from `level` down to 0, all of them or evenly `steps` steps apart."""
    if steps is None or steps >= level:
        return list(range(level, -1, -1))
    if steps < 1:
        raise UserError(f"a method needs at least one sampling step; received {steps}")
    return [round(level * (steps - step) / steps) for step in range(steps + 1)]


@torch.no_grad()
def descend(
    schedule: NoiseSchedule, x: Float[Tensor, "n d"], levels: Sequence[int], predict: Predict
) -> Float[Tensor, "n d"]:
    """Takes latents from the first of the levels to the last."""
    for here, below in pairwise(levels):
        x = schedule.step_down(x, predict(x, here), times(schedule, x, here), below)
    return x


@torch.no_grad()
def ascend(
    schedule: NoiseSchedule, x: Float[Tensor, "n d"], level: int, predict: Predict, *, refinements: int
) -> Float[Tensor, "n d"]:
    """Takes clean latents up to a level, all rows in every evaluation, with a fixed number of refinements a step.

    `inversion.invert` refines row by row until each is solved; rows that attend to one another must stay together.
    """
    for k in range(1, level + 1):
        signal, factor = schedule.step_up(k)
        upper, t = x, times(schedule, x, k)
        for _ in range(refinements + 1):
            upper = signal * x + factor * schedule.driver(upper, predict(upper, k), t)
        x = upper
    return x
