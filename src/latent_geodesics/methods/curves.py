"""Paths given by a formula, and the formulas that several methods share.

Symbols: x_0, x_1 the ends of each pair, `u` the position, `theta` the angle between the ends over the whole latent.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.path import Path

_SMALLEST_SINE = 1e-6


class FormulaPath(Path):
    """Creates the path that a formula describes; its derivatives follow by forward differentiation.

    Args:
        formula: Positions [n] -> points [p n d], each depending on its own position alone, smooth between the ends.
        pairs: How many pairs the formula is for.
    """

    def __init__(self, *, formula: Callable[[Tensor], Tensor], pairs: int) -> None:
        self._formula, self._pairs = formula, pairs

    @property
    def pairs(self) -> int:
        """`p`, how many pairs."""
        return self._pairs

    def point(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """The formula."""
        return self._formula(u)

    def velocity(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """Its derivative."""
        return _derivative(self._formula)(u)

    def acceleration(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """Its second derivative."""
        return _derivative(_derivative(self._formula))(u)

    def restrict(self, pairs: Int[Tensor, " m"]) -> "FormulaPath":
        """The curves of the pairs `pairs` alone."""
        return FormulaPath(formula=lambda u: self._formula(u)[pairs], pairs=len(pairs))

    def reversed(self) -> "FormulaPath":
        """The curves run backwards."""
        return FormulaPath(formula=lambda u: self._formula(1 - u), pairs=self._pairs)


def slerp(x0: Float[Tensor, "p d"], x1: Float[Tensor, "p d"], u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
    """`(sin((1-u) theta) x_0 + sin(u theta) x_1) / sin(theta)`, whatever the norms; a straight line between parallels.

    References:
        Shoemake 1985, Animating rotation with quaternion curves.
    """
    a, b = x0.double(), x1.double()
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1)
    theta = cosine.arccos()[:, None]
    sine = theta.sin()
    parallel = sine < _SMALLEST_SINE
    safe = torch.where(parallel, torch.ones_like(sine), sine)
    at = u.to(a)[None]
    first = torch.where(parallel, 1 - at, ((1 - at) * theta).sin() / safe)
    second = torch.where(parallel, at, (at * theta).sin() / safe)
    return first.to(x0)[..., None] * x0[:, None] + second.to(x0)[..., None] * x1[:, None]


def adain(
    z: Float[Tensor, "p n d"],
    x0: Float[Tensor, "p d"],
    x1: Float[Tensor, "p d"],
    u: Float[Tensor, " n"],
    *,
    channels: int,
) -> Float[Tensor, "p n d"]:
    """The points z with each channel's mean and standard deviation moved to those between the ends'.

    `sigma_u (z - mean(z)) / std(z) + mu_u` with `mu_u = (1-u) mean(x_0) + u mean(x_1)`, and sigma_u likewise.

    References:
        Huang, Belongie 2017, arXiv 1703.06868; Zhang et al. 2023, arXiv 2312.07409, who use it on noisy latents.
    """
    of_z, *of_ends = (_statistics(points, channels) for points in (z, x0[:, None], x1[:, None]))
    weights = u.to(z)[:, None, None]
    mean, std = (torch.lerp(first, second, weights) for first, second in zip(*of_ends, strict=True))
    normal = (_split(z, channels) - of_z[0]) / of_z[1]
    return torch.flatten(std * normal + mean, -2)


def _statistics(points: Float[Tensor, "p n d"], channels: int) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each channel, [p n c 1]."""
    split = _split(points, channels)
    return split.mean(-1, keepdim=True), split.std(-1, keepdim=True).clamp_min(1e-12)


def _split(points: Float[Tensor, "p n d"], channels: int) -> Float[Tensor, "p n c k"]:
    return points.reshape(*points.shape[:-1], channels, -1)


def _derivative(formula: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def derived(u: Tensor) -> Tensor:
        slope: Tensor = torch.func.jvp(formula, (u,), (torch.ones_like(u),))[1]
        return slope

    return derived
