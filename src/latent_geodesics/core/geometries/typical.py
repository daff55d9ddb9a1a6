r"""A conformal metric that knows what is typical: both improbable and improbably probable regions are slow to cross.

In many dimensions samples of a density do not lie where it is largest: `log p` of nearly all of them falls into a
narrow range, and a point far above it (an even grey image, say) is no more like them than one below. With `m` the
middle of that range and `w` half its width,

    S[g] = int exp(alpha w phi(z)) |g'| du,    z = (log p - m) / w,        P_x g'' = alpha phi'(z) |g'|^2 P_v s,

at constant Euclidean speed. `phi'` is 0 for `|z| <= 1`, from there it goes smoothly (two continuous derivatives) to -1
below and to 1 above at `|z| = 2`. So a path within the range is straight; far below it `alpha` is the power on the
density, as in the geometry of `p^alpha`, and far above it the power is `-alpha`.

`log p` is known along a path up to a constant. It is referred to the mean of its values at the two ends, whichever way
the path runs, and to the start of a path that is known by its start alone: `m` says how far a typical point is from
that. Both `m` and `w` are properties of a model, a score and a noise level (`models.measure_typical_range` gives them).
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.geometries.base import Geometry, Sight, checked_strength
from latent_geodesics.core.manifold import normal_to


@dataclass(frozen=True, kw_only=True)
class Typical(Geometry):
    """The conformal geometry of a density's typical range.

    Args:
        alpha: the power on the density far outside of the range, finite and at least zero.
        middle: `m`, the middle of the range relative to the mean of both ends, in nats.
        width: `w`, half its width, above zero, in nats.
        from_start: whether to refer `log p` to the start of every path instead, so that a path between two ends and
            one that goes on from its start are geodesics of one metric.

    Raises:
        UserError: if an argument is out of range.
    """

    alpha: float = 1.0
    middle: float = 0.0
    width: float
    from_start: bool = False

    needs_density: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checked_strength("alpha", self.alpha)
        checked_strength("width", self.width)
        checked_strength("middle", abs(self.middle) if type(self.middle) in (int, float) else self.middle)
        if self.width == 0:
            raise UserError("width must be above zero, half the width of the typical range in nats; received 0.")

    @property
    def strength(self) -> float:
        """`alpha`."""
        return float(self.alpha)

    @property
    def power(self) -> float:
        """`alpha`."""
        return self.strength

    def force(self, sight: Sight) -> Float[Tensor, "*b d"]:
        """`-phi'(z) P_v s`."""
        return -_ramp(self._excess(sight))[..., None] * normal_to(sight.velocity, sight.pull)

    def confinement(self, sight: Sight) -> Float[Tensor, "*b"]:
        """`-phi'(z)`: below the range as in the geometry of `p^alpha`, above it the other way."""
        return -_ramp(self._excess(sight))

    def spring(
        self,
        strength: Float[Tensor, " a"],
        velocity: Float[Tensor, "a n d"],
        pull: Float[Tensor, "a n d"],
        log_density: Float[Tensor, "a n"],
    ) -> Float[Tensor, "a n d"]:
        """`sqrt(alpha phi''(z) / w) |v| P_v s`: a move along `P_v s` changes `log p`, and with it the force."""
        stiffness = strength[:, None] * _slope((log_density - self.middle) / self.width) / self.width
        scale = (stiffness * velocity.square().sum(-1)).sqrt()
        return scale[..., None] * normal_to(velocity, pull)

    def line_element(
        self,
        strength: float | Float[Tensor, "..."],
        *,
        speed: Float[Tensor, "*b"],
        rate: Float[Tensor, "*b"],
        log_density: Float[Tensor, "*b"],
    ) -> Float[Tensor, "*b"]:
        """`exp(alpha w phi(z)) |v|`."""
        del rate
        return self._log_factor(strength, log_density).exp() * speed

    def stretch(
        self, strength: float | Float[Tensor, "..."], log_density: Float[Tensor, "*b k"]
    ) -> Float[Tensor, "*b k"]:
        """`alpha w phi(z)`."""
        factor = self._log_factor(strength, log_density)
        return factor - factor.mean(-1, keepdim=True)

    def refer(self, log_density: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k"]:
        """Relative to the mean of both ends, or to the start."""
        if self.from_start:
            return log_density - log_density[..., :1]
        return log_density - (log_density[..., :1] + log_density[..., -1:]) / 2

    def _log_factor(
        self, strength: float | Float[Tensor, "..."], log_density: Float[Tensor, "*b"]
    ) -> Float[Tensor, "*b"]:
        return strength * self.width * _height((log_density - self.middle) / self.width)

    def _excess(self, sight: Sight) -> Float[Tensor, "*b"]:
        """`z`."""
        assert sight.log_density is not None
        return (sight.log_density - self.middle) / self.width


def _beyond(z: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """How far `|z|` is on its way from 1 to 2, in [0, 1]."""
    return (z.abs() - 1).clamp(0, 1)


def _ramp(z: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """`phi'`."""
    t = _beyond(z)
    return z.sign() * t**3 * (10 + t * (6 * t - 15))


def _slope(z: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """`phi''`."""
    t = _beyond(z)
    return 30 * t**2 * (1 - t) ** 2


def _height(z: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """`phi`, zero within the range."""
    t = _beyond(z)
    return t**4 * (2.5 + t * (t - 3)) + (z.abs() - 2).clamp(min=0)
