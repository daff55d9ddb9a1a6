r"""The string method: the path of least resistance, on which the score has no part across the path, `P_v P_x s = 0`.

It is what geodesics of `p^alpha` tend to as `alpha` grows without bound: then the curvature counts for nothing. From
the shortest path, all knots step along `P_v P_x s` and are spread anew at even distances. The step is half of one over
the steepest change of the score that was seen, between neighbouring knots or from one iterate to the next, and no
further than a share of the distance of the ends. Nothing here depends on the geometry of the problem.

References:
    E, Ren and Vanden-Eijnden, Simplified and improved string method for computing the minimum energy paths in
    barrier-crossing events (2007).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.fields import ScoreField, guarded
from latent_geodesics.core.geometries import Conformal
from latent_geodesics.core.manifold import norm
from latent_geodesics.core.records import Batched, BoundaryProblem, Solution, Status
from latent_geodesics.core.solvers.antipodal import shortest_start
from latent_geodesics.core.solvers.base import BoundarySolver
from latent_geodesics.core.solvers.collocation import Collocation, Linearisation
from latent_geodesics.core.solvers.solve_record import SolveRecord

FEWEST = 4
STEP = 0.5
"""Twice as long a step leaves the knots of a string zigzagging."""


class StringMethod(BoundarySolver):
    """Relaxes a string of knots until the score has no part across it.

    Args:
        intervals: the number of equal intervals between knots, at least 4; an iteration costs one evaluation less.
        tolerance: a pair has converged when the mean of `|P_v P_x s|` is below this share of the mean of `|P_x s|`; or
            below what the scores resolve, where that is larger.
        max_evaluations: score evaluations that a pair may cost.
        trust: the largest move of a knot in one step, as a share of the distance of the ends.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, *, intervals: int = 16, tolerance: float = 1e-2, max_evaluations: int = 600, trust: float = 0.1
    ) -> None:
        if intervals < FEWEST:
            raise ValueError(f"intervals must be at least {FEWEST}; received {intervals}.")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1; received {tolerance}.")
        if max_evaluations < 1:
            raise ValueError(f"max_evaluations must be at least 1; received {max_evaluations}.")
        if not trust > 0:
            raise ValueError(f"trust must be positive; received {trust}.")
        self.intervals, self.tolerance, self.max_evaluations, self.trust = intervals, tolerance, max_evaluations, trust

    def solve(self, problem: BoundaryProblem) -> Solution:
        """Relax all pairs together; see `BoundarySolver.solve`. The trace is that of `p` itself, `alpha` one."""
        alike = BoundaryProblem(
            field=problem.field, manifold=problem.manifold, x0=problem.x0, x1=problem.x1, geometry=Conformal(alpha=1.0)
        )
        record = SolveRecord(alike, budget=self.max_evaluations, tolerance=self.tolerance)
        base = shortest_start(alike, record)
        grid = Collocation(base=base, manifold=problem.manifold, intervals=self.intervals)
        offsets = grid.start()
        pairs = record.open_pairs()
        pairs = pairs[record.affords(pairs, self.intervals + 1)]
        if len(pairs):
            there = pairs.to(offsets.device)
            relaxation = _Relaxation(self, grid.restrict(there), guarded(problem.field), record, pairs)
            while len(relaxation.work.rows):
                relaxation.iterate()
            offsets[there] = relaxation.offsets
        return record.solution(grid.path(offsets))


@dataclass
class _Work(Batched):
    """The pairs in work; all but `rows`, which says which they are, on their device."""

    rows: Int[Tensor, " a"]
    end_scores: Float[Tensor, "a 2 d"]
    offsets: Float[Tensor, "a n d"]
    knots: Float[Tensor, "a n d"]
    scores: Float[Tensor, "a n d"]
    least: Float[Tensor, " a"]
    least_offsets: Float[Tensor, "a n d"]


class _Relaxation:
    """The iteration of all pairs that are open."""

    def __init__(
        self, solver: StringMethod, grid: Collocation, field: ScoreField, record: SolveRecord, pairs: Int[Tensor, " a"]
    ) -> None:
        self._solver, self._record, self._pairs, self._all_field = solver, record, pairs, field
        self._all_grid = self._grid = grid
        self._field = field.restrict(pairs)
        record.resolution = self._resolution = grid.end_resolution(self._field)
        self.offsets = grid.start()
        ends = grid.end_scores(self._field)
        record.spend(pairs, 2)
        self.work = _Work(
            rows=torch.arange(len(pairs)),
            end_scores=ends,
            offsets=self.offsets.clone(),
            knots=torch.zeros_like(self.offsets),
            scores=torch.zeros_like(self.offsets),
            least=torch.full_like(grid.span, torch.inf),
            least_offsets=self.offsets.clone(),
        )

    def iterate(self) -> None:
        """One evaluation, one read of what it says, and one step of every pair that goes on."""
        work, cost = self.work, self._grid.intervals - 1
        score = self._grid.scores(self._field, work.offsets)
        numbers = self._pairs[work.rows]
        self._record.spend(numbers, cost)
        finite = torch.isfinite(score).flatten(1).all(1) & torch.isfinite(work.end_scores).flatten(1).all(1)
        plain, ends = (part.nan_to_num(0.0, 0.0, 0.0) for part in (score, work.end_scores))
        seen = self._grid.linearise(work.offsets, plain, ends)
        residual, pull = seen.products[:, 2].clamp(min=0).sqrt().mean(-1), seen.strength.mean(-1)
        better = finite & (residual <= work.least)
        work.least = torch.where(better, residual, work.least)
        work.least_offsets = torch.where(better[:, None, None], work.offsets, work.least_offsets)
        rate = self._advance(seen, plain, ends)
        said = self._read(seen, finite=finite, residual=residual, pull=pull, rate=rate)
        self._record.note(
            numbers, **{name: said[name] for name in ("residual", "length", "step", "alpha", "tolerance")}
        )
        relative = said["residual"] / said["pull"].clamp(min=torch.finfo(torch.float64).tiny)
        settled, good = relative <= self._solver.tolerance, said["finite"] > 0
        resolved = ~settled & (relative <= said["tolerance"])
        spent = ~self._record.affords(numbers, cost)
        for ended, status in (
            (spent, Status.BUDGET_EXHAUSTED),
            (resolved, Status.RESOLVED),
            (settled, Status.CONVERGED),
            (~good, Status.NON_FINITE_SCORE),
        ):
            self._record.close(numbers[ended], status)
        self._restrict(good & ~settled & ~resolved & ~spent)

    def _read(self, seen: Linearisation, **said: Tensor) -> dict[str, Tensor]:
        """What the iteration decides by and keeps, brought to the CPU by one copy, in float64."""
        floor = torch.zeros_like(said["residual"])
        if self._resolution is not None:
            floor = self._resolution.floor(seen.size.mean(-1), seen.strength.mean(-1))
        numbers: dict[str, Any] = {
            "finite": said["finite"],
            "residual": said["residual"],
            "pull": said["pull"],
            "length": self._grid.log_length(seen, torch.ones_like(floor)).exp(),
            "step": said["rate"],
            "alpha": torch.ones_like(floor),
            "tolerance": floor.clamp(min=self._solver.tolerance),
        }
        table = torch.stack([value.double() for value in numbers.values()]).cpu()
        return dict(zip(numbers, table, strict=True))

    def _advance(
        self, seen: Linearisation, score: Float[Tensor, "a n d"], ends: Float[Tensor, "a 2 d"]
    ) -> Float[Tensor, " a"]:
        """Step along the score across the path and spread the knots anew; gives the length of the step."""
        work, grid = self.work, self._grid
        knots = grid.knots(work.offsets)
        first, last = (end[:, None] for end in (grid.base.x0, grid.base.x1))
        across = seen.force / seen.velocity.square().sum(-1, keepdim=True).clamp(min=torch.finfo(score.dtype).tiny)
        along = _steepest(
            torch.cat([first, knots, last], 1).diff(dim=1), torch.cat([ends[:, :1], score, ends[:, 1:]], 1).diff(dim=1)
        )
        steepest = torch.maximum(along, _steepest(knots - work.knots, score - work.scores))
        tiny = torch.finfo(score.dtype).tiny
        rate = torch.minimum(
            STEP / steepest.clamp(min=tiny), self._solver.trust * grid.span / norm(across).amax(-1).clamp(min=tiny)
        )
        moved = torch.cat([first, grid.manifold.project(knots + rate[:, None, None] * across), last], 1)
        work.knots, work.scores = knots, score
        work.offsets = work.offsets + (grid.manifold.project(_spread(moved)[:, 1:-1]) - knots)
        return rate

    def _restrict(self, keep: Bool[Tensor, " a"]) -> None:
        if bool(keep.all()):
            return
        left, index = (rows.nonzero().flatten() for rows in (~keep, keep))
        gone = self.work.restrict(left)
        self.offsets[gone.rows.to(gone.least.device)] = gone.least_offsets
        self.work = self.work.restrict(index)
        self._grid = self._all_grid.restrict(self.work.rows.to(self.offsets.device))
        self._field = self._all_field.restrict(self._pairs[self.work.rows])


def _steepest(moves: Float[Tensor, "a n d"], rises: Float[Tensor, "a n d"]) -> Float[Tensor, " a"]:
    """The largest ratio of a change of the score to that of its point."""
    size = norm(moves)
    return (norm(rises) / torch.where(size > 0, size, torch.inf)).amax(-1)


def _spread(knots: Float[Tensor, "a k d"]) -> Float[Tensor, "a k d"]:
    """As many knots at even distances, by the cubics through each four neighbours; the ends stay."""
    reached = torch.nn.functional.pad(norm(knots.diff(dim=1)).cumsum(-1), (1, 0))
    count = knots.shape[1]
    wanted = torch.linspace(0, 1, count, dtype=knots.dtype).to(knots.device) * reached[:, -1:]
    start = (torch.searchsorted(reached, wanted.contiguous()) - 2).clamp(0, count - 4)
    four = start[..., None] + torch.arange(4, device=knots.device)
    at = reached.gather(1, four.flatten(1)).reshape(four.shape)
    weights = torch.ones_like(at)
    for other in range(4):
        apart = at - at[..., other : other + 1]
        itself = torch.arange(4, device=knots.device) == other
        factor = (wanted[..., None] - at[..., other : other + 1]) / torch.where(apart == 0, 1.0, apart)
        weights = weights * torch.where(itself, 1.0, factor)
    neighbours = knots.take_along_dim(four.flatten(1)[..., None], 1).reshape(*four.shape, -1)
    spread = (weights[..., None] * neighbours).sum(2)
    return torch.cat([knots[:, :1], spread[:, 1:-1], knots[:, -1:]], 1)
