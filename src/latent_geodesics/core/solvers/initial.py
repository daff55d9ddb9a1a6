r"""What every integrator of the initial problem shares: the equation that it follows, and where a path starts.

The geodesic equation, as a system of first order, in the geometry of `p^alpha` at constant Euclidean speed:

    x' = v,    v' = -alpha |v|^2 P_v P_x s(x) - |v|^2 x / R^2        (the last term on a sphere of radius R only).

Any other geometry has its weight and force in place of `alpha` and `P_v P_x s`. One that asks for the density has it as
a third variable, `l' = s . v`, from zero at the start; its error is not controlled, being an integral of the others.
One that asks for `v^T H v` has it from the score at two more points, before and behind on the straight line (on a
sphere the great circle) that touches the path: a difference of second order, for twice as many evaluations again.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_geodesics.core.fields import Resolution, ScoreField
from latent_geodesics.core.geometries import Geometry, Sight
from latent_geodesics.core.manifold import Manifold, norm, unit
from latent_geodesics.core.records import InitialProblem, Solution

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


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one call of the field says of points of paths.

    Attributes:
        score: the score there.
        rate: `s . v`, how fast the log-density changes.
        curvature: `v^T H v`, where the geometry asks for it.
    """

    score: Float[Tensor, "a d"]
    rate: Float[Tensor, " a"]
    curvature: Float[Tensor, " a"] | None = None


def probes(geometry: Geometry) -> int:
    """At how many points a look evaluates the score, for each point of a path."""
    return 3 if geometry.needs_curvature else 1


def score_error(geometry: Geometry, field: ScoreField, x: Float[Tensor, "a d"], u: Float[Tensor, " a"]) -> float:
    """The relative error of the scores, where the geometry takes differences of them and they are coarse; or zero."""
    resolution = field.resolution(x, u) if geometry.needs_curvature and len(x) else None
    return 0.0 if resolution is None else resolution.error


def look(
    geometry: Geometry,
    manifold: Manifold,
    field: ScoreField,
    x: Float[Tensor, "a d"],
    v: Float[Tensor, "a d"],
    u: Float[Tensor, " a"],
    *,
    error: float = 0.0,
) -> Look:
    """Evaluate the score at points of paths, one a pair; what the geometry asks for beside it in the same call.

    Args:
        geometry: says what is needed.
        manifold: the space of the paths.
        field: the score.
        x: the points.
        v: the velocities there.
        u: the positions.
        error: the relative error of the scores, where that is larger than the rounding of `x`. Its cube root, as a
            share of the length of the path, is how far apart the points of a difference are.
    """
    if not geometry.needs_curvature:
        score = field.score(x, u)
        return Look(score=score, rate=(score * v).sum(-1))
    share = max(torch.finfo(x.dtype).eps, error) ** (1 / 3)
    start, aside = x[:, None], share * manifold.tangent(x, v)[:, None]
    ahead, behind = manifold.exp(start, aside), manifold.exp(start, -aside)
    points = torch.cat([start, ahead, behind], 1)
    score = field.score(points, u[:, None].expand(-1, 3))
    before, after = (
        (score[:, which] * manifold.transport(start, there, v[:, None])[:, 0]).sum(-1)
        for which, there in ((2, behind), (1, ahead))
    )
    return Look(score=score[:, 0], rate=(score[:, 0] * v).sum(-1), curvature=(after - before) / (2 * share))


def bend(
    manifold: Manifold,
    geometry: Geometry,
    x: Float[Tensor, "p *n d"],
    v: Float[Tensor, "p *n d"],
    score: Float[Tensor, "p *n d"],
    *,
    curvature: Float[Tensor, "p *n"] | None = None,
    log_density: Float[Tensor, "p *n"] | None = None,
    normal: bool = True,
) -> Float[Tensor, "p *n d"]:
    """The acceleration of a geodesic that passes `x` with velocity `v`.

    Args:
        manifold: the space of the path.
        geometry: whose geodesic.
        x: the points.
        v: the velocities.
        score: the score there.
        curvature: `v^T H v`, if the geometry asks for it.
        log_density: `log p`, if the geometry asks for it.
        normal: whether the part normal to the manifold is included.
    """
    sight = Sight(velocity=v, pull=manifold.tangent(x, score), curvature=curvature, log_density=log_density)
    weight = geometry.weight(geometry.strength, geometry.gauge(sight))[..., None]
    turn = weight * v.square().sum(-1, keepdim=True) * manifold.tangent(x, geometry.force(sight))
    return manifold.normal_acceleration(x, v) - turn if normal else -turn


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
    asked for less would shrink for ever. Float64. Another geometry than that of `p^alpha` has its own turn.

    Args:
        problem: the problem.
        tolerance: what is asked for.
        size: `L`, the length of each path.
        score: the score somewhere on each path.
        resolution: how well it is resolved; None for full precision.
    """
    rounding = 0.0 if resolution is None else ROUNDING_SHARE * resolution.error
    score = score.nan_to_num(0.0, 0.0, 0.0)
    pull = norm(score).reshape(len(score), -1).mean(-1)
    turn = problem.geometry.turn_error(size, pull, error=rounding, dimension=score.shape[-1])
    return turn.double().clamp(min=tolerance)


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
    manifold: Manifold,
    geometry: Geometry,
    x: Float[Tensor, "p *n d"],
    v: Float[Tensor, "p *n d"],
    size: Float[Tensor, " p"],
) -> Float[Tensor, "p *n d"]:
    """`v` made tangent at `x`, and of the length `size` where geodesics keep their Euclidean speed."""
    tangent = manifold.tangent(x, v)
    return unit(tangent) * size.reshape(-1, *[1] * (v.ndim - 1)) if geometry.constant_speed else tangent
