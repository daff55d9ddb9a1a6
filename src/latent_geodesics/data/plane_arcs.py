r"""Geodesics of the plane that are known to be arcs of circles.

Each is given at constant Euclidean speed, the parametrisation of `g'' + |g'|^2 P_v s(g) = 0`, so that a solver's path
can be compared with it position by position.

| density | cost 1/p | the circle |
|---|---|---|
| `x_2` | `1 / x_2` | its centre lies on the axis `x_2 = 0` |
| `(1 - |x|^2) / 2` | `2 / (1 - |x|^2)` | it meets the unit circle at right angles: `|centre|^2 = radius^2 + 1` |
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

STRAIGHT = 1e-9


def half_plane_geodesic(a: Float[Tensor, " 2"], b: Float[Tensor, " 2"], u: Float[Tensor, " n"]) -> Float[Tensor, "n 2"]:
    """The arc from `a` to `b` of the circle around a point of the axis; a segment where one is above the other.

    Args:
        a: start, above the axis.
        b: end, above the axis.
        u: positions in [0, 1].
    """
    across = 2 * (b[0] - a[0])
    if abs(float(across)) <= STRAIGHT * float((b - a).norm()):
        return torch.lerp(a, b, u.to(a)[:, None])
    middle = (b.square().sum() - a.square().sum()) / across
    return _arc(torch.stack([middle, torch.zeros_like(middle)]), a, b, u)


def poincare_disc_geodesic(
    a: Float[Tensor, " 2"], b: Float[Tensor, " 2"], u: Float[Tensor, " n"]
) -> Float[Tensor, "n 2"]:
    """The arc from `a` to `b` of the circle orthogonal to the unit circle; a segment where the origin is in line.

    Args:
        a: start, inside the unit circle.
        b: end, inside the unit circle.
        u: positions in [0, 1].
    """
    ends = torch.stack([a, b])
    if abs(float(torch.linalg.det(ends))) <= STRAIGHT * float((b - a).norm()):
        return torch.lerp(a, b, u.to(a)[:, None])
    # |x - c|^2 = |c|^2 - 1 for both ends: 2 c . x = 1 + |x|^2.
    centre = torch.linalg.solve(ends, (1 + ends.square().sum(-1)) / 2)
    return _arc(centre, a, b, u)


def _arc(
    centre: Float[Tensor, " 2"], a: Float[Tensor, " 2"], b: Float[Tensor, " 2"], u: Float[Tensor, " n"]
) -> Float[Tensor, "n 2"]:
    """The shorter arc from `a` to `b` around the centre."""
    start, end = torch.atan2(*(a - centre).flip(0)), torch.atan2(*(b - centre).flip(0))
    turn = torch.remainder(end - start + math.pi, 2 * math.pi) - math.pi
    angle = start + turn * u.to(a)
    arc: Tensor = centre + (a - centre).norm() * torch.stack([angle.cos(), angle.sin()], -1)
    return arc
