r"""The banana: a Gaussian bent along a parabola, whose geodesics follow its curved ridge."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.fields.base import Density


class Banana(Density):
    r"""`log p(x) = -x_1^2 / (2 length^2) - (x_2 - bend x_1^2)^2 / (2 width^2)`, unnormalised, in the plane.

    References:
        Haario, Saksman, Tamminen, Adaptive proposal distribution for random walk Metropolis algorithm (1999).

    Args:
        length: standard deviation along the first axis, above zero, in the unit of `x`.
        width: standard deviation across the ridge, above zero, in the unit of `x`.
        bend: curvature of the ridge `x_2 = bend x_1^2`, finite, in 1/[x].

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, *, length: float = 2.0, width: float = 0.5, bend: float = 0.25) -> None:
        for name, value in (("length", length), ("width", width)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite; received {value}.")
        if not math.isfinite(bend):
            raise ValueError(f"bend must be finite; received {bend}.")
        self.length, self.width, self.bend = length, width, bend

    def log_prob(self, x: Float[Tensor, "*b 2"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The log-density up to a constant; `u` is ignored."""
        along, across = x[..., 0], x[..., 1] - self.bend * x[..., 0] ** 2
        return -0.5 * (along.square() / self.length**2 + across.square() / self.width**2)

    def score(self, x: Float[Tensor, "*b 2"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b 2"]:
        """The gradient of `log_prob`; `u` is ignored."""
        along = x[..., 0]
        pull = (x[..., 1] - self.bend * along.square()) / self.width**2
        return torch.stack([2 * self.bend * along * pull - along / self.length**2, -pull], -1)
