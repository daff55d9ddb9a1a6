"""Paths in closed form: the two lines that every paper compares with, and others that are given by a formula.

They cost no evaluation of the score. Symbols: x_0, x_1 the ends of each pair, `u` the position, `theta` the angle
between the ends over the whole latent.
"""

from collections.abc import Callable
from dataclasses import fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.path import Path, StraightLine, shortest_path
from latent_geodesics.core.records import BoundaryProblem, Solution, Status, Trace
from latent_geodesics.methods.base import CurveMethod, PathMethod
from latent_geodesics.methods.encoding import EncodedPairs

_SMALLEST_SINE = 1e-6


class ClosedForm(PathMethod):
    """A path that needs no solving, of the boundary value problem alone."""


class Lerp(ClosedForm):
    """The straight line x(u) = (1-u) x_A + u x_B. It leaves the sphere: at its middle the norm is too small."""

    flat = True

    def solve(self, problem: BoundaryProblem) -> Solution:
        """The straight line."""
        return known_solution(StraightLine(x0=problem.x0, x1=problem.x1))


class Slerp(ClosedForm):
    """The great circle between the two latents (Shoemake 1985), the angle taken over the whole flat latent."""

    def solve(self, problem: BoundaryProblem) -> Solution:
        """The great circle."""
        return known_solution(shortest_path(problem.manifold, problem.x0, problem.x1))


def known_solution(path: Path, *, status: Status = Status.CLOSED_FORM, **stats: Float[Tensor, " p"]) -> Solution:
    """A path that needs no solving, with the numbers that are told of it besides."""
    none = torch.zeros(path.pairs)
    empty = torch.empty(0, path.pairs)
    return Solution(
        path=path,
        status=(status,) * path.pairs,
        stats={"evaluations": none, "iterations": none, **stats},
        trace=Trace(**{column.name: empty for column in fields(Trace)}),
    )


class LinearCombination(ClosedForm):
    """`x(u) = (w_0 x_A + w_1 x_B) / sqrt(w_0^2 + w_1^2)` with `w = (1-u, u)`.

    If both latents are independent and N(0, I), so is every point of the path. Latents inverted from images are neither
    quite independent nor quite normal: their norm rises a little on the way where they are alike.

    References:
        Bodin et al. 2024, Linear combinations of latents in generative models, arXiv 2408.08558.
    """

    flat = True

    def solve(self, problem: BoundaryProblem) -> Solution:
        """The path by its formula."""
        x0, x1 = problem.x0[:, None], problem.x1[:, None]

        def formula(u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
            at = u.to(x0)[:, None]
            return ((1 - at) * x0 + at * x1) / ((1 - at).square() + at.square()).sqrt()

        return known_solution(FormulaPath(formula=formula, pairs=len(x0)))


class AdainSlerp(CurveMethod):
    """`AdaIN(slerp(x_A, x_B, u))`: each channel's mean and deviation move linearly from the one image's to the other's.

    A blend of two noisy latents has other colours and contrast than either; this gives them back (Zhang et al. 2023,
    arXiv 2312.07409, section 4.2, there within DiffMorpher).
    """

    flat = True

    def solution(self, pairs: EncodedPairs) -> Solution:
        """The path by its formula."""
        x0, x1, channels = pairs.problem.x0, pairs.problem.x1, pairs.model.latent_shape[0]

        def formula(u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
            return adain(slerp(x0, x1, u), x0, x1, u, channels=channels)

        return known_solution(FormulaPath(formula=formula, pairs=len(x0)))


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
