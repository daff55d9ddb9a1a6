"""Density, speed and residual along a path, all from one evaluation of the score at the same positions.

- log-density relative to the start: log p(g(u)) - log p(g(0)) = int_0^u g' . s du, by the trapezoidal rule;
- speed |g'(u)|;
- residual |P_v (alpha s + g'' / |g'|^2)|, the norm of the geodesic gradient;
- length int p~^-alpha |g'| du with p~ = p / p(g(0)).

In another geometry than that of p^alpha, length and residual are its own; what it asks for beside the score follows
from the scores at the positions. The definition is one for all methods, whatever a solver's own discretisation.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.fields import ScoreField, well_resolved
from latent_geodesics.geometries import Geometry, Sight
from latent_geodesics.geometry import as_geometry, normal_to
from latent_geodesics.interpolation import Spline
from latent_geodesics.manifold import Manifold
from latent_geodesics.path import Path

__all__ = ["PathCurves", "path_curves"]


@dataclass(frozen=True, kw_only=True)
class PathCurves:
    """What a path is like along its way.

    Attributes:
        u: Positions in [0, 1].
        log_density: In nats, relative to the start.
        speed: Euclidean speed |g'|.
        residual: Norm of the geodesic gradient, in 1/[x].
        length: Length relative to the density at the start.
    """

    u: Float[Tensor, " n"]
    log_density: Float[Tensor, "p n"]
    speed: Float[Tensor, "p n"]
    residual: Float[Tensor, "p n"]
    length: Float[Tensor, " p"]


def path_curves(
    path: Path, field: ScoreField, manifold: Manifold, alpha: float | Geometry, *, positions: int = 65
) -> PathCurves:
    """Follows each path at evenly spaced positions; costs that many evaluations of the score a pair.

    Scores as coarse as bfloat16's are measured in float32, where the field has it.

    Args:
        path: The paths.
        field: The score.
        manifold: What they lie on.
        alpha: The power on the density, or a geometry.
        positions: How many.
    """
    geometry = as_geometry(alpha)
    u = torch.linspace(0, 1, positions, dtype=torch.float64)
    x, v = path.point(u), path.velocity(u)
    at = u.to(x).expand(x.shape[:-1])
    score = well_resolved(field, x[:, [0, -1]], at[:, [0, -1]]).score(x, at)
    speed = v.norm(dim=-1)
    rate = (v * score).sum(-1)
    steps = torch.cumulative_trapezoid(rate.double(), u.to(x.device), dim=-1)
    log_density = torch.nn.functional.pad(steps, (1, 0))
    referred = geometry.refer(log_density)
    acceleration, pull = manifold.tangent(x, path.acceleration(u)), manifold.tangent(x, score)
    slope = rate @ _slopes(positions).to(rate).T if geometry.needs_curvature else torch.zeros_like(rate)
    sight = Sight(
        velocity=v,
        pull=pull,
        curvature=slope - (pull * acceleration).sum(-1),
        log_density=referred.to(x),
    )
    weight = geometry.weight(geometry.strength, geometry.gauge(sight))[..., None]
    bend = acceleration / speed.square().clamp_min(1e-30)[..., None]
    gradient = normal_to(v, weight * geometry.force(sight) + bend)
    cost = geometry.line_element(geometry.strength, speed=speed.double(), rate=rate.double(), log_density=referred)
    return PathCurves(
        u=u,
        log_density=log_density,
        speed=speed,
        residual=gradient.norm(dim=-1),
        length=torch.trapezoid(cost, u.to(x.device), dim=-1),
    )


@cache
def _slopes(positions: int) -> Float[Tensor, "n n"]:
    """The matrix from values at evenly spaced positions to the slopes there of the spline through them."""
    u = torch.linspace(0, 1, positions, dtype=torch.float64)
    return Spline(u).matrix(u, 1)
