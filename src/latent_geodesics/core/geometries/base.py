r"""What a geometry is: how long a step is where the density is what it is, and what that makes of a path.

Every geometry here has a line element that depends on a step `v` and on the density `p` through `log p` and the score
`s = grad log p` alone, so that its geodesic equation reads

    P_x g'' = -w |g'|^2 f,

with `f` a force, in 1/[x], that does not depend on the strength of the geometry, and `w` a weight that does. `P_x`
projects on the tangent space of a sphere, and so is `s` there. At strength zero the weight is zero: straight lines,
great circles. The usual one is `Conformal`.

Symbols: `v = g'`; `P_v` the part across the path; `v^T H v` the second derivative of `log p` along the straight line
(on a sphere the great circle) that touches the path; log-densities in nats.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.manifold import normal_to


@dataclass(frozen=True, kw_only=True)
class Sight:
    """A path at some of its points, as the score there shows it.

    Attributes:
        velocity: `v`.
        pull: the tangential score, in 1/[x].
        size: `|s|`.
        curvature: `v^T H v`, in nats; None unless the geometry asks for it.
        log_density: `log p` relative to what the geometry refers it to; None unless the geometry asks for it.
        noise: by what factor of `|s| |v|` the curvature is wrong if the score is wrong by all of itself.
    """

    velocity: Float[Tensor, "*b d"]
    pull: Float[Tensor, "*b d"]
    size: Float[Tensor, "*b"] | None = None
    curvature: Float[Tensor, "*b"] | None = None
    log_density: Float[Tensor, "*b"] | None = None
    noise: float = 1.0


class Geometry(ABC):
    """A line element made of a density; see the module.

    Attributes:
        conformal: whether the metric is the identity up to a factor. Where it is not, it changes with the path, and
            differences of defects do not show the second variation of the length: no solver looks for saddles in them.
        constant_speed: whether its paths run at constant Euclidean speed; otherwise at constant speed of its own.
        needs_curvature: whether the force needs `v^T H v`.
        needs_density: whether the force needs `log p` along the path.
    """

    conformal: ClassVar[bool] = True
    constant_speed: ClassVar[bool] = True
    needs_curvature: ClassVar[bool] = False
    needs_density: ClassVar[bool] = False

    @property
    @abstractmethod
    def strength(self) -> float:
        """How far the geometry is from the Euclidean one: what a solver raises, from small values, to its own."""

    @property
    def power(self) -> float:
        """The largest power of `p`, up or down, by which it stretches lengths in all directions alike."""
        return 0.0

    @abstractmethod
    def force(self, sight: Sight) -> Float[Tensor, "*b d"]:
        """`f`, tangential, in 1/[x]."""

    @abstractmethod
    def line_element(
        self,
        strength: float | Float[Tensor, "..."],
        *,
        speed: Float[Tensor, "*b"],
        rate: Float[Tensor, "*b"],
        log_density: Float[Tensor, "*b"],
    ) -> Float[Tensor, "*b"]:
        """The length of a step of the Euclidean length `speed` along which `log p` changes by `rate`, per unit of `u`.

        Args:
            strength: that of the geometry.
            speed: `|v|`.
            rate: `s . v`, in nats.
            log_density: `log p` relative to what the geometry refers it to (`refer`), in nats.
        """

    def gauge(self, sight: Sight) -> Float[Tensor, "*b"]:
        """What the weight depends on beside the strength; nothing unless a geometry says so."""
        return torch.ones_like(sight.pull[..., 0])

    def share(self, strength: float | Float[Tensor, "..."], gauge: Float[Tensor, "*b"]) -> Float[Tensor, "..."]:
        """`w` as a share of the strength, one at strength zero; always one unless a geometry says otherwise."""
        del strength
        return gauge

    def weight(self, strength: float | Float[Tensor, "..."], gauge: Float[Tensor, "*b"]) -> Float[Tensor, "..."]:
        """`w`, zero at strength zero."""
        return strength * self.share(strength, gauge)

    def force_size(self, sight: Sight) -> Float[Tensor, "*b"]:
        """How large the force may be where it is not balanced by chance, in 1/[x]: what residuals are a share of."""
        size: Tensor = torch.linalg.vector_norm(sight.pull, dim=-1)
        return size

    def force_error(self, sight: Sight) -> Float[Tensor, "*b"]:
        """By how much the force is wrong if the score is wrong by all of itself, in 1/[x]."""
        assert sight.size is not None
        return sight.size

    def confinement(self, sight: Sight) -> Float[Tensor, "*b"]:
        """How much of minus the second derivative of `log p` across the path adds to the length's, per strength."""
        return torch.ones_like(sight.pull[..., 0])

    def stretch(
        self, strength: float | Float[Tensor, "..."], log_density: Float[Tensor, "*b k"]
    ) -> Float[Tensor, "*b k"]:
        """The logarithm of the factor on lengths that all directions share, relative to its mean along the path."""
        del strength
        return torch.zeros_like(log_density)

    def turn_error(
        self, length: Float[Tensor, " a"], score: Float[Tensor, " a"], *, error: float, dimension: int
    ) -> Float[Tensor, " a"]:
        """By what angle the error of scores may turn a path of length `length` on its way.

        Args:
            length: the Euclidean length of each path.
            score: `|s|` on it.
            error: the relative error of scores.
            dimension: that of the space.
        """
        del dimension
        return self.strength * length * score * error

    def lift(self, strength: Float[Tensor, " a"], pull: Float[Tensor, "a n d"]) -> Float[Tensor, "a n d"] | None:
        """The `l` with which the metric is `I + l l^T` up to a factor; None where it is the identity up to a factor."""
        del strength, pull
        return None

    def spring(
        self,
        strength: Float[Tensor, " a"],
        velocity: Float[Tensor, "a n d"],
        pull: Float[Tensor, "a n d"],
        log_density: Float[Tensor, "a n"],
    ) -> Float[Tensor, "a n d"] | None:
        """The `l` where the equation holds each knot back by `-l (l . x)` as it moves by `x`; None where by nothing."""
        del strength, velocity, pull, log_density
        return None

    def refer(self, log_density: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k"]:
        """Log-densities along whole paths, given relative to their start, relative to what the geometry refers to."""
        return log_density


def checked_strength(name: str, value: Any) -> float:
    """The number, if it is one that a strength can be.

    Raises:
        UserError: names it and its value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UserError(f"{name} must be a finite number, at least zero; received {value!r}.")
    return float(value)


@dataclass(frozen=True, kw_only=True)
class Conformal(Geometry):
    """The metric `p^(-2 alpha) I`: improbable regions are slow to cross, in all directions alike.

        S[g] = int p(g)^-alpha |g'| du,        P_x g'' = -alpha |g'|^2 P_v s,

    at constant Euclidean speed. Fermat's principle with the refractive index `p^-alpha`; `alpha` is an inverse
    temperature. Lengths are relative to the density at the start of a path.

    References:
        Yu et al., Probability Density Geodesics in Image Diffusion Latent Space (2025), arXiv 2504.06675.

    Args:
        alpha: the power on `p`, finite and at least zero.

    Raises:
        UserError: if alpha is no such number.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        checked_strength("alpha", self.alpha)

    @property
    def strength(self) -> float:
        """`alpha`."""
        return float(self.alpha)

    @property
    def power(self) -> float:
        """`alpha`."""
        return self.strength

    def force(self, sight: Sight) -> Float[Tensor, "*b d"]:
        """`P_v s`."""
        return normal_to(sight.velocity, sight.pull)

    def line_element(
        self,
        strength: float | Float[Tensor, "..."],
        *,
        speed: Float[Tensor, "*b"],
        rate: Float[Tensor, "*b"],
        log_density: Float[Tensor, "*b"],
    ) -> Float[Tensor, "*b"]:
        """`p^-alpha |v|`."""
        del rate
        return (-strength * log_density).exp() * speed

    def stretch(
        self, strength: float | Float[Tensor, "..."], log_density: Float[Tensor, "*b k"]
    ) -> Float[Tensor, "*b k"]:
        """`-alpha log p`."""
        return -strength * (log_density - log_density.mean(-1, keepdim=True))
