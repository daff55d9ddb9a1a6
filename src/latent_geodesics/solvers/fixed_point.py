r"""The iteration of the default boundary solver at one resolution, for all pairs that are still open."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.fields import ScoreField
from latent_geodesics.geometry import norm
from latent_geodesics.records import Status
from latent_geodesics.solvers.collocation import Collocation, Linearisation
from latent_geodesics.solvers.ledger import Ledger
from latent_geodesics.solvers.mixing import Memory

__all__ = ["FixedPoint", "Rules", "Trail"]

MOST_FAILURES = 10
PROGRESS = 0.9
NOISE = 1e-2
LARGEST_EXPONENT = 30.0


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When an iteration goes on, slows down and stops.

    Attributes:
        target: the alpha of the problem.
        tolerance: the relative residual at which a pair is done, once its alpha is the target.
        loose: the relative residual at which alpha grows while it is below the target.
        growth: the factor by which it grows.
        budget_share: the share of the budget that may be spent.
        memory: how many iterates are mixed.
        trust: the largest move of a knot in a step, as a share of the distance of the ends.
        patience: iterations without progress after which the step along what the memory cannot explain is halved.
        halvings: how often it is halved before the pair is given up.
        fall: a pair is also done when its relative residual has fallen to this share of the first one, where that is
            the error of a coarser grid and the next will find one of its own; 0 for the tolerance alone.
        iterations: after how many a pair is given up; no limit if not given.
    """

    target: float
    tolerance: float
    loose: float
    growth: float
    budget_share: float
    memory: int
    trust: float
    patience: int
    halvings: int
    fall: float = 0.0
    iterations: int | None = None


@dataclass(frozen=True)
class Trail:
    """What an iteration leaves behind for one on twice the intervals.

    Attributes:
        memory: the last iterates of each pair.
        scores: the score at the interior knots of each pair's best iterate; NaN for a pair that has none.
    """

    memory: Memory
    scores: Float[Tensor, "a n d"]

    def restrict(self, pairs: Int[Tensor, " b"]) -> "Trail":
        """That of the pairs `pairs` alone."""
        return Trail(memory=self.memory.restrict(pairs), scores=self.scores[pairs])


@dataclass
class _Work:
    """The state of the pairs in work, one entry a pair; `rows` says which of the given pairs they are."""

    rows: Int[Tensor, " a"]
    end_scores: Float[Tensor, "a 2 d"]
    offsets: Float[Tensor, "a n d"]
    alpha: Float[Tensor, " a"]
    trust: Float[Tensor, " a"]
    factor: Float[Tensor, " a"]
    moved: Float[Tensor, " a"]
    best: Float[Tensor, " a"]
    bar: Float[Tensor, " a"]
    idle: Int[Tensor, " a"]
    failures: Int[Tensor, " a"]
    halvings: Int[Tensor, " a"]

    def restrict(self, index: Int[Tensor, " m"]) -> "_Work":
        return _Work(**{entry.name: getattr(self, entry.name)[index] for entry in fields(self)})


class FixedPoint:
    """Iterates the knots of some pairs on one grid until each has settled, run out of budget or been given up.

    After `run`, `offsets` and `alpha` hold where each pair got to: the iterate of least residual. What a coarser grid
    has learned is not lost: the path passes through its knots, so that the score is known at every second one, and its
    iterates, carried over, tell how the score changes with the path.

    Args:
        grid: the equation on the grid, for the given pairs.
        field: the score, as the given pairs see it.
        ledger: the books over all pairs of the problem.
        pairs: which of them these are.
        offsets: where to start.
        end_scores: the score at both ends of each pair.
        alpha: the alpha to start at; NaN where it is to be chosen after the first evaluation.
        rules: when to stop.
        past: what the iteration on the grid of half the intervals left behind; the offsets are its last.
    """

    def __init__(
        self,
        *,
        grid: Collocation,
        field: ScoreField,
        ledger: Ledger,
        pairs: Int[Tensor, " a"],
        offsets: Float[Tensor, "a n d"],
        end_scores: Float[Tensor, "a 2 d"],
        alpha: Float[Tensor, " a"],
        rules: Rules,
        past: Trail | None = None,
    ) -> None:
        self._ledger, self._rules, self._all_pairs, self._all_field = ledger, rules, pairs, field
        self.offsets, self.alpha, self._past = offsets.clone(), alpha.clone(), past
        self._scores = torch.full_like(offsets, torch.nan)
        self._left: list[tuple[Tensor, Memory]] = []
        self._iterations = 0
        self.outcome: dict[int, Status] = {}
        self._least = torch.full_like(alpha, torch.inf)
        self._grid, self._field = grid, field
        self._memory = Memory.empty(offsets)
        self._seen: Linearisation | None = None
        count = torch.zeros_like(pairs)
        self._work = _Work(
            rows=torch.arange(len(pairs), device=pairs.device),
            end_scores=end_scores,
            offsets=offsets.clone(),
            alpha=alpha.clone(),
            trust=torch.full_like(alpha, rules.trust),
            factor=torch.ones_like(alpha),
            moved=torch.full_like(alpha, torch.inf),
            best=torch.full_like(alpha, torch.inf),
            bar=torch.full_like(alpha, torch.nan),
            idle=count,
            failures=count.clone(),
            halvings=count.clone(),
        )

    @property
    def trail(self) -> Trail:
        """What the iteration leaves behind for a finer grid."""
        rows, memories = zip(*self._left, strict=True)
        return Trail(memory=Memory.join(memories).restrict(torch.cat(rows).argsort()), scores=self._scores)

    def run(self) -> None:
        """Iterate until no pair is left."""
        while len(self._work.rows):
            # The first evaluation is for the whole budget: a finer grid that followed could not afford its own.
            share = 1.0 if self._seen is None else self._rules.budget_share
            self._drop(~self._ledger.affords(self._pairs, self._cost, share), Status.BUDGET_EXHAUSTED)
            if len(self._work.rows):
                self._evaluate()
            if len(self._work.rows):
                self._continue()
                self._judge()
            if len(self._work.rows):
                self._move()

    @property
    def _pairs(self) -> Int[Tensor, " a"]:
        return self._all_pairs[self._work.rows]

    @property
    def _cost(self) -> int:
        """What the next evaluation costs a pair."""
        known = self._seen is None and self._past is not None
        return self._grid.intervals // 2 if known else self._grid.intervals - 1

    def _evaluate(self) -> None:
        """Evaluate the score at the knots; where it is not finite, go back to the last knots where it was."""
        first, cost = self._seen is None, self._cost
        known = self._past.scores[self._work.rows] if first and self._past is not None else None
        score = self._grid.scores(self._field, self._work.offsets, known)
        self._ledger.spend(self._pairs, cost)
        finite = torch.isfinite(score).flatten(1).all(1)
        if first and not bool(finite.all()):
            self._drop(~finite, Status.NON_FINITE_SCORE)
            score, finite = score[finite], finite[finite]
        if first and self._past is not None and self._rules.memory:
            self._carry_over(self._past.memory.restrict(self._work.rows), score)
        work = self._work
        seen = self._grid.linearise(work.offsets, score.nan_to_num(0.0, 0.0, 0.0), work.end_scores)
        self._seen = seen if self._seen is None else seen.where(finite, self._seen)
        self._memory = self._memory.remember(
            size=self._rules.memory,
            valid=finite,
            knots=work.offsets,
            bend=seen.bend,
            force=seen.force,
            pull=seen.pull,
            score=score,
        )
        work.offsets = self._memory.knots[-1].clone()
        work.failures = torch.where(finite, 0, work.failures + 1)
        shorter = torch.minimum(work.trust, work.moved) / 4
        work.trust = torch.where(finite, (2 * work.trust).clamp(max=self._rules.trust), shorter)

    def _carry_over(self, past: Memory, score: Float[Tensor, "a n d"]) -> None:
        """Remember the iterates of the coarser grid as this one would have seen them.

        What is between its knots is interpolated, of the score the change alone: it vanishes at both ends.
        """
        offsets, known = self._work.offsets, score[:, 1::2]
        for coarse, then, counts in zip(past.knots, past.score, past.counts, strict=True):
            knots, there = self._grid.refine(coarse), score + self._grid.refine(then - known)
            seen = self._grid.linearise(knots, there, self._work.end_scores)
            self._memory = self._memory.remember(
                size=self._rules.memory,
                valid=counts & (knots != offsets).flatten(1).any(1),
                knots=knots,
                bend=seen.bend,
                force=seen.force,
                pull=seen.pull,
                score=there,
            )

    def _continue(self) -> None:
        """Choose alpha where it is not chosen yet; raise it where the residual is small, which costs nothing."""
        work, seen, rules = self._work, self._linearisation, self._rules
        reach = norm(self._grid.solve(self._memory.force[-1:], torch.zeros_like(seen.strength))[-1]).amax(-1)
        first = rules.loose * self._grid.span / reach.clamp(min=torch.finfo(reach.dtype).tiny)
        work.alpha = torch.where(work.alpha.isnan(), first.clamp(max=rules.target), work.alpha)
        before = work.alpha
        while True:
            ready = (seen.relative_residual(work.alpha) < rules.loose) & (work.alpha < rules.target)
            if not bool(ready.any()):
                break
            work.alpha = torch.where(ready, (rules.growth * work.alpha).clamp(max=rules.target), work.alpha)
        work.best = torch.where(work.alpha > before, torch.inf, work.best)

    def _judge(self) -> None:
        """Book the iteration, keep the best knots, and drop the pairs that are done or given up."""
        work, seen, rules = self._work, self._linearisation, self._rules
        target = torch.full_like(work.alpha, rules.target)
        relative, residual = seen.relative_residual(work.alpha), seen.residual(target)
        self._keep_best(residual)
        if not self._iterations:
            work.bar = rules.fall * seen.relative_residual(target).clamp(max=1.0)
        length = self._grid.length(seen, rules.target)
        self._ledger.note(self._pairs, residual=residual, length=length, step=work.factor, alpha=work.alpha)
        progress = relative < PROGRESS * work.best
        work.best = torch.where(progress, relative, work.best)
        work.idle = torch.where(progress, 0, work.idle + 1)
        tired = work.idle >= rules.patience
        work.halvings = work.halvings + tired.long()
        work.idle = torch.where(tired, 0, work.idle)
        settled = (seen.settled(work.alpha, rules.tolerance) | (relative <= work.bar)) & (work.alpha == target)
        lost = ~settled & (work.failures >= MOST_FAILURES)
        # Close to a solution smaller steps would change nothing: what is left is the noise of the score.
        noise = tired & (work.best < NOISE)
        self._iterations += 1
        late = rules.iterations is not None and self._iterations >= rules.iterations
        stalled = ~settled & ~lost & (noise | (work.halvings > rules.halvings) | late)
        for ended, status in (
            (settled, Status.CONVERGED),
            (lost, Status.NON_FINITE_SCORE),
            (stalled, Status.STALLED),
        ):
            self.outcome.update(dict.fromkeys(work.rows[ended].tolist(), status))
        self._restrict(~(settled | lost | stalled))

    def _move(self) -> None:
        """Step every pair, no further than it is trusted to go."""
        work, seen = self._work, self._linearisation
        defects = self._memory.defects(work.alpha)
        residuals = self._grid.solve(defects, self._confinement())
        step = self._memory.anderson_step(residuals, 0.5**work.halvings)
        if self._rules.memory:
            level = seen.log_density - seen.log_density.mean(-1, keepdim=True)
            exponent = (-work.alpha[:, None] * level).clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)
            other, curved = self._memory.saddle_free_step(defects, residuals[-1], exponent.exp())
            step = torch.where(curved[:, None, None], other, step)
        size = norm(step).amax(-1) / self._grid.span
        work.factor = (work.trust / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1.0)
        work.moved = work.factor * size
        work.offsets = work.offsets + work.factor[:, None, None] * step

    def _confinement(self) -> Float[Tensor, "a n"]:
        """What the density adds to the second variation of the length at each knot."""
        velocity = self._linearisation.velocity
        confinement = self._memory.confinement(velocity) * self._work.alpha
        return confinement[:, None] * velocity.square().sum(-1)

    def _keep_best(self, residual: Float[Tensor, " a"]) -> None:
        work = self._work
        better = residual <= self._least[work.rows]
        rows = work.rows[better]
        self._least[rows], self.offsets[rows] = residual[better], work.offsets[better]
        self._scores[rows] = self._memory.score[-1][better]
        self.alpha[work.rows] = work.alpha

    @property
    def _linearisation(self) -> Linearisation:
        assert self._seen is not None
        return self._seen

    def _drop(self, ended: Bool[Tensor, " a"], status: Status) -> None:
        """End some pairs."""
        self.outcome.update(dict.fromkeys(self._work.rows[ended].tolist(), status))
        self._restrict(~ended)

    def _restrict(self, keep: Bool[Tensor, " a"]) -> None:
        """Go on with some of the pairs in work."""
        if bool(keep.all()):
            return
        left = (~keep).nonzero().flatten()
        self._left.append((self._work.rows[left], self._memory.restrict(left).stretch(self._rules.memory + 1)))
        index = keep.nonzero().flatten()
        self._work = self._work.restrict(index)
        self._grid, self._memory = self._grid.restrict(index), self._memory.restrict(index)
        self._field = self._all_field.restrict(self._work.rows)
        self._seen = None if self._seen is None else self._seen.restrict(index)
