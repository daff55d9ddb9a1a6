r"""The default boundary solver: a preconditioned fixed point, accelerated, that seeks minima of the length.

With the score frozen the geodesic equation is linear in the knots of the path, and one small solve removes its defect
(`collocation`). That fixed point is made fast and safe by five means, each per pair:

- mixing: Anderson acceleration over the last iterates, and a saddle-free step where they show negative curvature,
  since a saddle of the length is not a shortest path (`mixing`);
- preconditioning: the solve knows how strongly the density confines the path, from differences of the score;
- continuation in alpha: a pair starts at the alpha whose first step moves it by 0.3 of the distance of its ends, and
  alpha doubles, at no evaluation, whenever the residual has fallen to 0.3 of the pull of the score;
- damping and trust: a pair that stops improving steps by half along what the memory cannot explain; no knot moves
  further in a step than a tenth of that distance, less where it met a score that is not finite;
- resolution: a quarter of the intervals first, then half. A pair's first grid is left when the residual has fallen to
  0.3 of the great circle's, the coarsest without a trace if that takes more than five iterations; the next at 0.1 of
  the first residual there, which is the error of the grid before it. A finer grid takes over the scores at the knots
  that it shares with the coarser one, and its iterates as a memory (`fixed_point`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.fields import Resolution, ScoreField, well_resolved
from latent_geodesics.path import shortest_path
from latent_geodesics.records import BoundaryProblem, Solution, Status
from latent_geodesics.solvers.base import BoundarySolver
from latent_geodesics.solvers.collocation import Collocation
from latent_geodesics.solvers.fixed_point import FixedPoint, Trail
from latent_geodesics.solvers.ledger import Ledger
from latent_geodesics.solvers.rules import MOST_FAILURES, Rules

__all__ = ["PicardAnderson"]

TOLERANCE = 3e-4
LOOSE = 0.3
GROWTH = 2.0
COARSEST = 4
FRESH_FALL, FALL = 0.3, 0.1
ITERATIONS = (None, None, 5)  # of the finest grid, the one before it, and the one before that
COARSE_SHARE = 0.5
HALVINGS = 4


class PicardAnderson(BoundarySolver):
    """Finds the geodesic by an accelerated fixed point on the knots of a quintic spline.

    One score call an iteration serves all pairs; a pair that has settled costs no more evaluations. The result of a
    pair does not depend on the others.

    Args:
        intervals: `N`, the number of equal intervals between knots, at least 2; an iteration costs `N - 1` evaluations.
        tolerance: a pair has converged when its mean residual is below this share of the mean of `alpha |s|` along the
            path: what is left of the pull of the score that the curvature does not balance. None is 3e-4. Where the
            scores resolve less (`ScoreField.resolution`), that is in force instead, and the pair ends as
            `Status.RESOLVED`; a number that is given is asked for, and reached with the field's `finer` scores, where
            it has them. Where scores are as coarse as bfloat16's, the finer ones do it all.
        max_evaluations: score evaluations that a pair may cost.
        memory: how many iterates are mixed; 0 is the plain fixed point.
        trust: the largest move of a knot in one step, as a share of the distance of the ends.
        patience: iterations without a tenth of progress after which the step along what the memory cannot explain is
            halved; after four halvings the pair is given up as stalled.
        continuation: whether to begin at a small alpha; without it the first step is taken at the full one.
        coarse_start: whether to begin with half or a quarter of the intervals, where that is at least four.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        *,
        intervals: int = 16,
        tolerance: float | None = None,
        max_evaluations: int = 600,
        memory: int = 6,
        trust: float = 0.1,
        patience: int = 10,
        continuation: bool = True,
        coarse_start: bool = True,
    ) -> None:
        if intervals < 2:
            raise ValueError(f"intervals must be at least 2; received {intervals}.")
        if tolerance is not None and not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1; received {tolerance}.")
        if max_evaluations < 1:
            raise ValueError(f"max_evaluations must be at least 1; received {max_evaluations}.")
        if memory < 0:
            raise ValueError(f"memory must not be negative; received {memory}.")
        if not trust > 0:
            raise ValueError(f"trust must be positive; received {trust}.")
        self.intervals, self.tolerance, self.max_evaluations = intervals, tolerance, max_evaluations
        if patience < 1:
            raise ValueError(f"patience must be at least 1; received {patience}.")
        self.memory, self.trust, self.patience = memory, trust, patience
        self.continuation, self.coarse_start = continuation, coarse_start

    def solve(self, problem: BoundaryProblem) -> Solution:
        """Solve all pairs together; see `BoundarySolver.solve`."""
        base = shortest_path(problem.manifold, problem.x0, problem.x1)
        grid = Collocation(base=base, manifold=problem.manifold, intervals=self.intervals, geometry=problem.geometry)
        ledger = Ledger(problem, budget=self.max_evaluations, tolerance=self._tolerance)
        offsets = grid.start()
        pairs, field = ledger.open_pairs(), problem.field
        pairs = pairs[ledger.affords(pairs, self.intervals + 1)]
        while len(pairs):
            # Coarse scores do not even serve for the first grids: with bfloat16's it took a third more evaluations.
            field = well_resolved(field, *grid.ends())
            there, finer = pairs.to(offsets.device), field.finer()
            reached = self._solve_pairs(problem, ledger, grid.restrict(there), field.restrict(pairs), pairs)
            offsets[there] = reached.offsets
            for status in set(reached.outcome):
                ledger.close(pairs[reached.rows(status)], status)
            # Where a lower precision overflowed, a higher one starts afresh.
            pairs = pairs[reached.rows(Status.NON_FINITE_SCORE)]
            pairs = pairs[ledger.affords(pairs, self.intervals + 1)]
            if finer is None:
                break
            field = finer
        return ledger.solution(grid.path(offsets))

    @property
    def _tolerance(self) -> float:
        return TOLERANCE if self.tolerance is None else self.tolerance

    def _solve_pairs(
        self,
        problem: BoundaryProblem,
        ledger: Ledger,
        grid: Collocation,
        field: ScoreField,
        pairs: Int[Tensor, " a"],
    ) -> "_Reached":
        """Where the pairs that need solving get to with a field of one precision."""
        stages = self._stages(grid)
        ledger.resolution = grid.end_resolution(field)
        end_scores = grid.end_scores(field)
        ledger.spend(pairs, 2)
        begun = _Pairs(
            numbers=pairs,
            field=field,
            end_scores=end_scores,
            offsets=stages[0].start(),
            alpha=torch.full_like(grid.span, torch.nan if self.continuation else problem.alpha),
        )
        return self._climb(problem, ledger, stages, begun)

    def _climb(
        self, problem: BoundaryProblem, ledger: Ledger, stages: Sequence[Collocation], pairs: "_Pairs"
    ) -> "_Reached":
        """From the first of some grids to the last, which is the finest."""
        stage, *finer = stages
        rules = self._rules(problem.alpha, left=len(finer), fresh=pairs.past is None)
        if pairs.field.finer() is not None:
            rules = replace(rules, failures=1)
        iteration = pairs.iterate(stage, ledger, rules, ledger.resolution)
        outcome = [iteration.outcome[row] for row in range(len(pairs.numbers))]
        risen = replace(pairs, offsets=iteration.offsets, alpha=iteration.alpha, past=iteration.trail)
        if not finer:
            return self._polish(stage, risen, ledger, rules, _Reached(offsets=iteration.offsets, outcome=outcome))
        if rules.iterations is None:
            return self._climb(problem, ledger, finer, risen)
        # A grid on which a path does not settle soon is too coarse for the density: that path would mislead.
        settled = torch.tensor([status in (Status.CONVERGED, Status.RESOLVED) for status in outcome])
        offsets, found = stages[-1].start(), dict[int, Status]()
        for rows, some in ((settled, risen), (~settled, pairs)):
            index = rows.nonzero().flatten()
            if len(index):
                there = index.to(offsets.device)
                some_stages = [grid.restrict(there) for grid in finer]
                reached = self._climb(problem, ledger, some_stages, some.restrict(index))
                offsets[there] = reached.offsets
                found.update(zip(index.tolist(), reached.outcome, strict=True))
        return _Reached(offsets=offsets, outcome=[found[row] for row in range(len(outcome))])

    def _polish(
        self, grid: Collocation, pairs: "_Pairs", ledger: Ledger, rules: Rules, reached: "_Reached"
    ) -> "_Reached":
        """Finish in a higher precision the pairs that met what theirs resolves, where more is asked for."""
        index = reached.rows(Status.RESOLVED)
        finer = pairs.field.finer() if self.tolerance is not None and len(index) else None
        if finer is None:
            return reached
        some, there = replace(pairs, field=finer).restrict(index), index.to(reached.offsets.device)
        part, rules = grid.restrict(there), replace(rules, failures=MOST_FAILURES)
        iteration = some.iterate(part, ledger, rules, part.end_resolution(some.field))
        reached.offsets[there] = iteration.offsets
        for place, row in enumerate(index.tolist()):
            reached.outcome[row] = iteration.outcome[place]
        return reached

    def _stages(self, grid: Collocation) -> list[Collocation]:
        """The grids, from the coarsest to the finest."""
        stages = [grid]
        while self.coarse_start and stages[0].intervals % 2 == 0 and stages[0].intervals >= 2 * COARSEST:
            stages.insert(0, stages[0].coarsen())
        return stages[-len(ITERATIONS) :]

    def _rules(self, target: float, *, left: int, fresh: bool) -> Rules:
        """The rules of a stage that so many others follow; `fresh` where no other was before."""
        fall = FRESH_FALL if fresh else FALL
        return Rules(
            target=target,
            tolerance=self._tolerance,
            loose=LOOSE,
            growth=GROWTH,
            budget_share=COARSE_SHARE**left,
            memory=self.memory,
            trust=self.trust,
            patience=self.patience,
            halvings=HALVINGS,
            fall=fall if left else 0.0,
            iterations=ITERATIONS[left],
        )


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Some pairs on their way from grid to grid, with what they bring along.

    Attributes:
        numbers: which of the problem's, on the CPU.
        field: the score, as they see it.
        end_scores: the score at both ends.
        offsets: where they are, at the interior knots of the grid that they come from.
        alpha: the alpha in force; NaN where it is to be chosen.
        past: what the iteration on that grid left behind; None at the start.
    """

    numbers: Int[Tensor, " a"]
    field: ScoreField
    end_scores: Float[Tensor, "a 2 d"]
    offsets: Float[Tensor, "a m d"]
    alpha: Float[Tensor, " a"]
    past: Trail | None = None

    def restrict(self, rows: Int[Tensor, " b"]) -> "_Pairs":
        """Some of them, by their places on the CPU."""
        there = rows.to(self.offsets.device)
        return _Pairs(
            numbers=self.numbers[rows],
            field=self.field.restrict(rows),
            end_scores=self.end_scores[there],
            offsets=self.offsets[there],
            alpha=self.alpha[there],
            past=None if self.past is None else self.past.restrict(there),
        )

    def iterate(self, grid: Collocation, ledger: Ledger, rules: Rules, resolution: Resolution | None) -> FixedPoint:
        """The iteration on a grid, from where they are, run to its end."""
        iteration = FixedPoint(
            grid=grid,
            field=self.field,
            ledger=ledger,
            pairs=self.numbers,
            offsets=grid.refine(self.offsets),
            end_scores=self.end_scores,
            alpha=self.alpha,
            rules=rules,
            past=self.past,
            resolution=resolution,
        )
        iteration.run()
        return iteration


@dataclass(frozen=True, kw_only=True)
class _Reached:
    """Where pairs got to on the finest grid, and how each ended."""

    offsets: Float[Tensor, "a n d"]
    outcome: list[Status]

    def rows(self, status: Status) -> Int[Tensor, " b"]:
        """The places of the pairs that ended so."""
        return torch.tensor([row for row, found in enumerate(self.outcome) if found is status], dtype=torch.long)
