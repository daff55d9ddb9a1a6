r"""What every integrator of the initial problem shares: the equation that it follows, and where a path starts.

The geodesic equation at constant Euclidean speed, as a system of first order:

    x' = v,    v' = -alpha |v|^2 P_v P_x s(x) - |v|^2 x / R^2        (the last term on a sphere of radius R only).
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_geodesics.geometry import norm, normal_to, unit
from latent_geodesics.manifold import Manifold
from latent_geodesics.records import InitialProblem, Solution

__all__ = ["InitialSolver", "bend", "launch", "steer", "turn"]


class InitialSolver(ABC):
    """Follows the geodesic that leaves a point with a velocity, for a batch of pairs."""

    @abstractmethod
    def solve(self, problem: InitialProblem) -> Solution:
        """Follow all pairs of `problem` together, from `u = 0` to `u = 1`.

        Not to arrive is a `Status` of the pair, never an exception; its path then stays where it got to. No input is
        changed. Beside the usual statistics there are `sequential`, the calls of the score that the pair took part in
        one after another, and `reached`, the position up to which the path was followed.
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
