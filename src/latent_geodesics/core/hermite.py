r"""The path through points whose first two derivatives are known: what an integrator leaves behind."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.manifold import Manifold
from latent_geodesics.core.path import Path


class HermitePath(Path):
    """The piecewise quintic through knots with given points, velocities and accelerations.

    Args:
        knots: points, the first and last of them the ends.
        velocities: `dg/du` at each knot.
        accelerations: `d2g/du2` at each knot.
        manifold: the space that the curve is projected on between the knots.
        nodes: the position of each knot, from 0 to 1 without ever decreasing, one row for all pairs or one for each;
            evenly spaced if not given. Where two knots share a position the curve may jump in its derivatives, and
            pairs with fewer knots than others repeat their last.

    Raises:
        ValueError: if shapes disagree, or positions do not run from 0 to 1.
    """

    def __init__(
        self,
        *,
        knots: Float[Tensor, "p k d"],
        velocities: Float[Tensor, "p k d"],
        accelerations: Float[Tensor, "p k d"],
        manifold: Manifold,
        nodes: Float[Tensor, "#p k"] | None = None,
    ) -> None:
        if knots.ndim != 3 or knots.shape[1] < 2 or not knots.shape == velocities.shape == accelerations.shape:
            shapes = f"{tuple(knots.shape)}, {tuple(velocities.shape)}, {tuple(accelerations.shape)}"
            raise ValueError(f"knots and their derivatives must share one shape [p k d]; received {shapes}.")
        self.knots, self.manifold = knots, manifold
        self.velocities, self.accelerations = velocities, accelerations
        if nodes is None:
            nodes = torch.linspace(0, 1, knots.shape[1], dtype=torch.float64)[None]
        self.nodes: Float[Tensor, "#p k"] = _check_nodes(nodes, knots)

    @property
    def pairs(self) -> int:
        """`p`, how many pairs."""
        return len(self.knots)

    @property
    def breaks(self) -> Float[Tensor, " m"]:
        """The positions of the knots of all pairs."""
        breaks: Tensor = torch.unique(self.nodes)
        return breaks

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
            nodes=self.nodes if len(self.nodes) == 1 else self.nodes[pairs.cpu()],
        )

    def reversed(self) -> "HermitePath":
        """From the last knot to the first."""
        return HermitePath(
            knots=self.knots.flip(1),
            velocities=-self.velocities.flip(1),
            accelerations=self.accelerations.flip(1),
            manifold=self.manifold,
            nodes=1 - self.nodes.flip(1),
        )

    def _piece(self, u: Float[Tensor, " n"], derivative: int) -> Float[Tensor, "p n d"]:
        at = u.detach().to("cpu", torch.float64).expand(len(self.nodes), -1).contiguous()
        # At the very end the piece is the last one that has a width, elsewhere the one that begins last.
        begun = torch.where(at < 1, torch.searchsorted(self.nodes, at, right=True), torch.searchsorted(self.nodes, at))
        index = (begun - 1).clamp(0, self.nodes.shape[1] - 2)
        start = self.nodes.gather(1, index)
        width = self.nodes.gather(1, index + 1) - start
        weights = _quintic_hermite((at - start) / width, derivative) / width[..., None] ** derivative
        scales = torch.stack([torch.ones_like(width), width, width**2], -1).repeat_interleave(2, -1)
        weights = (weights * scales).to(self.knots)
        index = index.to(self.knots.device).expand(self.pairs, -1)[..., None]
        total = torch.zeros_like(self.knots[:, :1])
        for side in (0, 1):
            for row, part in enumerate((self.knots, self.velocities, self.accelerations)):
                total = total + weights[..., 2 * row + side, None] * part.take_along_dim(index + side, 1)
        return total


def _check_nodes(nodes: Float[Tensor, "#p k"], knots: Float[Tensor, "p k d"]) -> Float[Tensor, "#p k"]:
    nodes = nodes.detach().to("cpu", torch.float64)
    if nodes.ndim != 2 or nodes.shape[1] != knots.shape[1] or len(nodes) not in (1, len(knots)):
        raise ValueError(
            f"nodes must have the shape [1 k] or [p k], with k = {knots.shape[1]} and p = {len(knots)}; received "
            f"{tuple(nodes.shape)}."
        )
    if not bool((nodes.diff(dim=1) >= 0).all() & (nodes[:, 0] == 0).all() & (nodes[:, -1] == 1).all()):
        raise ValueError(f"nodes must run from 0 to 1 without decreasing; received {nodes.tolist()}.")
    return nodes.contiguous()


def _quintic_hermite(w: Float[Tensor, "*b"], derivative: int) -> Float[Tensor, "*b 6"]:
    """Weights of (left, right) value, velocity and acceleration of the quintic on a piece of length 1."""
    powers = torch.arange(6, dtype=torch.float64)
    factor = torch.ones(6, dtype=torch.float64)
    for order in range(derivative):
        factor = factor * (powers - order)
    monomials = factor * w[..., None] ** (powers - derivative).clamp(min=0)
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
