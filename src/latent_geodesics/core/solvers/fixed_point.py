r"""The iteration of the default boundary solver at one resolution, for all pairs that are still open.

All that an iteration decides follows from a few numbers a pair, which it reads from the device at once: how far each
pair has come, and the inner products that its step is chosen by. Nothing else waits for the device.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.fields import Resolution, ScoreField, rounded_resolution
from latent_geodesics.core.geometry import norm
from latent_geodesics.core.records import Status
from latent_geodesics.core.solvers.collocation import Collocation, Linearisation
from latent_geodesics.core.solvers.ledger import Ledger
from latent_geodesics.core.solvers.mixing import Memory
from latent_geodesics.core.solvers.mixture import Products, mixture
from latent_geodesics.core.solvers.rules import Rules

__all__ = ["FixedPoint", "Trail"]

PROGRESS = 0.9
NOISE = 1e-2
LARGEST_EXPONENT = 30.0
DOUBLINGS = 24


@dataclass(frozen=True)
class Trail:
    """What an iteration leaves behind for one on a grid as fine, or on one of twice the intervals.

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
    """The state of the pairs in work, one entry a pair; all but `rows`, which says which they are, on their device."""

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
    least: Float[Tensor, " a"]
    least_offsets: Float[Tensor, "a n d"]
    least_scores: Float[Tensor, "a n d"]

    def restrict(self, index: Int[Tensor, " m"]) -> "_Work":
        """Some of the pairs, by their numbers on the CPU."""
        there = index.to(self.alpha.device)
        parts = {entry.name: getattr(self, entry.name)[there] for entry in fields(self) if entry.name != "rows"}
        return _Work(rows=self.rows[index], **parts)


class FixedPoint:
    """Iterates the knots of some pairs on one grid until each has settled, run out of budget or been given up.

    After `run`, `offsets` and `alpha` hold where each pair got to: the iterate of least residual. What a coarser grid
    has learned is not lost: the path passes through its knots, so that the score is known at every second one, and its
    iterates, carried over, tell how the score changes with the path.

    Args:
        grid: the equation on the grid, for the given pairs.
        field: the score, as the given pairs see it.
        ledger: the books over all pairs of the problem.
        pairs: which of them these are, on the CPU.
        offsets: where to start.
        end_scores: the score at both ends of each pair.
        alpha: the alpha to start at; NaN where it is to be chosen after the first evaluation.
        rules: when to stop.
        past: what an iteration left behind on the grid of half the intervals, of which the offsets are the last; or on
            this grid, with a score of another precision.
        resolution: how well the scores are resolved; None for full precision, or where the scores have to tell.
        scores: the score at the interior knots to start at, where it is known.
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
        resolution: Resolution | None = None,
        scores: Float[Tensor, "a n d"] | None = None,
    ) -> None:
        self._given = scores
        self._ledger, self._rules, self._all_pairs, self._all_field = ledger, rules, pairs, field
        self.offsets, self.alpha, self._past = offsets.clone(), alpha.clone(), past
        self._halved = past is not None and past.scores.shape[1] != offsets.shape[1]
        self._scores = torch.full_like(offsets, torch.nan)
        self._left: list[tuple[Tensor, Memory]] = []
        self._iterations = 0
        self._arrived = False  # whether alpha is the target for all that go on
        self.outcome: dict[int, Status] = {}
        self._grid, self._field = grid, field
        self._resolution, self._declared = resolution, resolution is not None
        self._memory = Memory.empty(offsets)
        self._seen: Linearisation | None = None
        count = torch.zeros_like(alpha, dtype=torch.long)
        self._work = _Work(
            rows=torch.arange(len(pairs)),
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
            least=torch.full_like(alpha, torch.inf),
            least_offsets=offsets.clone(),
            least_scores=self._scores.clone(),
        )

    @property
    def trail(self) -> Trail:
        """What the iteration leaves behind for a finer grid."""
        rows, memories = zip(*self._left, strict=True)
        order = torch.cat(rows).argsort().to(self._scores.device)
        return Trail(memory=Memory.join(memories).restrict(order), scores=self._scores)

    def run(self) -> None:
        """Iterate until no pair is left."""
        while len(self._work.rows):
            # The first evaluation is for the whole budget: a finer grid that followed could not afford its own.
            share = 1.0 if self._seen is None else self._rules.budget_share
            self._end(~self._ledger.affords(self._pairs, self._cost, share), Status.BUDGET_EXHAUSTED)
            if len(self._work.rows):
                self._iterate()

    @property
    def _pairs(self) -> Int[Tensor, " a"]:
        return self._all_pairs[self._work.rows]

    @property
    def _cost(self) -> int:
        """What the next evaluation costs a pair."""
        if self._seen is None and self._given is not None:
            return 0
        return self._grid.intervals // 2 if self._seen is None and self._halved else self._grid.intervals - 1

    def _iterate(self) -> None:
        """One evaluation, one read of what it says, and one step of every pair that goes on."""
        work, rules, cost = self._work, self._rules, self._cost
        self._evaluate()
        self._ledger.spend(self._pairs, cost)
        if not self._arrived:
            self._continue()
        said = self._judge()
        defects = self._memory.defects(self._grid.geometry, work.alpha)
        residuals = self._grid.solve(defects, self._confinement(), self._lift(), self._spring())
        products = self._memory.products(residuals, defects, self._weight())
        said, found = _read(said, products, work.halvings)
        self._arrived = bool((said["arrived"] > 0).all())
        self._ledger.note(self._pairs, **{name: said[name] for name in _BOOKED})
        # Which weights a step has does not depend on whether its pair goes on, so that all may be chosen here.
        chosen = mixture(
            found,
            damping=0.5 ** said["halvings"],
            rounding=torch.finfo(work.alpha.dtype).eps,
            saddles=rules.memory > 0 and self._grid.geometry.conformal,
        )
        self._move(self._memory.step(residuals, chosen))
        for name, status in _ENDINGS.items():
            self.outcome.update(dict.fromkeys(work.rows[said[name] > 0].tolist(), status))
        self._restrict(torch.stack([said[name] for name in _ENDINGS]).sum(0) == 0)

    def _evaluate(self) -> None:
        """Evaluate the score at the knots; where it is not finite, go back to the last knots where it was."""
        first, work = self._seen is None, self._work
        known = self._past.scores if first and self._past is not None and self._halved else None
        if first and self._given is not None:
            score = self._given
        else:
            score = self._grid.scores(self._field, work.offsets, known)
        if first and not self._declared:
            self._resolution = rounded_resolution(score)
        finite = torch.isfinite(score).flatten(1).all(1)
        plain = score.nan_to_num(0.0, 0.0, 0.0)
        if first and self._past is not None and self._rules.memory:
            self._carry_over(self._past, plain)
        seen = self._grid.linearise(work.offsets, plain, work.end_scores)
        self._seen = seen if self._seen is None else seen.where(finite, self._seen)
        self._memory = self._memory.remember(
            size=self._rules.memory,
            valid=finite,
            knots=work.offsets,
            bend=seen.bend,
            force=seen.force,
            gauge=seen.gauge,
            pull=seen.pull,
            score=score,
        )
        if not first:
            work.offsets = self._memory.knots[-1].clone()
        # Without a first iterate there is nothing to go back to.
        work.failures = torch.where(finite, 0, work.failures + (self._rules.failures if first else 1))
        shorter = torch.minimum(work.trust, work.moved) / 4
        work.trust = torch.where(finite, (2 * work.trust).clamp(max=self._rules.trust), shorter)

    def _carry_over(self, past: Trail, score: Float[Tensor, "a n d"]) -> None:
        """Remember the iterates of the coarser grid as this one would have seen them.

        What is between its knots is interpolated, of the score the change alone: it vanishes at both ends.
        """
        memory, offsets = past.memory, self._work.offsets
        for coarse, then, counts in zip(memory.knots, memory.score, memory.counts, strict=True):
            knots, there = self._grid.refine(coarse), score + self._grid.refine(then - past.scores)
            seen = self._grid.linearise(knots, there, self._work.end_scores)
            self._memory = self._memory.remember(
                size=self._rules.memory,
                valid=counts & (knots != offsets).flatten(1).any(1),
                knots=knots,
                bend=seen.bend,
                force=seen.force,
                gauge=seen.gauge,
                pull=seen.pull,
                score=there,
            )

    def _continue(self) -> None:
        """Choose alpha where it is not chosen yet; raise it where the residual is small, which costs nothing."""
        work, seen, rules = self._work, self._linearisation, self._rules
        reach = norm(self._grid.solve(self._memory.force[-1:], torch.zeros_like(seen.strength))[-1]).amax(-1)
        first = rules.loose * self._grid.span / reach.clamp(min=torch.finfo(reach.dtype).tiny)
        before = torch.where(work.alpha.isnan(), first.clamp(max=rules.target), work.alpha)
        # All that alpha may grow to, at once: it passes those at which the residual is small, up to the first that has
        # a large one.
        powers = rules.growth ** torch.arange(DOUBLINGS, dtype=before.dtype, device=before.device)
        candidates = (powers[:, None] * before).clamp(max=rules.target)
        relative = seen.relative_residual(candidates)
        passed = ((relative < rules.loose) & (candidates < rules.target)).long().cumprod(0).sum(0)
        grown = candidates.gather(0, passed.clamp(max=DOUBLINGS - 1)[None])[0]
        work.best = torch.where(grown > before, torch.inf, work.best)
        work.alpha = grown

    def _judge(self) -> dict[str, Tensor]:
        """Keep the best knots, and say how far each pair has come and whether it is done or given up."""
        work, seen, rules = self._work, self._linearisation, self._rules
        target = torch.full_like(work.alpha, rules.target)
        relative, residual = seen.relative_residual(work.alpha), seen.residual(target)
        self._keep_best(residual)
        if not self._iterations:
            work.bar = rules.fall * seen.relative_residual(target).clamp(max=1.0)
        progress = relative < PROGRESS * work.best
        work.best = torch.where(progress, relative, work.best)
        work.idle = torch.where(progress, 0, work.idle + 1)
        tired = work.idle >= rules.patience
        work.halvings = work.halvings + tired.long()
        work.idle = torch.where(tired, 0, work.idle)
        there = work.alpha == target
        lost = work.failures >= rules.failures
        settled = (seen.settled(work.alpha, rules.tolerance) | (relative <= work.bar)) & there & ~lost
        floor = self._floor(seen)
        resolved = ~settled & ~lost & there & (relative <= floor)
        if not self._declared:
            # Scores that only seem to be rounded have to show it: a residual that still falls below it is sound.
            resolved = resolved & ~progress
            floor = torch.where(resolved, floor, 0.0)
        # Close to a solution smaller steps would change nothing: what is left is the noise of the score.
        noise = tired & (work.best < NOISE)
        self._iterations += 1
        late = rules.iterations is not None and self._iterations >= rules.iterations
        stalled = ~settled & ~resolved & ~lost & (noise | (work.halvings > rules.halvings) | late)
        return {
            "residual": residual,
            "length": self._grid.length(seen, rules.target),
            "step": work.factor,
            "alpha": work.alpha,
            "tolerance": floor.clamp(min=rules.tolerance),
            "arrived": there,
            "settled": settled,
            "resolved": resolved,
            "lost": lost,
            "stalled": stalled,
        }

    def _floor(self, seen: Linearisation) -> Float[Tensor, " a"]:
        """The relative residual that the rounding of the scores leaves; zero where they have full precision."""
        if self._resolution is None:
            return torch.zeros_like(seen.speed[:, 0])
        return self._resolution.floor(seen.size.mean(-1), seen.strength.mean(-1))

    def _move(self, step: Float[Tensor, "a n d"]) -> None:
        """Step every pair, no further than it is trusted to go."""
        work = self._work
        size = norm(step).amax(-1) / self._grid.span
        work.factor = (work.trust / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1.0)
        work.moved = work.factor * size
        work.offsets = work.offsets + work.factor[:, None, None] * step

    def _weight(self) -> Float[Tensor, "a k"]:
        """The factor on Euclidean lengths, `p~^-alpha` say, at all knots, relative to its mean along the path."""
        stretch = self._grid.geometry.stretch(self._work.alpha[:, None], self._linearisation.log_density)
        return stretch.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()

    def _lift(self) -> Float[Tensor, "a n d"] | None:
        """In which direction the metric at each knot is longer than in all others, if in any."""
        return self._grid.geometry.lift(self._work.alpha, self._linearisation.pull)

    def _spring(self) -> Float[Tensor, "a n d"] | None:
        """Along what, and how strongly, the geometry holds each knot back, if it does."""
        seen = self._linearisation
        return self._grid.geometry.spring(self._work.alpha, seen.velocity, seen.pull, seen.log_density[:, 1:-1])

    def _confinement(self) -> Float[Tensor, "a n"]:
        """What the density adds to the second variation of the length at each knot."""
        seen = self._linearisation
        return (self._memory.confinement(seen.velocity) * self._work.alpha)[:, None] * seen.hold

    def _keep_best(self, residual: Float[Tensor, " a"]) -> None:
        work = self._work
        better = (residual <= work.least) & (work.failures == 0)
        work.least = torch.where(better, residual, work.least)
        work.least_offsets = torch.where(better[:, None, None], work.offsets, work.least_offsets)
        work.least_scores = torch.where(better[:, None, None], self._memory.score[-1], work.least_scores)

    @property
    def _linearisation(self) -> Linearisation:
        assert self._seen is not None
        return self._seen

    def _end(self, ended: Bool[Tensor, " a"], status: Status) -> None:
        """End some pairs."""
        self.outcome.update(dict.fromkeys(self._work.rows[ended].tolist(), status))
        self._restrict(~ended)

    def _restrict(self, keep: Bool[Tensor, " a"]) -> None:
        """Go on with some of the pairs in work, and leave of the others where they got to."""
        if bool(keep.all()):
            return
        left, index = (rows.nonzero().flatten() for rows in (~keep, keep))
        gone, rows = self._work.restrict(left), self._work.rows[left]
        there = rows.to(gone.alpha.device)
        self.offsets[there], self._scores[there] = gone.least_offsets, gone.least_scores
        self.alpha[there] = gone.alpha
        left, within = left.to(there.device), index.to(there.device)
        self._left.append((rows, self._memory.restrict(left).stretch(self._rules.memory + 1)))
        self._work = self._work.restrict(index)
        self._grid, self._memory = self._grid.restrict(within), self._memory.restrict(within)
        self._field = self._all_field.restrict(self._work.rows)
        self._past = None if self._past is None else self._past.restrict(within)
        self._given = None if self._given is None else self._given[within]
        self._seen = None if self._seen is None else self._seen.restrict(within)


_BOOKED = ("residual", "length", "step", "alpha", "tolerance")
_ENDINGS = {
    "settled": Status.CONVERGED,
    "resolved": Status.RESOLVED,
    "lost": Status.NON_FINITE_SCORE,
    "stalled": Status.STALLED,
}


def _read(
    said: dict[str, Tensor], products: Products, halvings: Int[Tensor, " a"]
) -> tuple[dict[str, Tensor], Products]:
    """What an iteration decides by, brought to the CPU by one copy, in float64."""
    numbers: dict[str, Any] = said | {"halvings": halvings} | vars(products)
    columns = [value.flatten(1) if value.ndim > 1 else value[:, None] for value in numbers.values()]
    table = torch.cat([column.double() for column in columns], 1).cpu()
    parts = torch.split(table, [column.shape[1] for column in columns], 1)
    read = {name: part.reshape(value.shape) for (name, value), part in zip(numbers.items(), parts, strict=True)}
    names = [entry.name for entry in fields(Products)]
    return read, Products(**{name: read[name].nan_to_num() for name in names})
