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

from latent_geodesics.fields import ScoreField
from latent_geodesics.path import shortest_path
from latent_geodesics.records import BoundaryProblem, Solution, Status
from latent_geodesics.solvers.base import BoundarySolver
from latent_geodesics.solvers.collocation import Collocation
from latent_geodesics.solvers.fixed_point import FixedPoint, Rules, Trail
from latent_geodesics.solvers.ledger import Ledger

__all__ = ["PicardAnderson"]

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
            path: what is left of the pull of the score that the curvature does not balance. The length is then off by
            about its square; a network in float32 cannot go much lower.
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
        tolerance: float = 3e-4,
        max_evaluations: int = 600,
        memory: int = 6,
        trust: float = 0.1,
        patience: int = 10,
        continuation: bool = True,
        coarse_start: bool = True,
    ) -> None:
        if intervals < 2:
            raise ValueError(f"intervals must be at least 2; received {intervals}.")
        if not 0 < tolerance < 1:
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
        grid = Collocation(base=base, manifold=problem.manifold, intervals=self.intervals)
        ledger = Ledger(problem, budget=self.max_evaluations)
        offsets = grid.start()
        pairs = ledger.open_pairs()
        pairs = pairs[ledger.affords(pairs, self.intervals + 1)]
        if len(pairs):
            offsets[pairs] = self._solve_pairs(problem, ledger, grid.restrict(pairs), pairs)
        return ledger.solution(grid.path(offsets))

    def _solve_pairs(
        self, problem: BoundaryProblem, ledger: Ledger, grid: Collocation, pairs: Int[Tensor, " a"]
    ) -> Float[Tensor, "a n d"]:
        """The offsets of the pairs that need solving."""
        field, stages = problem.field.restrict(pairs), self._stages(grid)
        end_scores = grid.end_scores(field)
        ledger.spend(pairs, 2)
        party = _Party(
            pairs=pairs,
            field=field,
            end_scores=end_scores,
            offsets=stages[0].start(),
            alpha=torch.full_like(grid.span, torch.nan if self.continuation else problem.alpha),
        )
        return self._climb(problem, ledger, stages, party)

    def _climb(
        self, problem: BoundaryProblem, ledger: Ledger, stages: Sequence[Collocation], party: "_Party"
    ) -> Float[Tensor, "a n d"]:
        """From the first of some grids to the last, which is the finest; returns the offsets there."""
        stage, *finer = stages
        iteration = FixedPoint(
            grid=stage,
            field=party.field,
            ledger=ledger,
            pairs=party.pairs,
            offsets=stage.refine(party.offsets),
            end_scores=party.end_scores,
            alpha=party.alpha,
            rules=self._rules(problem.alpha, left=len(finer), fresh=party.past is None),
            past=party.past,
        )
        iteration.run()
        if not finer:
            for row, status in iteration.outcome.items():
                ledger.close(party.pairs[row : row + 1], status)
            return iteration.offsets
        risen = replace(party, offsets=iteration.offsets, alpha=iteration.alpha, past=iteration.trail)
        if ITERATIONS[len(finer)] is None:
            return self._climb(problem, ledger, finer, risen)
        # A grid on which a path does not settle soon is too coarse for the density: that path would mislead.
        settled = torch.tensor([iteration.outcome[row] is Status.CONVERGED for row in range(len(party.pairs))])
        offsets = stages[-1].start()
        for rows, some in ((settled, risen), (~settled, party)):
            index = rows.nonzero().flatten().to(offsets.device)
            if len(index):
                some_stages = [grid.restrict(index) for grid in finer]
                offsets[index] = self._climb(problem, ledger, some_stages, some.restrict(index))
        return offsets

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
            tolerance=self.tolerance,
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
class _Party:
    """Some pairs on their way from grid to grid, with what they bring along.

    Attributes:
        pairs: which of the problem's.
        field: the score, as they see it.
        end_scores: the score at both ends.
        offsets: where they are, at the interior knots of the grid that they come from.
        alpha: the alpha in force; NaN where it is to be chosen.
        past: what the iteration on that grid left behind; None at the start.
    """

    pairs: Int[Tensor, " a"]
    field: ScoreField
    end_scores: Float[Tensor, "a 2 d"]
    offsets: Float[Tensor, "a m d"]
    alpha: Float[Tensor, " a"]
    past: Trail | None = None

    def restrict(self, rows: Int[Tensor, " b"]) -> "_Party":
        """Some of them."""
        return _Party(
            pairs=self.pairs[rows],
            field=self.field.restrict(rows),
            end_scores=self.end_scores[rows],
            offsets=self.offsets[rows],
            alpha=self.alpha[rows],
            past=None if self.past is None else self.past.restrict(rows),
        )
