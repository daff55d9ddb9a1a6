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
- resolution: half the intervals first, until the residual is 0.3 of the pull.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.path import shortest_path
from latent_geodesics.records import BoundaryProblem, Solution
from latent_geodesics.solvers.base import BoundarySolver
from latent_geodesics.solvers.collocation import Collocation
from latent_geodesics.solvers.fixed_point import FixedPoint, Rules
from latent_geodesics.solvers.ledger import Ledger

__all__ = ["PicardAnderson"]

LOOSE = 0.3
GROWTH = 2.0
COARSEST = 6
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
        coarse_start: whether to begin with half the intervals.

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
        """Both stages for the pairs that need solving; returns their offsets."""
        field = problem.field.restrict(pairs)
        end_scores = grid.end_scores(field)
        ledger.spend(pairs, 2)
        offsets = grid.start()
        alpha = torch.full_like(grid.span, torch.nan if self.continuation else problem.alpha)
        stages = [grid]
        if self.coarse_start and self.intervals >= 2 * COARSEST:
            stages.insert(0, grid.coarsen())
        for stage in stages:
            last = stage is grid
            iteration = FixedPoint(
                grid=stage,
                field=field,
                ledger=ledger,
                pairs=pairs,
                offsets=stage.refine(offsets),
                end_scores=end_scores,
                alpha=alpha,
                rules=self._rules(problem.alpha, last=last),
            )
            iteration.run()
            offsets, alpha = iteration.offsets, iteration.alpha
        for row, status in iteration.outcome.items():
            ledger.close(pairs[row : row + 1], status)
        return offsets

    def _rules(self, target: float, *, last: bool) -> Rules:
        return Rules(
            target=target,
            tolerance=self.tolerance if last else LOOSE,
            loose=LOOSE,
            growth=GROWTH,
            budget_share=1.0 if last else COARSE_SHARE,
            memory=self.memory,
            trust=self.trust,
            patience=self.patience,
            halvings=HALVINGS,
        )
