r"""The path through points whose first two derivatives are known: what an integrator leaves behind."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.manifold import Manifold
from latent_geodesics.path import Path

__all__ = ["HermitePath"]


class HermitePath(Path):
    """The piecewise quintic with given points, velocities and accelerations at evenly spaced positions.

    Args:
        knots: points, the first and last of them the ends.
        velocities: `dg/du` at each knot.
        accelerations: `d2g/du2` at each knot.
        manifold: the space that the curve is projected on between the knots.
    """

    def __init__(
        self,
        *,
        knots: Float[Tensor, "p k d"],
        velocities: Float[Tensor, "p k d"],
        accelerations: Float[Tensor, "p k d"],
        manifold: Manifold,
    ) -> None:
        if knots.ndim != 3 or knots.shape[1] < 2 or not knots.shape == velocities.shape == accelerations.shape:
            shapes = f"{tuple(knots.shape)}, {tuple(velocities.shape)}, {tuple(accelerations.shape)}"
            raise ValueError(f"knots and their derivatives must share one shape [p k d]; received {shapes}.")
        self.knots, self.manifold = knots, manifold
        self.velocities, self.accelerations = velocities, accelerations

    @property
    def pairs(self) -> int:
        """`p`, how many pairs."""
        return len(self.knots)

    @property
    def breaks(self) -> Float[Tensor, " m"]:
        """The positions of the knots."""
        return torch.linspace(0, 1, self.knots.shape[1], dtype=torch.float64)

    def point(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`g(u)`."""
        inside = self.manifold.project(self._piece(u, 0))
        for position, end in ((0, self.knots[:, :1]), (1, self.knots[:, -1:])):
            inside = torch.where((u == position).to(inside.device)[:, None], end, inside)
        return inside

    def velocity(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`g'(u)`."""
        return self.manifold.project_curve(self._piece(u, 0), self._piece(u, 1), self._piece(u, 2))[1]

    def acceleration(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`g''(u)`."""
        return self.manifold.project_curve(self._piece(u, 0), self._piece(u, 1), self._piece(u, 2))[2]

    def restrict(self, pairs: Int[Tensor, " m"]) -> "HermitePath":
        """The paths of the pairs `pairs` alone."""
        return HermitePath(
            knots=self.knots[pairs],
            velocities=self.velocities[pairs],
            accelerations=self.accelerations[pairs],
            manifold=self.manifold.restrict(pairs),
        )

    def reversed(self) -> "HermitePath":
        """From the last knot to the first."""
        return HermitePath(
            knots=self.knots.flip(1),
            velocities=-self.velocities.flip(1),
            accelerations=self.accelerations.flip(1),
            manifold=self.manifold,
        )

    def _piece(self, u: Float[Tensor, " n"], derivative: int) -> Float[Tensor, "p n d"]:
        pieces = self.knots.shape[1] - 1
        scaled = u.detach().to("cpu", torch.float64) * pieces
        index = scaled.floor().clamp(0, pieces - 1).long()
        weights = _quintic_hermite(scaled - index, derivative).to(self.knots) * pieces**derivative
        index = index.to(self.knots.device)
        total = torch.zeros_like(self.knots[:, index])
        for side in (0, 1):
            total = total + weights[:, side, None] * self.knots[:, index + side]
            total = total + weights[:, 2 + side, None] * self.velocities[:, index + side] / pieces
            total = total + weights[:, 4 + side, None] * self.accelerations[:, index + side] / pieces**2
        return total


def _quintic_hermite(w: Float[Tensor, " n"], derivative: int) -> Float[Tensor, "n 6"]:
    """Weights of (left, right) value, velocity and acceleration of the quintic on a piece of length 1."""
    powers = torch.arange(6, dtype=torch.float64)
    factor = torch.ones(6, dtype=torch.float64)
    for order in range(derivative):
        factor = factor * (powers - order)
    monomials = factor * w[:, None] ** (powers - derivative).clamp(min=0)
    coefficients = torch.tensor(
        [
            [1, 0, 0, -10, 15, -6],
            [0, 0, 0, 10, -15, 6],
            [0, 1, 0, -6, 8, -3],
            [0, 0, 0, -4, 7, -3],
            [0, 0, 0.5, -1.5, 1.5, -0.5],
            [0, 0, 0, 0.5, -1, 0.5],
        ],
        dtype=torch.float64,
    )
    return monomials @ coefficients.T
