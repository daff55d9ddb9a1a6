r"""Where solvers begin: the shortest path, and between antipodal points of a sphere the arc that the density prefers.

Infinitely many great circles join antipodal points, all equally long; the density alone tells them apart. A few are
looked at, on a coarse grid, and the shortest of them in the geometry is turned towards where it becomes shorter. From
there on the ends are like any others. Where all that are looked at are equally long and none would be turned, the
density is symmetric about the axis through both ends, as far as its scores show, and no arc is better than another.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.fields import ScoreField, well_resolved
from latent_geodesics.core.manifold import norm, normal_to, unit
from latent_geodesics.core.path import GreatCircle, StraightLine, shortest_path
from latent_geodesics.core.records import Batched, BoundaryProblem, Status
from latent_geodesics.core.solvers.collocation import Collocation
from latent_geodesics.core.solvers.group import look
from latent_geodesics.core.solvers.solve_record import SolveRecord

INTERVALS = 8
TURNS = 4
FIRST_TURN = math.pi / 4
ROUNDINGS = 4096


def shortest_start(problem: BoundaryProblem, record: SolveRecord) -> StraightLine | GreatCircle:
    """The paths to begin with; closes pairs with antipodal ends that the density does not choose an arc for.

    A pair with antipodal ends costs 72 evaluations here, if it affords them, and the others none.
    """
    base = shortest_path(problem.manifold, problem.x0, problem.x1)
    pairs = record.open_pairs()
    pairs = pairs[problem.manifold.antipodal(problem.x0, problem.x1).cpu()[pairs]]
    pairs = pairs[record.affords(pairs, 2 + (6 + TURNS) * (INTERVALS - 1))]
    if not len(pairs):
        return base
    choice = _Choice(problem, record, pairs)
    best, tied = choice.best()
    record.close(pairs[tied.cpu()], Status.ANTIPODAL_ENDS)
    direction = base.velocity(torch.zeros(1, dtype=torch.float64))[:, 0]
    direction[pairs.to(direction.device)] = best.direction
    return shortest_path(problem.manifold, problem.x0, problem.x1, direction)


@dataclass(frozen=True, kw_only=True)
class _Arcs(Batched):
    """An arc for each pair.

    Attributes:
        direction: in which it leaves, of unit size.
        level: the logarithm of its length.
        turn: what pulls the direction, normal to it, in nats; the force of the geometry across the arc, weighted.
        size: how large that might be.
    """

    direction: Float[Tensor, "a d"]
    level: Float[Tensor, " a"]
    turn: Float[Tensor, "a d"]
    size: Float[Tensor, " a"]


class _Choice:
    """The choice of an arc for pairs with antipodal ends."""

    def __init__(self, problem: BoundaryProblem, record: SolveRecord, pairs: Int[Tensor, " a"]) -> None:
        there = pairs.to(problem.x0.device)
        self._problem, self._record, self._pairs = problem, record, pairs
        self._manifold = problem.manifold.restrict(there)
        self._x0, self._x1 = problem.x0[there], problem.x1[there]
        grid = self._grid(self._x0)
        self._field: ScoreField = well_resolved(problem.field.restrict(pairs), *grid.ends())
        resolution = grid.end_resolution(self._field)
        self._error = ROUNDINGS * torch.finfo(self._x0.dtype).eps + (0.0 if resolution is None else resolution.error)
        self._end_scores = grid.end_scores(self._field).nan_to_num(0.0, 0.0, 0.0)
        record.spend(pairs, 2)

    def best(self) -> tuple[_Arcs, Bool[Tensor, " a"]]:
        """The shortest arc found for each pair, and where none is shorter than any other."""
        seed = torch.Generator().manual_seed(0)
        drawn = torch.randn(2, self._x0.shape[-1], generator=seed, dtype=torch.float64).to(self._x0)
        anywhere, other = (self._tangent(way.expand_as(self._x0)) for way in drawn)
        if self._x0.shape[-1] > 2:
            other = normal_to(anywhere, other)
        # Both ends are left in the same direction: where both scores rise, the arc becomes more probable at once.
        uphill = self._tangent(self._end_scores.sum(1))
        uphill = torch.where(norm(uphill)[:, None] > 0, uphill, anywhere)
        arcs = [self._look(sign * way) for way in (anywhere, other, uphill) for sign in (1, -1)]
        best, tied = arcs[0], self._still(arcs[0], arcs[0])
        for arc in arcs[1:]:
            tied = tied & self._still(arc, arcs[0])
            best = arc.where(arc.level < best.level, best)
        angle = torch.full_like(best.size, FIRST_TURN)
        for _ in range(TURNS):
            way = unit(best.turn)
            turned = self._look(angle.cos()[:, None] * best.direction + angle.sin()[:, None] * way)
            shorter = turned.level < best.level
            best, angle = turned.where(shorter, best), torch.where(shorter, angle, angle / 3)
        return best, tied

    def _still(self, arc: _Arcs, other: _Arcs) -> Bool[Tensor, " a"]:
        """Whether an arc is as long as another and would not be turned, to the rounding of the scores."""
        least = self._error * arc.size
        return ((arc.level - other.level).abs() <= least) & (norm(arc.turn) <= least)

    def _look(self, direction: Float[Tensor, "a d"]) -> _Arcs:
        """Evaluate the score along arcs."""
        direction = unit(self._tangent(direction))
        grid, strength = self._grid(direction), torch.full_like(self._x0[:, 0], self._problem.alpha)
        place = look(grid, grid.start(), grid.scores(self._field, grid.start()), self._end_scores, strength)
        self._record.spend(self._pairs, INTERVALS - 1)
        seen = place.seen
        # A direction that turns by an angle moves the point at u by as much times R sin(pi u).
        lever = (math.pi * grid.nodes[1:-1]).sin().to(direction) / INTERVALS * grid.span[:, None] / math.pi
        force = seen.weight(strength)[..., None] * seen.force / seen.velocity.square().sum(-1, keepdim=True)
        turn = normal_to(direction, self._tangent((lever[..., None] * force).sum(1)))
        size = (grid.span * seen.scale(strength)).double()
        level = torch.where(place.finite, place.level, torch.inf)
        return _Arcs(direction=direction, level=level, turn=turn, size=size.clamp(min=1.0).to(direction))

    def _tangent(self, v: Float[Tensor, "a d"]) -> Float[Tensor, "a d"]:
        return self._manifold.tangent(self._x0, v)

    def _grid(self, direction: Float[Tensor, "a d"]) -> Collocation:
        base = shortest_path(self._manifold, self._x0, self._x1, direction)
        return Collocation(base=base, manifold=self._manifold, intervals=INTERVALS, geometry=self._problem.geometry)
