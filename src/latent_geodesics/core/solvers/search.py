r"""Strong problems: continuation in the strength of the geometry, and several starts, on a grid of some width.

The strength of a problem is the mean of the weighted force along the shortest path times the length of that path
(`alpha mean|P s| span` in the geometry of `p^alpha`): about by how many radians the density would turn a path that it
pulls sideways all along. A strong problem is solved at a half, a quarter and so on of its geometry's strength first,
until little is left of it, each from the one before. Since that may lead to a path that is shortest among its
neighbours alone, others begin at paths that bulge aside, at full strength; the shortest goes on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.solvers.equal_speed import equal_speed
from latent_geodesics.core.solvers.group import Group
from latent_geodesics.core.solvers.ledger import Ledger
from latent_geodesics.core.solvers.newton import MEMORY, look
from latent_geodesics.core.solvers.second_variation import Past
from latent_geodesics.core.vectors import normal_to

__all__ = ["Search"]

WEAK = 1.5
LOOSE = 0.1
LOOSE_ITERATIONS, ITERATIONS = 10, 25
BULGE = 0.35
LEVELS = 6
LEAST_GAIN, CLEAR_GAIN = 1e-3, 2e-2  # of a length, where the residual is sane, and where it is not


@dataclass(frozen=True, kw_only=True)
class Search:
    """How strong problems are approached.

    Attributes:
        ledger: the books over all pairs of the problem.
        starts: from how many paths each pair begins, the continuation being the first.
    """

    ledger: Ledger
    starts: int

    def run(self, group: Group, strengths: Float[Tensor, " a"]) -> Group:
        """The shortest path of each pair, near enough for Newton steps to settle.

        Args:
            group: pairs at their shortest paths, with the geometry's full strength.
            strengths: of each problem, on the CPU.
        """
        best = self._continued(group, strengths)
        # What is longer than the path that it started from has been led astray.
        longer = (best.place.level > group.place.level).cpu()
        best = self._try(best, group, longer.nonzero().flatten(), self._direct)
        for start in range(1, self.starts):
            affords = self.ledger.affords(group.numbers, group.grid.intervals - 1)
            best = self._try(best, group, affords.nonzero().flatten(), partial(self._bulging, number=start))
        return best

    def _try(self, best: Group, start: Group, rows: Int[Tensor, " b"], search: Callable[[Group], Group]) -> Group:
        """Search from the start anew for some of the pairs, and keep what is shorter."""
        if not len(rows):
            return best
        found, known = search(start.restrict(rows)), best.restrict(rows)
        sane = found.place.relative <= torch.maximum(known.place.relative, torch.full_like(known.strength, 2 * LOOSE))
        gain = known.place.level - found.place.level
        shorter = found.place.finite & ((gain > LEAST_GAIN) & sane | (gain > CLEAR_GAIN))
        kept = replace(known, place=found.place.where(shorter, known.place), past=found.past.where(shorter, known.past))
        return _put(best, rows, kept)

    def _continued(self, group: Group, strengths: Float[Tensor, " a"]) -> Group:
        """Through rising strengths to the full one."""
        full, found = group.strength, group
        halvings = (strengths / WEAK).log2().ceil().clamp(0, LEVELS)
        for level in range(int(halvings.max()), -1, -1):
            rows = (halvings >= level).nonzero().flatten()
            part = self._at(found.restrict(rows), full[rows.to(full.device)] * 0.5**level)
            part, _ = part.newton(self.ledger, tolerance=LOOSE, iterations=LOOSE_ITERATIONS if level else ITERATIONS)
            found = _put(found, rows, part)
        return self._at(found, full)

    def _at(self, group: Group, strength: Float[Tensor, " a"]) -> Group:
        """The same paths, seen at another strength, which costs nothing."""
        here = group.place.here
        place = look(group.grid, here.offsets, here.score, group.end_scores, strength)
        return replace(group, strength=strength, place=place)

    def _direct(self, group: Group) -> Group:
        found, _ = group.newton(self.ledger, tolerance=LOOSE, iterations=ITERATIONS)
        return found

    def _bulging(self, group: Group, number: int) -> Group:
        """From a path that leaves the shortest one along a direction in which the score pulls, or against it."""
        grid, start = group.grid, group.place
        pull = normal_to(start.seen.velocity, start.seen.pull)
        values, vectors = torch.linalg.eigh((pull @ pull.mT).double())
        order = (number - 1) // 2 % pull.shape[1]
        direction = (vectors[:, None, :, -1 - order].to(pull) @ pull)[:, 0]
        direction = direction / direction.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(pull.dtype).tiny)
        shape = (math.pi * grid.nodes[1:-1]).sin().to(pull)
        size = BULGE * (1 if number % 2 else -1) * grid.span
        offsets = (size[:, None] * shape)[..., None] * direction[:, None]
        offsets = grid.knots(offsets) - grid.knots(torch.zeros_like(offsets))
        if grid.geometry.constant_speed:
            offsets = equal_speed(grid, offsets)
        place = look(grid, offsets, grid.scores(group.field, offsets), group.end_scores, group.strength)
        self.ledger.spend(group.numbers, grid.intervals - 1)
        begun = replace(group, place=place, past=Past.none(place.here, MEMORY))
        found, _ = begun.newton(self.ledger, tolerance=LOOSE, iterations=ITERATIONS)
        return found


def _put(group: Group, rows: Int[Tensor, " b"], part: Group) -> Group:
    """A group with some of its pairs moved."""
    there = rows.to(group.strength.device)
    index = torch.full((len(group),), -1, dtype=torch.long, device=there.device)
    index[there] = torch.arange(len(rows), device=there.device)
    chosen, index = index >= 0, index.clamp(min=0)
    return replace(
        group,
        place=part.place.restrict(index).where(chosen, group.place),
        past=part.past.restrict(index).where(chosen, group.past),
    )
