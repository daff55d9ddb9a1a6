r"""An accelerated fixed point on the knots of paths, at one resolution.

All that an iteration decides follows from a few numbers a pair, which it reads from the device at once: how far each
pair has come, and the inner products that its step is chosen by. Nothing else waits for the device.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.fields import rounded_resolution
from latent_geodesics.core.manifold import norm
from latent_geodesics.core.records import Batched, Status
from latent_geodesics.core.solvers.anderson import Memory, Products, mixture
from latent_geodesics.core.solvers.collocation import Linearisation
from latent_geodesics.core.solvers.group import Group, History, look, rounding_floor
from latent_geodesics.core.solvers.solve_record import SolveRecord

PROGRESS = 0.9
NOISE = 1e-2
LARGEST_EXPONENT = 30.0
DOUBLINGS = 24
SAME = 1e-3
MOST_FAILURES = 10


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When an iteration goes on, slows down and stops.

    Attributes:
        target: the alpha of the problem, or another geometry's strength.
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
        failures: how many iterates in a row may have a score that is not finite.
    """

    target: float
    tolerance: float
    loose: float = 0.3
    growth: float = 2.0
    budget_share: float = 1.0
    memory: int = 6
    trust: float = 0.1
    patience: int = 10
    halvings: int = 4
    fall: float = 0.0
    iterations: int | None = None
    failures: int = MOST_FAILURES


@dataclass(kw_only=True)
class _Work(Batched):
    """The state of the pairs in work, a row a pair; all but `rows`, which says which they are, on their device."""

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
    shortest: Float[Tensor, " a"]
    best_offsets: Float[Tensor, "a n d"]
    best_scores: Float[Tensor, "a n d"]


@dataclass(frozen=True, kw_only=True)
class _Reached(Batched):
    """Where pairs got to."""

    alpha: Float[Tensor, " a"]
    offsets: Float[Tensor, "a n d"]
    scores: Float[Tensor, "a n d"]
    past: History


class FixedPoint:
    """Iterates the knots of some pairs on one grid until each has settled, run out of budget or been given up.

    A pair ends at the shortest of its iterates whose residuals are sane, or at the one of least residual among those
    that are about as short. What a coarser grid has learned is not lost: its iterates, carried over, tell how the score
    changes with the path.

    Args:
        group: the pairs, their strength being NaN where it is to be chosen by the first score.
        record: what all pairs of the problem have cost, and how they ended.
        rules: when to stop.
    """

    def __init__(self, group: Group, record: SolveRecord, rules: Rules) -> None:
        self._record, self._rules, self._group = record, rules, group
        self._iterations = 0
        self._arrived = False  # whether alpha is the target for all that go on
        self._outcome: dict[int, Status] = {}
        self._grid, self._field = group.grid, group.field
        place, alpha = group.place, group.strength.clone()
        declared = group.resolution
        self._declared = declared is not None
        self._resolution = declared if self._declared else rounded_resolution(place.score)
        self._memory = self._carried_over()
        self._seen = place.seen
        count, infinite = torch.zeros_like(alpha, dtype=torch.long), torch.full_like(alpha, torch.inf)
        self._work = _Work(
            rows=torch.arange(len(group)),
            end_scores=group.end_scores,
            offsets=place.offsets,
            alpha=alpha,
            trust=torch.full_like(alpha, rules.trust),
            factor=torch.ones_like(alpha),
            moved=infinite,
            best=infinite,
            bar=torch.full_like(alpha, torch.nan),
            idle=count,
            # Without a first iterate there is nothing to go back to.
            failures=torch.where(place.finite, 0, rules.failures),
            halvings=count,
            least=infinite,
            shortest=infinite.double(),
            best_offsets=place.offsets,
            best_scores=torch.where(place.finite[:, None, None], place.score, torch.nan),
        )
        self._reached = _Reached(
            alpha=alpha,
            offsets=place.offsets,
            scores=self._work.best_scores,
            past=History.none(place, rules.memory + 1),
        )

    def run(self) -> tuple[Group, list[Status]]:
        """Iterate until no pair is left; where each pair got to, and how it ended."""
        self._iterate()
        while len(self._work.rows):
            cost = self._grid.intervals - 1
            affords = self._record.affords(self._numbers, cost, self._rules.budget_share)
            self._end(~affords, Status.BUDGET_EXHAUSTED)
            if len(self._work.rows):
                self._evaluate()
                self._record.spend(self._numbers, cost)
                self._iterate()
        group, reached = self._group, self._reached
        place = look(group.grid, reached.offsets, reached.scores, group.end_scores, reached.alpha)
        found = replace(group, strength=reached.alpha, place=place, past=reached.past)
        return found, [self._outcome[row] for row in range(len(group))]

    @property
    def _numbers(self) -> Int[Tensor, " a"]:
        return self._group.numbers[self._work.rows]

    def _iterate(self) -> None:
        """One read of what the last evaluation says, and one step of every pair that goes on."""
        work, rules = self._work, self._rules
        if not self._arrived:
            self._continue()
        said = self._judge()
        defects = self._memory.defects(self._grid.geometry, work.alpha)
        residuals = self._grid.solve(defects, self._confinement(), self._lift(), self._spring())
        products = self._memory.products(residuals, defects, self._weight())
        said, found = _read(said, products, work.halvings)
        self._arrived = bool((said["arrived"] > 0).all())
        self._record.note(self._numbers, **{name: said[name] for name in _KEPT})
        # Which weights a step has does not depend on whether its pair goes on, so that all may be chosen here.
        chosen = mixture(
            found,
            damping=0.5 ** said["halvings"],
            rounding=torch.finfo(work.alpha.dtype).eps,
            saddles=rules.memory > 0 and self._grid.geometry.conformal,
        )
        self._move(self._memory.step(residuals, chosen))
        for name, status in _ENDINGS.items():
            self._outcome.update(dict.fromkeys(work.rows[said[name] > 0].tolist(), status))
        self._restrict(torch.stack([said[name] for name in _ENDINGS]).sum(0) == 0)

    def _evaluate(self) -> None:
        """Evaluate the score at the knots; where it is not finite, go back to the last knots where it was."""
        work = self._work
        score = self._grid.scores(self._field, work.offsets)
        finite = torch.isfinite(score).flatten(1).all(1)
        score = score.nan_to_num(0.0, 0.0, 0.0)
        seen = self._grid.linearise(work.offsets, score, work.end_scores)
        self._memory = self._remembered(self._memory, work.offsets, score, seen, finite)
        self._seen = seen.where(finite, self._seen)
        work.offsets = self._memory.knots[-1].clone()
        work.failures = torch.where(finite, 0, work.failures + 1)
        shorter = torch.minimum(work.trust, work.moved) / 4
        work.trust = torch.where(finite, (2 * work.trust).clamp(max=self._rules.trust), shorter)

    def _carried_over(self) -> Memory:
        """The memory of the iterates before, which may be a coarser grid's, and of the present one."""
        group, place = self._group, self._group.place
        memory = Memory.empty(place.offsets)
        if self._rules.memory:
            for offsets, score in zip(group.past.offsets, group.past.score, strict=True):
                seen = group.grid.linearise(offsets, score, group.end_scores)
                new = (offsets != place.offsets).flatten(1).any(1)
                memory = self._remembered(memory, offsets, score, seen, new)
        return self._remembered(memory, place.offsets, place.score, place.seen, place.finite)

    def _remembered(
        self,
        memory: Memory,
        offsets: Float[Tensor, "a n d"],
        score: Float[Tensor, "a n d"],
        seen: Linearisation,
        valid: Bool[Tensor, " a"],
    ) -> Memory:
        parts = {"bend": seen.bend, "force": seen.force, "gauge": seen.gauge, "pull": seen.pull}
        return memory.remember(size=self._rules.memory, valid=valid, knots=offsets, score=score, **parts)

    def _continue(self) -> None:
        """Choose alpha where it is not chosen yet; raise it where the residual is small, which costs nothing."""
        work, seen, rules = self._work, self._seen, self._rules
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
        work, seen, rules = self._work, self._seen, self._rules
        target = torch.full_like(work.alpha, rules.target)
        relative, residual = seen.relative_residual(work.alpha), seen.residual(target)
        at_target, level = seen.relative_residual(target), self._grid.log_length(seen, target)
        if not self._iterations:
            work.bar = rules.fall * at_target.clamp(max=1.0)
        progress = relative < PROGRESS * work.best
        work.best = torch.where(progress, relative, work.best)
        work.idle = torch.where(progress, 0, work.idle + 1)
        tired = work.idle >= rules.patience
        work.halvings = work.halvings + tired.long()
        work.idle = torch.where(tired, 0, work.idle)
        there = work.alpha == target
        lost = work.failures >= rules.failures
        settled = (seen.settled(work.alpha, rules.tolerance) | (relative <= work.bar)) & there & ~lost
        floor = rounding_floor(self._resolution, seen)
        resolved = ~settled & ~lost & there & (relative <= floor)
        if not self._declared:
            # Scores that only seem to be rounded have to show it: a residual that still falls below it is sound.
            resolved = resolved & ~progress
            floor = torch.where(resolved, floor, 0.0)
        # Close to a solution smaller steps would change nothing: what is left is the noise of the score.
        noise = tired & (work.best < NOISE)
        self._keep_best(at_target, level, settled | resolved)
        self._iterations += 1
        late = rules.iterations is not None and self._iterations >= rules.iterations
        stalled = ~settled & ~resolved & ~lost & (noise | (work.halvings > rules.halvings) | late)
        return {
            "residual": residual,
            "length": level.exp(),
            "step": work.factor,
            "alpha": work.alpha,
            "tolerance": floor.clamp(min=rules.tolerance),
            "arrived": there,
            "settled": settled,
            "resolved": resolved,
            "lost": lost,
            "stalled": stalled,
        }

    def _move(self, step: Float[Tensor, "a n d"]) -> None:
        """Step every pair, no further than it is trusted to go."""
        work = self._work
        size = norm(step).amax(-1) / self._grid.span
        work.factor = (work.trust / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1.0)
        work.moved = work.factor * size
        work.offsets = work.offsets + work.factor[:, None, None] * step

    def _weight(self) -> Float[Tensor, "a k"]:
        """The factor on Euclidean lengths, `p~^-alpha` say, at all knots, relative to its mean along the path."""
        stretch = self._grid.geometry.stretch(self._work.alpha[:, None], self._seen.log_density)
        return stretch.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()

    def _lift(self) -> Float[Tensor, "a n d"] | None:
        """In which direction the metric at each knot is longer than in all others, if in any."""
        return self._grid.geometry.lift(self._work.alpha, self._seen.pull)

    def _spring(self) -> Float[Tensor, "a n d"] | None:
        """Along what, and how strongly, the geometry holds each knot back, if it does."""
        seen = self._seen
        return self._grid.geometry.spring(self._work.alpha, seen.velocity, seen.pull, seen.log_density[:, 1:-1])

    def _confinement(self) -> Float[Tensor, "a n"]:
        """What the density adds to the second variation of the length at each knot."""
        seen = self._seen
        return (self._memory.confinement(seen.velocity) * self._work.alpha)[:, None] * seen.hold.clamp(min=0)

    def _keep_best(self, relative: Float[Tensor, " a"], level: Float[Tensor, " a"], done: Bool[Tensor, " a"]) -> None:
        """Keep the iterate that a pair ends at, should it not settle: the shortest whose residual is sane.

        Among those that are about as short the one of least residual, since few scores do not tell their lengths apart;
        and as long as none is sane, too.

        Args:
            relative: the relative residual at the full strength; sane is what the shortest path has, one at most.
            level: the logarithm of the length, likewise.
            done: which pairs are settled, and end where they are.
        """
        work, alive = self._work, self._work.failures == 0
        sane = alive & (relative <= 1 + SAME)
        shortest = torch.where(sane, torch.minimum(level, work.shortest), work.shortest)
        as_short = sane & (level <= shortest + SAME) | alive & shortest.isinf()
        better = done | sane & (level < work.shortest - SAME) | as_short & (relative <= work.least)
        work.shortest = shortest
        work.least = torch.where(better, relative, work.least)
        work.best_offsets = torch.where(better[:, None, None], work.offsets, work.best_offsets)
        work.best_scores = torch.where(better[:, None, None], self._memory.score[-1], work.best_scores)

    def _end(self, ended: Bool[Tensor, " a"], status: Status) -> None:
        """End some pairs."""
        self._outcome.update(dict.fromkeys(self._work.rows[ended].tolist(), status))
        self._restrict(~ended)

    def _restrict(self, keep: Bool[Tensor, " a"]) -> None:
        """Go on with some of the pairs in work, and leave of the others where they got to."""
        if bool(keep.all()):
            return
        left, index = ((~keep).nonzero().flatten(), keep.nonzero().flatten())
        gone, memory = self._work.restrict(left), self._memory.restrict(left)
        counts, parts = memory.counts[..., None, None], (memory.knots, memory.score)
        missing = self._rules.memory + 1 - len(counts)
        every = [
            torch.cat([best.expand(missing, *best.shape), torch.where(counts, part, best)])
            for part, best in zip(parts, (gone.best_offsets, gone.best_scores), strict=True)
        ]
        reached = _Reached(
            alpha=gone.alpha,
            offsets=gone.best_offsets,
            scores=gone.best_scores,
            past=History(offsets=every[0], score=every[1]),
        )
        self._reached = self._reached.put(gone.rows, reached)
        self._work, self._memory = self._work.restrict(index), self._memory.restrict(index)
        self._grid, self._seen = self._grid.restrict(index), self._seen.restrict(index)
        self._field = self._group.field.restrict(self._work.rows)


_KEPT = ("residual", "length", "step", "alpha", "tolerance")
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
