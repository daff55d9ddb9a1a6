r"""The metric of the graph of `log p`: changes of the log-density are a way to go, up or down, like any other.

The graph `(x, sqrt(lambda) log p(x))` lies in a space of one dimension more; the length of a curve on it is

    S[g] = int sqrt(|v|^2 + lambda (s . v)^2) du,        G = I + lambda s s^T,

and its geodesics, at constant speed in G, obey

    P_x g'' = -lambda (v^T H v) s / (1 + lambda |s|^2),        v^T H v = d(s . v)/du - s . P_x g''

with the tangential score on a sphere. So `log p` along the path bends less the larger lambda is: in the limit it is
linear in `u`, and a path neither climbs to improbably probable points nor falls below its ends. Where a prompt moves
along the path, `v^T H v` holds what the motion of the prompt changes too, and the path is no minimum of the length.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.geometries.base import Geometry, Sight, checked_strength
from latent_geodesics.core.manifold import norm


@dataclass(frozen=True, kw_only=True)
class Graph(Geometry):
    """The geometry of the graph of the log-density.

    Args:
        lam: `lambda`, the square of how long a nat is beside the unit of `x`; finite, at least zero, in [x]^2.

    Raises:
        UserError: if lambda is no such number.
    """

    lam: float = 1.0

    conformal: ClassVar[bool] = False
    constant_speed: ClassVar[bool] = False
    needs_curvature: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checked_strength("lam", self.lam)

    @property
    def strength(self) -> float:
        """`lambda`."""
        return float(self.lam)

    def force(self, sight: Sight) -> Float[Tensor, "*b d"]:
        """`(v^T H v) s / |v|^2`."""
        return _per_length(_curvature(sight), sight)[..., None] * sight.pull

    def gauge(self, sight: Sight) -> Float[Tensor, "*b"]:
        """`|s|^2`, of the tangential score."""
        return sight.pull.square().sum(-1)

    def share(self, strength: float | Float[Tensor, "..."], gauge: Float[Tensor, "*b"]) -> Float[Tensor, "..."]:
        """`1 / (1 + lambda |s|^2)`."""
        return 1 / (1 + strength * gauge)

    def force_size(self, sight: Sight) -> Float[Tensor, "*b"]:
        """`|v^T H v| |s| / |v|^2`."""
        return _per_length(_curvature(sight), sight).abs() * norm(sight.pull)

    def force_error(self, sight: Sight) -> Float[Tensor, "*b"]:
        """That of the curvature, and that of the score which it stands before."""
        assert sight.size is not None
        curvature = sight.noise * sight.size * norm(sight.velocity) * norm(sight.pull)
        return _per_length(curvature + _curvature(sight).abs() * sight.size, sight)

    def confinement(self, sight: Sight) -> Float[Tensor, "*b"]:
        """None: the metric has no factor that all directions share."""
        return torch.zeros_like(sight.pull[..., 0])

    def line_element(
        self,
        strength: float | Float[Tensor, "..."],
        *,
        speed: Float[Tensor, "*b"],
        rate: Float[Tensor, "*b"],
        log_density: Float[Tensor, "*b"],
    ) -> Float[Tensor, "*b"]:
        """`sqrt(|v|^2 + lambda (s . v)^2)`."""
        del log_density
        return (speed.square() + strength * rate.square()).sqrt()

    def lift(self, strength: Float[Tensor, " a"], pull: Float[Tensor, "a n d"]) -> Float[Tensor, "a n d"]:
        """`sqrt(lambda) s`."""
        return strength.sqrt()[:, None, None] * pull

    def turn_error(
        self, length: Float[Tensor, " a"], score: Float[Tensor, " a"], *, error: float, dimension: int
    ) -> Float[Tensor, " a"]:
        """What the error makes of a difference over its cube root, times `lambda |s|^2 / (1 + lambda |s|^2)`."""
        scaled = self.strength * score.square()
        turn: Tensor = scaled / (1 + scaled) * (error ** (2 / 3) / dimension**0.5)
        return turn


def _curvature(sight: Sight) -> Float[Tensor, "*b"]:
    assert sight.curvature is not None
    return sight.curvature


def _per_length(value: Float[Tensor, "*b"], sight: Sight) -> Float[Tensor, "*b"]:
    """The value over `|v|^2`."""
    squared = sight.velocity.square().sum(-1)
    return value / squared.clamp(min=torch.finfo(squared.dtype).tiny)
