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

What it solves is looked at between its knots, and refined where that is needed (`refinement`). What is too strong for
it is approached by Newton steps and from several starts (`search`).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.fields import ScoreField, well_resolved
from latent_geodesics.records import BoundaryProblem, Solution, Status
from latent_geodesics.solvers.antipodal import shortest_start
from latent_geodesics.solvers.base import BoundarySolver
from latent_geodesics.solvers.collocation import Collocation
from latent_geodesics.solvers.group import Finished, Group
from latent_geodesics.solvers.ledger import Ledger
from latent_geodesics.solvers.newton import MEMORY, look
from latent_geodesics.solvers.refinement import AT_KNOTS, Refinement
from latent_geodesics.solvers.rules import MOST_FAILURES, Rules
from latent_geodesics.solvers.search import Search
from latent_geodesics.solvers.second_variation import Past
from latent_geodesics.solvers.stages import Pairs, Paths, Reached, ended

__all__ = ["PicardAnderson"]

TOLERANCE = 1e-2
STRONG, VERY_STRONG = 3.0, 15.0
PER_STRENGTH = 600.0
FINEST = 256
LOOSE = 0.3
GROWTH = 2.0
COARSEST = 4
FRESH_FALL, FALL = 0.3, 0.1
ITERATIONS = (None, None, 5)  # of the finest grid, the one before it, and the one before that
COARSE_SHARE = 0.5
HALVINGS = 4


class PicardAnderson(BoundarySolver):
    """Finds the geodesic by an accelerated fixed point on the knots of a quintic spline, and Newton steps.

    One score call an iteration serves all pairs; a pair that has settled costs no more evaluations. The result of a
    pair does not depend on the others.

    Args:
        intervals: `N`, the number of equal intervals between knots, at least 2; an iteration costs `N - 1` evaluations.
        tolerance: a pair has converged when its mean residual, at positions between the knots, is below this share of
            the mean of `alpha |s|` along the path: what is left of the pull of the score that the curvature does not
            balance. None is 1e-2, with which lengths are off by about a millionth of themselves (`length_error` in the
            statistics says by how much). Where the scores resolve less (`ScoreField.resolution`), that is in force
            instead, and the pair ends as `Status.RESOLVED`; a number that is given is asked for, and reached with the
            field's `finer` scores, where it has them. Where scores are as coarse as bfloat16's, the finer ones do it
            all.
        max_evaluations: score evaluations that a pair may cost; None is 600 for each unit of its strength (`search`),
            and no fewer.
        memory: how many iterates are mixed; 0 is the plain fixed point.
        trust: the largest move of a knot in one step, as a share of the distance of the ends.
        patience: iterations without a tenth of progress after which the step along what the memory cannot explain is
            halved; after four halvings the pair is given up as stalled.
        continuation: whether to begin at a small alpha; without it the first step is taken at the full one.
        coarse_start: whether to begin with half or a quarter of the intervals, where that is at least four.
        refine: whether to look between the knots, to go on at twice the intervals where that is needed, and to solve by
            Newton steps what the fixed point does not; without it `converged` speaks of the knots alone.
        starts: from how many paths a strong pair begins, of which the shortest is kept.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        *,
        intervals: int = 16,
        tolerance: float | None = None,
        max_evaluations: int | None = None,
        memory: int = 6,
        trust: float = 0.1,
        patience: int = 10,
        continuation: bool = True,
        coarse_start: bool = True,
        refine: bool = True,
        starts: int = 3,
    ) -> None:
        if intervals < 2:
            raise ValueError(f"intervals must be at least 2; received {intervals}.")
        if tolerance is not None and not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1; received {tolerance}.")
        if max_evaluations is not None and max_evaluations < 1:
            raise ValueError(f"max_evaluations must be at least 1; received {max_evaluations}.")
        if memory < 0:
            raise ValueError(f"memory must not be negative; received {memory}.")
        if not trust > 0:
            raise ValueError(f"trust must be positive; received {trust}.")
        self.intervals, self.tolerance, self.max_evaluations = intervals, tolerance, max_evaluations
        if patience < 1:
            raise ValueError(f"patience must be at least 1; received {patience}.")
        self.memory, self.trust, self.patience = memory, trust, patience
        if starts < 1:
            raise ValueError(f"starts must be at least 1; received {starts}.")
        self.continuation, self.coarse_start = continuation, coarse_start
        self.refine, self.starts = refine, starts

    def solve(self, problem: BoundaryProblem) -> Solution:
        """Solve all pairs together; see `BoundarySolver.solve`."""
        ledger = Ledger(problem, budget=self.max_evaluations, tolerance=self._tolerance)
        base = shortest_start(problem, ledger)
        grid = Collocation(base=base, manifold=problem.manifold, intervals=self.intervals, geometry=problem.geometry)
        paths = Paths(grid)
        pairs, field = ledger.open_pairs(), problem.field
        pairs = pairs[ledger.affords(pairs, self.intervals + 1)]
        while len(pairs):
            # Coarse scores do not even serve for the first grids: with bfloat16's it took a third more evaluations.
            field = well_resolved(field, *grid.ends())
            there, finer = pairs.to(problem.x0.device), field.finer()
            for found in self._solve_pairs(problem, ledger, grid.restrict(there), field.restrict(pairs), pairs):
                paths.put(found)
                for row, status in zip(found.numbers, found.status, strict=True):
                    ledger.close(row[None], status)
            # Where a lower precision overflowed, a higher one starts afresh.
            pairs = ledger.ended(Status.NON_FINITE_SCORE, among=pairs)
            pairs = pairs[ledger.affords(pairs, self.intervals + 1)]
            if finer is None:
                break
            field = finer
        return ledger.solution(paths.path())

    @property
    def _searches(self) -> bool:
        """Whether problems that are too strong for the fixed point are solved otherwise."""
        return self.refine and self.memory > 0

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
    ) -> list[Finished]:
        """Where the pairs that need solving get to with a field of one precision."""
        stages = self._stages(grid)
        ledger.resolution = grid.end_resolution(field)
        end_scores = grid.end_scores(field)
        ledger.spend(pairs, 2)
        strength = torch.full_like(grid.span, problem.alpha)
        scores = stages[0].scores(field, stages[0].start())
        begun = Pairs(
            numbers=pairs,
            field=field,
            end_scores=end_scores,
            offsets=stages[0].start(),
            alpha=torch.full_like(grid.span, torch.nan if self.continuation else problem.alpha),
            scores=scores,
        )
        ledger.spend(pairs, stages[0].intervals - 1)
        start = look(stages[0], begun.offsets, scores, end_scores, strength)
        strengths = (start.seen.scale(strength) * grid.span).cpu().double()
        ledger.strength[pairs] = strengths.to(ledger.strength)
        if self.max_evaluations is None:
            ledger.allow(pairs, PER_STRENGTH * strengths.clamp(min=1))
        searches = self._searches and grid.geometry.constant_speed
        strong = (strengths > STRONG) & searches
        finished: list[Finished] = []
        rows = (~strong).nonzero().flatten()
        if len(rows):
            there = rows.to(grid.span.device)
            easy = begun.restrict(rows)
            reached = self._climb(problem, ledger, [stage.restrict(there) for stage in stages], easy)
            finished, unsolved = self._after(ledger, grid.restrict(there), easy, reached)
            strong[rows[unsolved]] = True
        rows = strong.nonzero().flatten()
        if len(rows):
            some = grid.restrict(rows.to(grid.span.device)).double()
            few, many = begun.restrict(rows), strengths[rows]
            for mask, part in ((many <= VERY_STRONG, some), (many > VERY_STRONG, some.double())):
                index = mask.nonzero().flatten()
                if len(index):
                    there = index.to(grid.span.device)
                    finished += self._search(ledger, part.restrict(there), few.restrict(index), many[index])
        return finished

    def _after(
        self, ledger: Ledger, grid: Collocation, pairs: Pairs, reached: Reached
    ) -> tuple[list[Finished], Int[Tensor, " b"]]:
        """Refine what the fixed point has solved; what it has not, by places on the CPU, is left to a search."""
        solved = torch.tensor([status in (Status.CONVERGED, Status.RESOLVED) for status in reached.outcome])
        failed = torch.tensor([status in (Status.STALLED, Status.BUDGET_EXHAUSTED) for status in reached.outcome])
        searches = self._searches and grid.geometry.constant_speed
        again = failed & ledger.affords(pairs.numbers, 4 * grid.intervals) & searches
        finished = []
        for status in set(reached.outcome):
            mask = torch.tensor([found is status for found in reached.outcome])
            rows = (mask & ~again & ~(solved & self.refine)).nonzero().flatten()
            if len(rows):
                finished.append(ended(grid, pairs, reached, rows, status))
        needy = reached.finer | self._unresolved(grid, pairs, reached)
        for finer in (False, True):
            rows = (solved & self.refine & (needy == finer)).nonzero().flatten()
            if len(rows):
                group = self._group(grid, pairs, reached, rows, finer=finer)
                finished += self._refinement(ledger).finish(group)
        return finished, again.nonzero().flatten()

    def _unresolved(self, grid: Collocation, pairs: Pairs, reached: Reached) -> Bool[Tensor, " a"]:
        """Which pairs are asked for more than their scores resolve, where there are finer ones."""
        resolution = grid.end_resolution(pairs.field)
        if self.tolerance is None or resolution is None or pairs.field.finer() is None:
            return torch.zeros_like(reached.finer)
        strength = torch.full_like(grid.span, grid.geometry.strength)
        seen = look(grid, reached.offsets, reached.scores, pairs.end_scores, strength).seen
        return (resolution.floor(seen.size.mean(-1), seen.strength.mean(-1)) > AT_KNOTS * self.tolerance).cpu()

    def _group(
        self, grid: Collocation, pairs: Pairs, reached: Reached, rows: Int[Tensor, " b"], *, finer: bool
    ) -> Group:
        """Pairs that the fixed point has solved, as the stages after it take them."""
        some, part = pairs.restrict(rows), reached.restrict(rows)
        field = some.field.finer() if finer else some.field
        assert field is not None
        grid = grid.restrict(rows.to(grid.span.device))
        strength = torch.full_like(grid.span, grid.geometry.strength)
        return Group(
            numbers=some.numbers,
            grid=grid,
            field=field,
            end_scores=some.end_scores,
            strength=strength,
            place=look(grid, part.offsets, part.scores, some.end_scores, strength),
            past=part.past,
            resolution=grid.end_resolution(field),
        )

    def _search(
        self, ledger: Ledger, grid: Collocation, pairs: Pairs, strengths: Float[Tensor, " a"]
    ) -> list[Finished]:
        """Solve strong problems, and those that the fixed point did not."""
        begun = grid.start()
        strength = torch.full_like(grid.span, grid.geometry.strength)
        scores = grid.scores(pairs.field, begun)
        ledger.spend(pairs.numbers, grid.intervals - 1)
        place = look(grid, begun, scores, pairs.end_scores, strength)
        group = Group(
            numbers=pairs.numbers,
            grid=grid,
            field=pairs.field,
            end_scores=pairs.end_scores,
            strength=strength,
            place=place,
            past=Past.none(place.here, MEMORY),
            resolution=ledger.resolution,
        )
        found = Search(ledger=ledger, starts=self.starts).run(group, strengths)
        finer = pairs.field.finer() if self.tolerance is not None else None
        if finer is not None:
            here = found.place.here
            scores = grid.scores(finer, here.offsets)
            ledger.spend(pairs.numbers, grid.intervals - 1)
            place = look(grid, here.offsets, scores, pairs.end_scores, strength)
            found = replace(found, field=finer, place=place, resolution=grid.end_resolution(finer))
        return self._refinement(ledger).settle(found)

    def _refinement(self, ledger: Ledger) -> Refinement:
        return Refinement(ledger=ledger, tolerance=self._tolerance, finest=max(FINEST, 4 * self.intervals))

    def _climb(self, problem: BoundaryProblem, ledger: Ledger, stages: Sequence[Collocation], pairs: Pairs) -> Reached:
        """From the first of some grids to the last, which is the finest."""
        stage, *finer = stages
        rules = self._rules(problem.alpha, left=len(finer), fresh=pairs.past is None)
        if pairs.field.finer() is not None:
            rules = replace(rules, failures=1)
        iteration = pairs.iterate(stage, ledger, rules, ledger.resolution)
        outcome = [iteration.outcome[row] for row in range(len(pairs.numbers))]
        trail = iteration.trail
        risen = replace(pairs, offsets=iteration.offsets, alpha=iteration.alpha, past=trail, scores=None)
        if not finer:
            return self._polish(stage, risen, ledger, rules, Reached.of(iteration.offsets, trail, outcome))
        if rules.iterations is None:
            return self._climb(problem, ledger, finer, risen)
        # A grid on which a path does not settle soon is too coarse for the density: that path would mislead.
        settled = torch.tensor([status in (Status.CONVERGED, Status.RESOLVED) for status in outcome])
        parts = []
        for rows, some in ((settled, risen), (~settled, replace(pairs, scores=None))):
            index = rows.nonzero().flatten()
            if len(index):
                there = index.to(pairs.offsets.device)
                some_stages = [grid.restrict(there) for grid in finer]
                parts.append((index, self._climb(problem, ledger, some_stages, some.restrict(index))))
        return Reached.join(parts)

    def _polish(self, grid: Collocation, pairs: Pairs, ledger: Ledger, rules: Rules, reached: Reached) -> Reached:
        """Finish in a higher precision the pairs that met what theirs resolves, where more is asked for."""
        index = reached.rows(Status.RESOLVED)
        finer = pairs.field.finer() if self.tolerance is not None and len(index) else None
        if finer is None:
            return reached
        some = replace(pairs, field=finer).restrict(index)
        part, rules = grid.restrict(index.to(reached.offsets.device)), replace(rules, failures=MOST_FAILURES)
        iteration = some.iterate(part, ledger, rules, part.end_resolution(some.field))
        outcome = [iteration.outcome[row] for row in range(len(index))]
        polished = replace(Reached.of(iteration.offsets, iteration.trail, outcome), finer=torch.ones(len(index)) > 0)
        others = torch.tensor([status is not Status.RESOLVED for status in reached.outcome]).nonzero().flatten()
        return Reached.join([(index, polished), (others, reached.restrict(others))])

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
            tolerance=self._tolerance * (AT_KNOTS if self.refine else 1.0),
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
