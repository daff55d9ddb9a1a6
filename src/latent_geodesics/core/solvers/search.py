r"""Strong problems: continuation in the strength of the geometry, and several starts, on a grid of some width.

The strength of a problem is the mean of the weighted force along the shortest path times the length of that path
(`alpha mean|P s| span` in the geometry of `p^alpha`): about by how many radians the density would turn a path that it
pulls sideways all along. A strong problem is solved at a half, a quarter and so on of its geometry's strength first,
until little is left of it, each from the one before. Since that may lead to a path that is shortest among its
neighbours alone, others begin at paths that bulge aside, at full strength; the shortest goes on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.manifold import norm, normal_to
from latent_geodesics.core.solvers.group import Group, equal_speed
from latent_geodesics.core.solvers.newton import newton
from latent_geodesics.core.solvers.solve_record import SolveRecord

WEAK = 1.5
LOOSE = 0.1
LOOSE_ITERATIONS, ITERATIONS = 10, 25
BULGE = 0.35
LEAST_SHARE = 1e-6  # of the squared pull in the direction of the most
LEVELS = 6
LEAST_GAIN, CLEAR_GAIN = 1e-3, 2e-2  # of a length, where the residual is sane, and where it is not


@dataclass(frozen=True, kw_only=True)
class Several:
    """What a search from several starts has found.

    Attributes:
        shortest: the shortest path of each pair, near enough for Newton steps to settle.
        continued: where the continuation led.
    """

    shortest: Group
    continued: Group

    @property
    def others(self) -> Bool[Tensor, " a"]:
        """Whose shortest path is not that of the continuation, on the CPU."""
        return (self.shortest.place.offsets != self.continued.place.offsets).flatten(1).any(1).cpu()


def shortest_of_several(group: Group, strengths: Float[Tensor, " a"], record: SolveRecord, *, starts: int) -> Several:
    """Search for the shortest path of each pair.

    Args:
        group: pairs at their shortest paths, with the geometry's full strength.
        strengths: of each problem, on the CPU.
        record: what all pairs of the problem have cost, and how they ended.
        starts: from how many paths each pair begins, the continuation being the first.
    """
    best = continued = _continued(group, strengths, record)
    # What is longer than the path that it started from has been led astray.
    longer = (best.place.level > group.place.level).cpu()
    best = _try(best, group, longer.nonzero().flatten(), partial(_direct, record=record))
    # The directions in which the score pulls across the shortest path, as combinations of its pulls at the knots.
    pull = normal_to(group.place.seen.velocity, group.place.seen.pull)
    values, shares = torch.linalg.eigh((pull @ pull.mT).cpu().double())
    for start in range(1, starts):
        order = (start - 1) // 2
        if order >= values.shape[1]:
            break
        # In a plane, or on a sphere in space, there is one direction; a second one would be rounding.
        pulls = values[:, -1 - order] > LEAST_SHARE * values[:, -1]
        rows = (pulls & record.affords(group.numbers, group.grid.intervals - 1)).nonzero().flatten()
        aside = (shares[:, None, :, -1 - order].to(pull) @ pull)[:, 0] * (1 if start % 2 else -1)
        search = partial(_bulging, aside=aside[rows.to(pull.device)], record=record)
        best = _try(best, group, rows, search)
    return Several(shortest=best, continued=continued)


def _try(best: Group, start: Group, rows: Int[Tensor, " b"], search: Callable[[Group], Group]) -> Group:
    """Search from the start anew for some of the pairs, and keep what is shorter."""
    if not len(rows):
        return best
    found, known = search(start.restrict(rows)), best.restrict(rows)
    sane = found.place.relative <= known.place.relative.clamp(min=2 * LOOSE)
    gain = known.place.level - found.place.level
    shorter = found.place.finite & ((gain > LEAST_GAIN) & sane | (gain > CLEAR_GAIN))
    return best.put(rows, found.where(shorter, known))


def _continued(group: Group, strengths: Float[Tensor, " a"], record: SolveRecord) -> Group:
    """Through rising strengths to the full one."""
    full, found = group.strength, group
    halvings = (strengths / WEAK).log2().ceil().clamp(0, LEVELS)
    for level in range(int(halvings.max()), -1, -1):
        rows = (halvings >= level).nonzero().flatten()
        part = found.restrict(rows).at(full[rows.to(full.device)] * 0.5**level)
        part, _ = newton(part, record, tolerance=LOOSE, iterations=LOOSE_ITERATIONS if level else ITERATIONS)
        found = found.put(rows, part)
    return found.at(full)


def _direct(group: Group, record: SolveRecord) -> Group:
    return newton(group, record, tolerance=LOOSE, iterations=ITERATIONS)[0]


def _bulging(group: Group, record: SolveRecord, aside: Float[Tensor, "a d"]) -> Group:
    """From a path that leaves the shortest one along a direction in which the score pulls, or against it."""
    grid = group.grid
    direction = aside / norm(aside).clamp(min=torch.finfo(aside.dtype).tiny)[:, None]
    shape = (math.pi * grid.nodes[1:-1]).sin().to(aside)
    offsets = ((BULGE * grid.span)[:, None] * shape)[..., None] * direction[:, None]
    offsets = grid.knots(offsets) - grid.knots(torch.zeros_like(offsets))
    if grid.geometry.constant_speed:
        offsets = equal_speed(grid, offsets)
    return _direct(group.moved(group.evaluate(offsets, record)), record)
