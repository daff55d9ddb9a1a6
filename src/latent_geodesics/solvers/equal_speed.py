r"""Knots moved along their own curve until equally far apart, which changes the path's course and not its trace.

A Newton step moves the knots of a path across it alone (`newton`); what it leaves uneven along the path is made even
here, at no evaluation: by the arc length at eight points an interval, between which the curve is a cubic.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.path import KnotPath
from latent_geodesics.solvers.collocation import Collocation
from latent_geodesics.vectors import norm

__all__ = ["equal_speed"]

POINTS = 8


def equal_speed(grid: Collocation, offsets: Float[Tensor, "a n d"]) -> Float[Tensor, "a n d"]:
    """The offsets of knots that lie on the same curves at equal distances along them.

    Args:
        grid: the grid of the knots.
        offsets: those of the interior knots.
    """
    # In float64: the second derivative of offsets that are rounded as coarsely as points are would be rounding.
    base = grid.base.double()
    padded = torch.nn.functional.pad(offsets.double(), (0, 0, 1, 1))
    path = KnotPath(base=base, offsets=padded, manifold=grid.manifold, nodes=grid.nodes)
    u = torch.linspace(0, 1, POINTS * grid.intervals + 1, dtype=torch.float64)
    width = float(u[1])
    points, velocities = path.point(u), path.velocity(u)
    speed = norm(velocities)
    gone = torch.nn.functional.pad((width * (speed[:, 1:] + speed[:, :-1]) / 2).cumsum(1), (1, 0))
    wanted = gone[:, -1:] * grid.nodes[1:-1].to(gone)
    cell = (torch.searchsorted(gone, wanted, right=True) - 1).clamp(0, len(u) - 2)
    first, last = _at(speed, cell), _at(speed, cell + 1)
    way = (wanted - _at(gone, cell)) / width
    # The speed is linear within a cell, so that the place in it solves a quadratic equation.
    root = (first.square() + 2 * (last - first) * way).clamp(min=0).sqrt()
    t = (2 * way / (first + root).clamp(min=torch.finfo(speed.dtype).tiny)).clamp(0, 1)[..., None]
    start, end = _at(points, cell), _at(points, cell + 1)
    leave, arrive = width * _at(velocities, cell), width * _at(velocities, cell + 1)
    moved = start + t * t * (3 - 2 * t) * (end - start) + t * (1 - t) * ((1 - t) * leave - t * arrive)
    return (grid.manifold.project(moved) - base.point(grid.nodes[1:-1])).to(offsets)


def _at(values: Float[Tensor, "a m *d"], index: Int[Tensor, "a n"]) -> Float[Tensor, "a n *d"]:
    """The values of each pair at its own places."""
    return values[torch.arange(len(values), device=values.device)[:, None], index]
