"""Density, speed and residual along a path, all from one evaluation of the score at the same positions.

- log-density relative to the start: log p(g(u)) - log p(g(0)) = int_0^u g' . s du, by the trapezoidal rule;
- speed |g'(u)|;
- residual |P_v (alpha s + g'' / |g'|^2)|, the norm of the geodesic gradient;
- length int p~^-alpha |g'| du with p~ = p / p(g(0)).

The definition is one for all methods, whatever a solver's own discretisation.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.fields import ScoreField, well_resolved
from latent_geodesics.geometry import normal_to
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


def path_curves(path: Path, field: ScoreField, manifold: Manifold, alpha: float, *, positions: int = 65) -> PathCurves:
    """Follows each path at evenly spaced positions; costs that many evaluations of the score a pair.

    Scores as coarse as bfloat16's are measured in float32, where the field has it.
    """
    u = torch.linspace(0, 1, positions, dtype=torch.float64)
    x, v = path.point(u), path.velocity(u)
    at = u.to(x).expand(x.shape[:-1])
    score = well_resolved(field, x[:, [0, -1]], at[:, [0, -1]]).score(x, at)
    speed = v.norm(dim=-1)
    bend = manifold.tangent(x, path.acceleration(u)) / speed.square().clamp_min(1e-30)[..., None]
    gradient = normal_to(v, alpha * manifold.tangent(x, score) + bend)
    steps = torch.cumulative_trapezoid((v * score).sum(-1).double(), u.to(x.device), dim=-1)
    log_density = torch.nn.functional.pad(steps, (1, 0))
    cost = (-alpha * log_density).exp() * speed.double()
    return PathCurves(
        u=u,
        log_density=log_density,
        speed=speed,
        residual=gradient.norm(dim=-1),
        length=torch.trapezoid(cost, u.to(x.device), dim=-1),
    )
