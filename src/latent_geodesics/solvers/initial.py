r"""What every integrator of the initial problem shares: the equation that it follows, and where a path starts.

The geodesic equation at constant Euclidean speed, as a system of first order:

    x' = v,    v' = -alpha |v|^2 P_v P_x s(x) - |v|^2 x / R^2        (the last term on a sphere of radius R only).
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_geodesics.fields import Resolution
from latent_geodesics.geometry import norm, normal_to, unit
from latent_geodesics.manifold import Manifold
from latent_geodesics.records import InitialProblem, Solution

__all__ = ["InitialSolver", "bend", "launch", "resolved_tolerance", "steer", "turn"]

ROUNDING_SHARE = 0.1
"""The error of a step that the rounding of its stages makes, as a share of the whole path's: they partly cancel."""


class InitialSolver(ABC):
    """Follows the geodesic that leaves a point with a velocity, for a batch of pairs."""

    @abstractmethod
    def solve(self, problem: InitialProblem) -> Solution:
        """Follow all pairs of `problem` together, from `u = 0` to `u = 1`.

        Not to arrive is a `Status` of the pair, never an exception; its path then stays where it got to. No input is
        changed. Beside the usual statistics there are `sequential`, the calls of the score that the pair took part in
        one after another, and `reached`, the position up to which the path was followed; with an adaptive one also
        `tolerance`, the one in force: what was asked for, or what the scores resolve where that is larger.
        """


def bend(
    manifold: Manifold,
    alpha: float,
    x: Float[Tensor, "p *n d"],
    v: Float[Tensor, "p *n d"],
    score: Float[Tensor, "p *n d"],
) -> Float[Tensor, "p *n d"]:
    """The acceleration of a geodesic that passes `x` with velocity `v`, the score there being `score`."""
    return manifold.normal_acceleration(x, v) - alpha * v.square().sum(-1, keepdim=True) * turn(manifold, x, v, score)


def turn(
    manifold: Manifold, x: Float[Tensor, "p *n d"], v: Float[Tensor, "p *n d"], score: Float[Tensor, "p *n d"]
) -> Float[Tensor, "p *n d"]:
    """`P_x P_v P_x s`, the part of the score that turns the path."""
    return manifold.tangent(x, normal_to(v, manifold.tangent(x, score)))


def resolved_tolerance(
    problem: InitialProblem,
    tolerance: float,
    *,
    size: Float[Tensor, " a"],
    score: Float[Tensor, "a *n d"],
    resolution: Resolution | None,
) -> Float[Tensor, " a"]:
    """The error of a step, as a share of the path's length, that can be asked for: `alpha L |s|` times the rounding.

    A score that is wrong by a share `r` of itself turns a path of length `L` by `alpha L |s| r`; steps that are
    asked for less would shrink for ever. Float64.

    Args:
        problem: the problem.
        tolerance: what is asked for.
        size: `L`, the length of each path.
        score: the score somewhere on each path.
        resolution: how well it is resolved; None for full precision.
    """
    rounding = 0.0 if resolution is None else ROUNDING_SHARE * resolution.error
    pull = norm(score.nan_to_num(0.0, 0.0, 0.0)).reshape(len(score), -1).mean(-1)
    return (problem.alpha * size * pull * rounding).double().clamp(min=tolerance)


def launch(problem: InitialProblem) -> tuple[Float[Tensor, "p d"], Bool[Tensor, " p"]]:
    """The velocity at the start, tangent and as long as the one given, and whether there is one at all.

    A velocity whose tangent part is no more than rounding error (a radial one, on a sphere) has no direction: it is
    replaced by zero.
    """
    tangent = problem.manifold.tangent(problem.x0, problem.v0)
    size = norm(problem.v0)
    moves = norm(tangent) > math.sqrt(torch.finfo(size.dtype).eps) * size
    return torch.where(moves[:, None], unit(tangent) * size[:, None], 0.0), moves


def steer(
    manifold: Manifold, x: Float[Tensor, "p *n d"], v: Float[Tensor, "p *n d"], size: Float[Tensor, " p"]
) -> Float[Tensor, "p *n d"]:
    """`v` made tangent at `x` and of the length `size`: a geodesic keeps its Euclidean speed."""
    return unit(manifold.tangent(x, v)) * size.reshape(-1, *[1] * (v.ndim - 1))
