r"""The default boundary solver: a preconditioned fixed point, accelerated, that seeks minima of the length.

With the score frozen the geodesic equation is linear in the knots of the path, and one small solve removes its defect
(`collocation`). That fixed point is made fast and safe by five means, each per pair:

- mixing: Anderson acceleration over the last iterates, and a saddle-free step where they show negative curvature,
  since a saddle of the length is not a shortest path (`anderson`);
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

from latent_geodesics.core.fields import ScoreField, well_resolved
from latent_geodesics.core.path import KnotPath
from latent_geodesics.core.records import BoundaryProblem, Solution, Status
from latent_geodesics.core.solvers.antipodal import shortest_start
from latent_geodesics.core.solvers.base import BoundarySolver
from latent_geodesics.core.solvers.collocation import Collocation
from latent_geodesics.core.solvers.fixed_point import MOST_FAILURES, FixedPoint, Rules
from latent_geodesics.core.solvers.group import Finished, Group, by_status
from latent_geodesics.core.solvers.newton import newton
from latent_geodesics.core.solvers.refinement import AT_KNOTS, Refinement
from latent_geodesics.core.solvers.search import shortest_of_several
from latent_geodesics.core.solvers.solve_record import SolveRecord

TOLERANCE = 1e-2
STRONG = 3.0
FINER = (5.0, 15.0)  # strengths above which paths are searched for on twice the intervals, and on four times as many
PER_STRENGTH, LEAST_WITHOUT_NEWTON = 1600.0, 2400.0  # the dearest of 76 solves on the shipped model took 1,564 a unit
FINEST = 256
MEMORY = 8  # iterates that Newton steps are made of
COARSEST = 4
FRESH_FALL, FALL = 0.3, 0.1
ITERATIONS = (None, None, 5)  # of the finest grid, the one before it, and the one before that
BEFORE_NEWTON, NEWTON = 5, 10  # iterations of the fixed point on the finest grid, and then of Newton's method
COARSE_SHARE = 0.5


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
        max_evaluations: score evaluations that a pair may cost; None is 1,600 for each unit of its strength
            (`search`), and no fewer; in geometries whose paths have another speed than a constant one, no fewer than
            2,400.
        memory: how many iterates are mixed; 0 is the plain fixed point.
        trust: the largest move of a knot in one step, as a share of the distance of the ends.
        patience: iterations without a tenth of progress after which the step along what the memory cannot explain is
            halved; after four halvings the pair is given up as stalled.
        continuation: whether to begin at a small alpha; without it the first step is taken at the full one.
        coarse_start: whether to begin with half or a quarter of the intervals, where that is at least four.
        refine: whether to look between the knots, to go on at twice the intervals where that is needed, and to solve by
            Newton steps what the fixed point does not; without it `converged` speaks of the knots alone.
        starts: from how many paths a strong pair begins, of which the shortest is kept; at most three in the plane and
            on a sphere in space, where there is one direction to begin aside in.

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
        starts: int = 5,
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
        record = SolveRecord(problem, budget=self.max_evaluations, tolerance=self._tolerance)
        base = shortest_start(problem, record)
        grid = Collocation(base=base, manifold=problem.manifold, intervals=self.intervals, geometry=problem.geometry)
        finished: list[Finished] = []
        pairs, field = record.open_pairs(), problem.field
        pairs = pairs[record.affords(pairs, self.intervals + 1)]
        while len(pairs):
            # Coarse scores do not even serve for the first grids: with bfloat16's it took a third more evaluations.
            field = well_resolved(field, *grid.ends())
            finer = field.finer()
            for found in self._solve_pairs(record, grid.restrict(pairs), field.restrict(pairs), pairs):
                finished.append(found)
                for row, status in zip(found.numbers, found.status, strict=True):
                    record.close(row[None], status)
            # Where a lower precision overflowed, a higher one starts afresh.
            pairs = record.ended(Status.NON_FINITE_SCORE, among=pairs)
            pairs = pairs[record.affords(pairs, self.intervals + 1)]
            if finer is None:
                break
            field = finer
        return record.solution(_path(grid, finished))

    @property
    def _tolerance(self) -> float:
        return TOLERANCE if self.tolerance is None else self.tolerance

    def _solve_pairs(
        self, record: SolveRecord, grid: Collocation, field: ScoreField, numbers: Int[Tensor, " a"]
    ) -> list[Finished]:
        """Where the pairs that need solving get to with a field of one precision."""
        coarse, left = self._coarsest(grid)
        record.resolution = grid.end_resolution(field)
        end_scores = grid.end_scores(field)
        record.spend(numbers, 2)
        begun = Group.begin(coarse, field, numbers, end_scores=end_scores, record=record, resolution=record.resolution)
        strengths = begun.strengths(record)
        if self.max_evaluations is None:
            # Without Newton steps a fine grid, where one is needed, takes iterations that a coarse one does not.
            least = PER_STRENGTH if grid.geometry.constant_speed else LEAST_WITHOUT_NEWTON
            record.allow(numbers, (PER_STRENGTH * strengths).clamp(min=least))
        searches = self._newtons(grid)
        strong = (strengths > STRONG) & searches
        finished: list[Finished] = []
        if not bool(strong.all()):
            for group, status in self._climb(record, begun.pick(~strong), left):
                failed = torch.tensor([how in (Status.STALLED, Status.BUDGET_EXHAUSTED) for how in status])
                unsolved = failed & searches & record.affords(group.numbers, 4 * self.intervals)
                finished += self._finish(record, group, status, ~unsolved)
                strong |= torch.isin(numbers, group.numbers[unsolved])
        doublings = (strengths[:, None] > torch.tensor(FINER)).sum(-1)
        for times in range(len(FINER) + 1):
            afforded = record.affords(numbers, 2**times * grid.intervals - 1)
            rows = (strong & (doublings == times) & afforded).nonzero().flatten()
            if len(rows):
                wide = grid.restrict(rows)
                for _ in range(times):
                    wide = wide.double()
                group = Group.begin(
                    wide,
                    field.restrict(rows),
                    numbers[rows],
                    end_scores=end_scores[rows.to(end_scores.device)],
                    record=record,
                    resolution=record.resolution,
                    memory=MEMORY,
                )
                # The search is planned by the coarse grid's; what is reported is what the knots here show.
                group.strengths(record)
                finished += self._search(record, group, strengths[rows])
        return finished

    def _coarsest(self, grid: Collocation) -> tuple[Collocation, int]:
        """The grid to begin with, and how many follow it."""
        left = 0
        while self.coarse_start and left + 1 < len(ITERATIONS) and grid.intervals % 2 == 0:
            if grid.intervals < 2 * COARSEST:
                break
            grid, left = grid.coarsen(), left + 1
        return grid, left

    def _climb(
        self, record: SolveRecord, begun: Group, left: int, *, fresh: bool = True
    ) -> list[tuple[Group, list[Status]]]:
        """From one grid to the last, so many further on; where the pairs got to, and how each ended."""
        rules = self._rules(begun, left=left, fresh=fresh)
        unknown = torch.full_like(begun.strength, torch.nan)
        entered = replace(begun, strength=unknown) if fresh and self.continuation else begun
        group, status = FixedPoint(entered, record, rules).run()
        if not left:
            group, status = self._newton(record, group, status, rules)
            return self._polish(record, group, status, rules)
        # A grid on which a path does not settle soon is too coarse for the density: that path would mislead.
        keeps = _solved(status) if rules.iterations else torch.ones(len(status), dtype=torch.bool)
        intervals = group.grid.intervals
        affords = record.affords(group.numbers, intervals) & (keeps | record.affords(group.numbers, 2 * intervals - 1))
        ended = group.pick(~affords)
        parts = [(ended, [Status.BUDGET_EXHAUSTED] * len(ended))] if len(ended) else []
        if bool((affords & keeps).any()):
            parts += self._climb(record, group.pick(affords & keeps).refined(record), left - 1, fresh=False)
        if bool((affords & ~keeps).any()):
            old = group.pick(affords & ~keeps)
            again = Group.begin(
                old.grid.double(),
                old.field,
                old.numbers,
                end_scores=old.end_scores,
                record=record,
                resolution=old.resolution,
            )
            again.strengths(record)
            parts += self._climb(record, again, left - 1)
        return parts

    def _newtons(self, grid: Collocation) -> bool:
        """Whether Newton steps and a search serve where the fixed point does not."""
        return self.refine and self.memory > 0 and grid.geometry.constant_speed

    def _newton(
        self, record: SolveRecord, group: Group, status: list[Status], rules: Rules
    ) -> tuple[Group, list[Status]]:
        """Take Newton steps with the pairs that the fixed point has not solved soon."""
        late = torch.tensor([how is Status.STALLED for how in status]).nonzero().flatten()
        if not len(late) or not self._newtons(group.grid):
            return group, status
        group = group.at(group.full)
        part, outcome = newton(group.restrict(late), record, tolerance=rules.tolerance, iterations=NEWTON)
        found = dict(zip(late.tolist(), outcome, strict=True))
        return group.put(late, part), [found.get(row, how) for row, how in enumerate(status)]

    def _polish(
        self, record: SolveRecord, group: Group, status: list[Status], rules: Rules
    ) -> list[tuple[Group, list[Status]]]:
        """Finish in a higher precision the pairs that met what theirs resolves, where more is asked for."""
        resolved = torch.tensor([how is Status.RESOLVED for how in status])
        finer = group.field.finer() if self.tolerance is not None and bool(resolved.any()) else None
        resolved &= record.affords(group.numbers, group.grid.intervals - 1)
        if finer is None or not bool(resolved.any()):
            return [(group, status)]
        some = group.pick(resolved)
        some = some.with_finer_scores(finer.restrict(resolved.nonzero().flatten()), record)
        parts = [FixedPoint(some, record, replace(rules, failures=MOST_FAILURES)).run()]
        if not bool(resolved.all()):
            others = [how for how, taken in zip(status, resolved.tolist(), strict=True) if not taken]
            parts.append((group.pick(~resolved), others))
        return parts

    def _finish(
        self, record: SolveRecord, group: Group, status: list[Status], among: Bool[Tensor, " a"]
    ) -> list[Finished]:
        """End pairs, of those that are solved after a look between their knots."""
        refinement = self._refinement(record)
        # How long the start is was seen on a coarser grid.
        group = replace(group.at(group.full), start=torch.full_like(group.start, torch.nan))
        looked = _solved(status) & among & self.refine
        finished = [refinement.ended(part, how) for how, part in by_status(group, status, among & ~looked)]
        finer = group.field.finer() if self.tolerance is not None else None
        coarse = torch.zeros_like(looked)
        if finer is not None:
            coarse = looked & (group.floor() > AT_KNOTS * self._tolerance).cpu()
            some = group.pick(coarse)
            some = replace(some, field=finer.restrict(coarse.nonzero().flatten()))
            if len(some):
                finished += refinement.finish(replace(some, resolution=some.grid.end_resolution(some.field)))
        some = group.pick(looked & ~coarse)
        return finished + (refinement.finish(some) if len(some) else [])

    def _search(self, record: SolveRecord, group: Group, strengths: Float[Tensor, " a"]) -> list[Finished]:
        """Solve strong problems, and those that the fixed point did not."""
        several = shortest_of_several(group, strengths, record, starts=self.starts)
        finished = self._settle(record, several.shortest)
        # What looked shorter on this grid may lead nowhere on a finer one: then the continuation's own path goes on.
        unsolved = torch.cat([part.numbers[~_solved(part.status)] for part in finished])
        other = several.others & torch.isin(group.numbers, unsolved)
        other &= record.affords(group.numbers, 4 * self.intervals)
        if not bool(other.any()):
            return finished
        kept = [part.pick(~torch.isin(part.numbers, group.numbers[other])) for part in finished]
        return kept + self._settle(record, several.continued.pick(other))

    def _settle(self, record: SolveRecord, group: Group) -> list[Finished]:
        """Solve from paths that are near enough, by the finer scores where a tolerance is asked for."""
        finer = group.field.finer() if self.tolerance is not None else None
        return self._refinement(record).settle(group if finer is None else group.with_finer_scores(finer, record))

    def _refinement(self, record: SolveRecord) -> Refinement:
        return Refinement(record=record, tolerance=self._tolerance, finest=max(FINEST, 4 * self.intervals))

    def _rules(self, group: Group, *, left: int, fresh: bool) -> Rules:
        """The rules of a stage that so many others follow; `fresh` where no other was before."""
        fall = FRESH_FALL if fresh else FALL
        return Rules(
            target=group.grid.geometry.strength,
            tolerance=self._tolerance * (AT_KNOTS if self.refine else 1.0),
            budget_share=COARSE_SHARE**left,
            memory=self.memory,
            trust=self.trust,
            patience=self.patience,
            fall=fall if left else 0.0,
            iterations=BEFORE_NEWTON if not left and self._newtons(group.grid) else ITERATIONS[left],
            failures=MOST_FAILURES if group.field.finer() is None else 1,
        )


def _solved(status: Sequence[Status]) -> Bool[Tensor, " a"]:
    return torch.tensor([how in (Status.CONVERGED, Status.RESOLVED) for how in status])


def _path(grid: Collocation, finished: Sequence[Finished]) -> KnotPath:
    """All paths, on the finest grid that any of them needs: a spline on a coarser one is one on it as well.

    Pairs that are not among those that ended keep their shortest paths.
    """
    finest = max([grid.intervals, *(part.offsets.shape[1] + 1 for part in finished)])
    while grid.intervals < finest:
        grid = grid.double()
    offsets = grid.start()
    for part in finished:
        offsets[part.numbers.to(offsets.device)] = grid.refine(part.offsets)
    return grid.path(offsets)
