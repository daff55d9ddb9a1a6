r"""Paths: curves `g(u)`, `u` in [0, 1], one for each of `p` pairs, with their first two derivatives.

Every path answers for all its pairs at once: `point(u)`, `velocity(u)` and `acceleration(u)` map positions `[n]` to
`[p n d]`; a batch of one stays a batch. `u = 0` and `u = 1` give the end points exactly. Velocities are `dg/du`, in
the unit of x, since `u` has none.

Where things live, here and everywhere:

- what has a row for a pair or a point (points, velocities, scores, masks, numbers of pairs, weights, the state of a
  solver and its statistics) lives where the points of the problem do;
- what is known without a pair (positions `u`, nodes, quadrature rules, matrices of splines) is float64 on the CPU, and
  is brought to the points where the two meet, as in `u.to(x)`; positions and numbers of pairs are taken from anywhere;
- random numbers are drawn on the CPU, from a seed, and then moved, so that they are the same on every device;
- what is written to files goes to the CPU when it is written.
"""

from abc import ABC, abstractmethod
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.interpolate import CubicSpline, make_interp_spline
from torch import Tensor

from latent_geodesics.core.manifold import Euclidean, Manifold, Sphere


class Spline:
    """The interpolating spline of degree 5 through values at given nodes; a polynomial where there are fewer than 6.

    A spline through values `f_0 ... f_N` at nodes `u_0 ... u_N` in [0, 1] depends linearly on them, so its value or
    derivative at `u` is one row of a matrix times the values. The matrices are made once in float64 and shared by all
    pairs and dimensions. With not-a-knot ends the second derivative is itself a cubic spline: fourth-order accurate,
    and with no condition imposed at the ends.

    References:
        de Boor, A Practical Guide to Splines (1978), chapters IX and XIII.

    Args:
        nodes: at least two positions, increasing from 0 to 1.

    Raises:
        ValueError: if the nodes do not increase from 0 to 1.
    """

    def __init__(self, nodes: Float[Tensor, " n"]) -> None:
        nodes = nodes.detach().to("cpu", torch.float64)
        if nodes.ndim != 1 or len(nodes) < 2 or not bool((nodes.diff() > 0).all()):
            raise ValueError(f"nodes must be two or more positions that increase; received {nodes.tolist()}.")
        if nodes[0] != 0 or nodes[-1] != 1:
            raise ValueError(f"nodes must begin at 0 and end at 1; received {float(nodes[0])} to {float(nodes[-1])}.")
        self.nodes = nodes
        degree = min(5, len(nodes) - 1)
        self._spline = make_interp_spline(nodes.numpy(), np.eye(len(nodes)), k=degree)

    def matrix(self, u: Float[Tensor, " m"], derivative: int = 0) -> Float[Tensor, "m n"]:
        """The rows that give the spline's derivative of that order at each `u`; float64, on the CPU."""
        u = u.detach().to("cpu", torch.float64)
        rows = torch.from_numpy(self._spline(u.numpy(), derivative))
        if derivative == 0:
            hit = u[:, None] == self.nodes
            rows = torch.where(hit.any(1, keepdim=True), hit.to(rows), rows)
        return rows


@cache
def natural_second_derivative(count: int) -> Float[Tensor, "n n"]:
    """The matrix from `count` values, evenly spaced, to the second derivative there of their natural cubic spline."""
    nodes = np.linspace(0, 1, count)
    return torch.from_numpy(CubicSpline(nodes, np.eye(count), bc_type="natural")(nodes, 2))


@cache
def gauss_legendre(order: int) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"]]:
    """Nodes and weights on [0, 1] of the Gauss-Legendre rule with `order` points; float64, on the CPU."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


@cache
def gauss_kronrod() -> tuple[Float[Tensor, " 5"], Float[Tensor, " 5"], Float[Tensor, " 5"]]:
    """Two rules on the same five nodes of [0, 1]: nodes, weights exact to degree 7, weights exact to degree 3.

    The second is the Gauss rule of two points, zero elsewhere, which the first extends (Kronrod, Nodes and Weights of
    Quadrature Formulas, 1965), so that their difference estimates the error of an integral at no further evaluation;
    float64, on the CPU.
    """
    outer, inner = (6 / 7) ** 0.5, (1 / 3) ** 0.5
    nodes = torch.tensor([-outer, -inner, 0.0, inner, outer], dtype=torch.float64)
    weights = torch.tensor([98 / 495, 27 / 55, 28 / 45, 27 / 55, 98 / 495], dtype=torch.float64)
    gauss = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    return (nodes + 1) / 2, weights / 2, gauss / 2


class Path(ABC):
    """A curve for each pair of a batch."""

    @property
    @abstractmethod
    def pairs(self) -> int:
        """`p`, how many pairs."""

    @property
    def breaks(self) -> Float[Tensor, " m"]:
        """Positions from 0 to 1 between which the path is smooth; float64, on the CPU."""
        return torch.tensor([0.0, 1.0], dtype=torch.float64)

    @abstractmethod
    def point(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`g(u)`, for `u` in [0, 1]."""

    @abstractmethod
    def velocity(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`g'(u)`."""

    @abstractmethod
    def acceleration(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`g''(u)`."""

    @abstractmethod
    def restrict(self, pairs: Int[Tensor, " m"]) -> "Path":
        """The paths of the pairs `pairs` alone."""

    @abstractmethod
    def reversed(self) -> "Path":
        """The same curves run backwards: `g(1 - u)`."""


class StraightLine(Path):
    """`g(u) = (1 - u) x0 + u x1`.

    Args:
        x0: start points.
        x1: end points.
    """

    def __init__(self, *, x0: Float[Tensor, "p d"], x1: Float[Tensor, "p d"]) -> None:
        self.x0, self.x1 = _check_ends(x0, x1)

    @property
    def pairs(self) -> int:
        """`p`, how many pairs."""
        return len(self.x0)

    def point(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`(1 - u) x0 + u x1`."""
        return torch.lerp(self.x0[:, None], self.x1[:, None], u.to(self.x0)[:, None])

    def velocity(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`x1 - x0`."""
        return (self.x1 - self.x0)[:, None].expand(-1, len(u), -1).clone()

    def acceleration(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """Zero."""
        return torch.zeros_like(self.velocity(u))

    def restrict(self, pairs: Int[Tensor, " m"]) -> "StraightLine":
        """The lines of the pairs `pairs` alone."""
        return StraightLine(x0=self.x0[pairs], x1=self.x1[pairs])

    def reversed(self) -> "StraightLine":
        """From `x1` to `x0`."""
        return StraightLine(x0=self.x1, x1=self.x0)

    def double(self) -> "StraightLine":
        """The same lines in float64."""
        return StraightLine(x0=self.x0.double(), x1=self.x1.double())


class GreatCircle(Path):
    """The shorter great-circle arc, `g(u) = cos(u a) x0 + sin(u a) e R`, with `a` the angle and `e` the direction.

    Equal ends give a constant path; antipodal ones, which infinitely many arcs join, an arbitrary arc, always the same,
    unless a direction chooses among them.

    Args:
        x0: start points.
        x1: end points, of the same norm.
        sphere: the sphere that they lie on.
        direction: the direction, tangent at the start, in which the arc between antipodal ends leaves; of any length
            but zero, ignored between other ends.
    """

    def __init__(
        self,
        *,
        x0: Float[Tensor, "p d"],
        x1: Float[Tensor, "p d"],
        sphere: Sphere,
        direction: Float[Tensor, "p d"] | None = None,
    ) -> None:
        self.x0, self.x1 = _check_ends(x0, x1)
        self.sphere = sphere
        self.angle: Float[Tensor, " p"] = sphere.angle(x0, x1)
        axis = torch.nn.functional.one_hot(x0.abs().argmin(-1), x0.shape[-1]).to(x0)
        anywhere = sphere.tangent(x0, axis if direction is None else direction)
        anywhere = anywhere * (x0.norm(dim=-1) * self.angle / anywhere.norm(dim=-1)).unsqueeze(-1)
        self._antipodal = sphere.antipodal(x0, x1).unsqueeze(-1)
        self._velocity = torch.where(self._antipodal, anywhere, sphere.log(x0, x1))

    @property
    def pairs(self) -> int:
        """`p`, how many pairs."""
        return len(self.x0)

    def point(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`cos(u a) x0 + sin(u a) e R`."""
        u = u.to(self.x0)
        turned = (self.angle[:, None] * u)[..., None]
        inside = turned.cos() * self.x0[:, None]
        inside = inside + u[:, None] * torch.sinc(turned / torch.pi) * self._velocity[:, None]
        inside = torch.where(u[:, None] == 0, self.x0[:, None], inside)
        return torch.where(u[:, None] == 1, self.x1[:, None], inside)

    def velocity(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`a R e cos(u a) - a x0 sin(u a)`."""
        angle = self.angle[:, None, None]
        turned = angle * u.to(self.x0)[:, None]
        return turned.cos() * self._velocity[:, None] - angle * turned.sin() * self.x0[:, None]

    def acceleration(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`-a^2 g`."""
        return -self.angle[:, None, None].square() * self.point(u)

    def restrict(self, pairs: Int[Tensor, " m"]) -> "GreatCircle":
        """The arcs of the pairs `pairs` alone."""
        return GreatCircle(
            x0=self.x0[pairs],
            x1=self.x1[pairs],
            sphere=self.sphere.restrict(pairs),
            direction=self._direction[pairs],
        )

    def reversed(self) -> "GreatCircle":
        """From `x1` to `x0`."""
        return GreatCircle(x0=self.x1, x1=self.x0, sphere=self.sphere, direction=self._direction)

    def double(self) -> "GreatCircle":
        """The same arcs in float64."""
        fine = GreatCircle(x0=self.x0.double(), x1=self.x1.double(), sphere=self.sphere)
        # What is antipodal to the rounding of float32 has an arc of its own in float64, which is not this one.
        fine.angle = torch.where(self._antipodal[:, 0], self.angle.double(), fine.angle)
        fine._velocity = torch.where(self._antipodal, self._velocity.double(), fine._velocity)
        return fine

    @property
    def _direction(self) -> Float[Tensor, "p d"]:
        return torch.where(self._antipodal, self._velocity, 1.0)


def shortest_path(
    manifold: Manifold,
    x0: Float[Tensor, "p d"],
    x1: Float[Tensor, "p d"],
    direction: Float[Tensor, "p d"] | None = None,
) -> StraightLine | GreatCircle:
    """The path from `x0` to `x1` of least Euclidean length within `manifold`: what every solver starts from.

    Args:
        manifold: the space.
        x0: start points.
        x1: end points.
        direction: in which it leaves, where ends on a sphere are antipodal; see `GreatCircle`.
    """
    if isinstance(manifold, Sphere):
        return GreatCircle(x0=x0, x1=x1, sphere=manifold, direction=direction)
    if isinstance(manifold, Euclidean):
        return StraightLine(x0=x0, x1=x1)
    raise TypeError(f"paths exist in Euclidean space and on spheres; received {manifold!r}.")


class KnotPath(Path):
    """The smooth path through knots: the shortest path between its ends, plus a quintic spline, then projected.

    `g(u) = project(base(u) + sum_i B_i(u) offset_i)`. Adding the spline to the base makes straight lines and great
    circles exact and keeps float32 derivatives accurate, since the offsets are small beside the points.

    Args:
        base: the shortest path between the ends.
        offsets: what is added to the base at each node; zero at both ends.
        manifold: the space that the curve is projected on.
        nodes: the position of each knot, increasing from 0 to 1; evenly spaced if not given.
    """

    def __init__(
        self,
        *,
        base: StraightLine | GreatCircle,
        offsets: Float[Tensor, "p k d"],
        manifold: Manifold,
        nodes: Float[Tensor, " k"] | None = None,
    ) -> None:
        if offsets.ndim != 3 or offsets.shape[1] < 2 or len(offsets) != base.pairs:
            raise ValueError(
                f"offsets must have the shape [p k d], k at least 2, p = {base.pairs}; received {tuple(offsets.shape)}."
            )
        if bool(offsets[:, [0, -1]].any()):
            raise ValueError("offsets must be zero at both ends, where the path meets its base.")
        nodes = _evenly(offsets.shape[1]) if nodes is None else nodes.detach().to("cpu", torch.float64)
        self.base, self.offsets, self.manifold, self.nodes = base, offsets, manifold, nodes
        self._spline = Spline(nodes)
        if len(nodes) != offsets.shape[1]:
            raise ValueError(f"there must be a node for each knot; received {len(nodes)} for {offsets.shape[1]}.")

    @classmethod
    def through(
        cls,
        *,
        knots: Float[Tensor, "p k d"],
        manifold: Manifold,
        nodes: Float[Tensor, " k"] | None = None,
    ) -> "KnotPath":
        """The path through given points of the manifold, the first and last of them its ends."""
        if knots.ndim != 3 or knots.shape[1] < 2:
            raise ValueError(f"knots must have the shape [p k d], k at least 2; received {tuple(knots.shape)}.")
        nodes = _evenly(knots.shape[1]) if nodes is None else nodes
        base = shortest_path(manifold, knots[:, 0], knots[:, -1])
        inner = knots[:, 1:-1] - base.point(nodes[1:-1])
        offsets = torch.nn.functional.pad(inner, (0, 0, 1, 1))
        return cls(base=base, offsets=offsets, manifold=manifold, nodes=nodes)

    @property
    def pairs(self) -> int:
        """`p`, how many pairs."""
        return self.base.pairs

    @property
    def knots(self) -> Float[Tensor, "p k d"]:
        """The points at the nodes."""
        return self.point(self.nodes)

    @property
    def breaks(self) -> Float[Tensor, " m"]:
        """The nodes."""
        return self.nodes

    def point(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`g(u)`."""
        base = self.base.point(u)
        ends = ((u == 0) | (u == 1)).to(base.device)[:, None]
        return torch.where(ends, base, self.manifold.project(base + self._spread(u, 0)))

    def velocity(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`g'(u)`."""
        return self._curve(u)[1]

    def acceleration(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """`g''(u)`."""
        return self._curve(u)[2]

    def restrict(self, pairs: Int[Tensor, " m"]) -> "KnotPath":
        """The paths of the pairs `pairs` alone."""
        manifold = self.manifold.restrict(pairs)
        base = self.base.restrict(pairs)
        return KnotPath(base=base, offsets=self.offsets[pairs], manifold=manifold, nodes=self.nodes)

    def reversed(self) -> "KnotPath":
        """From the last knot to the first."""
        base, offsets = self.base.reversed(), self.offsets.flip(1)
        return KnotPath(base=base, offsets=offsets, manifold=self.manifold, nodes=1 - self.nodes.flip(0))

    def _curve(self, u: Float[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor]:
        y = self.base.point(u) + self._spread(u, 0)
        dy = self.base.velocity(u) + self._spread(u, 1)
        ddy = self.base.acceleration(u) + self._spread(u, 2)
        return self.manifold.project_curve(y, dy, ddy)

    def _spread(self, u: Float[Tensor, " n"], derivative: int) -> Float[Tensor, "p n d"]:
        return self._spline.matrix(u, derivative).to(self.offsets) @ self.offsets


def _evenly(count: int) -> Float[Tensor, " k"]:
    return torch.linspace(0, 1, count, dtype=torch.float64)


def _check_ends(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    if x0.ndim != 2 or x0.shape != x1.shape:
        shapes = f"{tuple(x0.shape)} and {tuple(x1.shape)}"
        raise ValueError(f"x0 and x1 must have one shape [p d]; received {shapes}.")
    return x0, x1
