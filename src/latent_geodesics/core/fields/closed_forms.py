r"""Densities whose geodesics are known, to test solvers against.

Only `log p` and its gradient matter, so none of them needs to be normalisable. The distance of each is that of the
metric `p^-2 I` (alpha = 1), the infimum of `int |g'| / p(g) du` over paths from `a` to `b`.

| density | cost 1/p | geodesics |
|---|---|---|
| constant | 1 | straight lines (great circles on a sphere) |
| `x_2` | `1 / x_2` | half-circles of the Poincare half-space |
| `(1 - |x|^2) / 2` | `2 / (1 - |x|^2)` | circles of the Poincare ball |
| `(1 + |x|^2) / 2` | `2 / (1 + |x|^2)` | great circles under stereographic projection |
| `exp(c . x)` | `exp(-c . x)` | in two dimensions, preimages of straight lines under `exp` |
| isotropic Gaussian | `exp(|x|^2 / 2 s^2)` | planar curves on which `cost * |x ^ v|` is constant (Clairaut) |
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.fields.base import Density


class UniformDensity(Density):
    """`p = 1` everywhere."""

    def log_prob(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Zero."""
        return x.sum(-1) * 0

    def score(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """Zero."""
        return torch.zeros_like(x)

    def distance(self, a: Float[Tensor, "*b d"], b: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        """`|a - b|`, in flat space."""
        return (a - b).square().sum(-1).sqrt()


class HalfSpace(Density):
    """`p(x) = x_2`, the second coordinate, above zero: the Poincare half-space; NaN on and below its boundary."""

    def log_prob(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """`log x_2`."""
        return x[..., 1].log()

    def score(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """`e_2 / x_2`."""
        height = x[..., 1]
        score = torch.zeros_like(x)
        score[..., 1] = torch.where(height > 0, 1 / height, torch.nan)
        return score

    def distance(self, a: Float[Tensor, "*b d"], b: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        """`arcosh(1 + |a - b|^2 / (2 a_2 b_2))`."""
        return _arcosh_of_one_plus((a - b).square().sum(-1) / (2 * a[..., 1] * b[..., 1]))


class PoincareBall(Density):
    """`p(x) = (1 - |x|^2) / 2`, inside the unit ball of any dimension; NaN on and outside its boundary."""

    def log_prob(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """`log((1 - |x|^2) / 2)`."""
        return ((1 - x.square().sum(-1)) / 2).log()

    def score(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """`-2 x / (1 - |x|^2)`."""
        room = 1 - x.square().sum(-1, keepdim=True)
        return torch.where(room > 0, -2 * x / room, torch.nan)

    def distance(self, a: Float[Tensor, "*b d"], b: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        """`arcosh(1 + 2 |a - b|^2 / ((1 - |a|^2) (1 - |b|^2)))`."""
        room = (1 - a.square().sum(-1)) * (1 - b.square().sum(-1))
        return _arcosh_of_one_plus(2 * (a - b).square().sum(-1) / room)


class StereographicSphere(Density):
    """`p(x) = (1 + |x|^2) / 2`: the unit sphere of dimension d seen by stereographic projection."""

    def log_prob(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """`log((1 + |x|^2) / 2)`."""
        return ((1 + x.square().sum(-1)) / 2).log()

    def score(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """`2 x / (1 + |x|^2)`."""
        return 2 * x / (1 + x.square().sum(-1, keepdim=True))

    def distance(self, a: Float[Tensor, "*b d"], b: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        """`2 arcsin(|a - b| / sqrt((1 + |a|^2) (1 + |b|^2)))`."""
        room = (1 + a.square().sum(-1)) * (1 + b.square().sum(-1))
        return 2 * torch.asin(((a - b).norm(dim=-1) / room.sqrt()).clamp(max=1.0))


class Exponential(Density):
    """`p(x) = exp(c . x)`.

    Args:
        direction: the vector `c`, not zero; its unit is 1/[x].

    Raises:
        ValueError: if `direction` is not one finite vector other than zero.
    """

    def __init__(self, *, direction: Float[Tensor, " d"]) -> None:
        if direction.ndim != 1 or not bool(torch.isfinite(direction).all()) or not bool(direction.any()):
            raise ValueError(f"direction must be one finite vector other than zero; received {direction}.")
        self.direction = direction

    def log_prob(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """`c . x`."""
        return x @ self.direction.to(x)

    def score(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """`c`, everywhere."""
        return self.direction.to(x).expand_as(x).clone()

    def distance(self, a: Float[Tensor, "*b d"], b: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        r"""The distance in the plane through `a` and `b` that contains `c`.

        With `z = |c| (across, along c)` the map `exp(-z_along) (cos z_across, sin z_across) / |c|` is an isometry to
        the flat plane, cut along its negative axis: two points further apart than half a turn are joined
        through its origin, at infinity.
        """
        c = self.direction.to(a)
        size = c.norm()
        along_a, along_b = a @ c, b @ c
        offset = (b - a) - ((b - a) @ c / size**2).unsqueeze(-1) * c
        turn = size * offset.norm(dim=-1)
        near, far = (-along_a).exp() / size, (-along_b).exp() / size
        chord = ((near - far).square() + 4 * near * far * (turn / 2).sin().square()).sqrt()
        return torch.where(turn < math.pi, chord, near + far)


class IsotropicGaussian(Density):
    """`p(x) = exp(-|x - mean|^2 / (2 scale^2))`, unnormalised.

    Args:
        mean: the centre.
        scale: the standard deviation, above zero, in the unit of `x`.

    Raises:
        ValueError: if `scale` is not a positive number.
    """

    def __init__(self, *, mean: Float[Tensor, " d"], scale: float = 1.0) -> None:
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be positive and finite; received {scale}.")
        self.mean, self.scale = mean, scale

    def log_prob(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """`-|x - mean|^2 / (2 scale^2)`."""
        return -0.5 * (x - self.mean.to(x)).square().sum(-1) / self.scale**2

    def score(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """`-(x - mean) / scale^2`."""
        return -(x - self.mean.to(x)) / self.scale**2


def _arcosh_of_one_plus(excess: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """`arcosh(1 + e)` without the cancellation that `1 + e` brings for small `e`."""
    return torch.log1p(excess + (excess * (excess + 2)).sqrt())
