r"""Newton steps on the length of a path, for pairs that a fixed point does not solve and for the last digits of others.

The second variation at each knot comes from the scores of the iterates themselves (`second_variation`), so that a step
costs one evaluation a knot, as a step of the fixed point does. Where the variation is not positive the step is shifted
until it descends (Levenberg and Marquardt). A step is taken where it shortens the path, or where the residual falls and
the path is not much longer; else its pair goes back and trusts a quarter of it. What the length cannot tell, since most
of it lies elsewhere on the path, the residual can.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.fields import Resolution, ScoreField
from latent_geodesics.core.records import Status
from latent_geodesics.core.solvers.collocation import Collocation, Linearisation
from latent_geodesics.core.solvers.equal_speed import equal_speed
from latent_geodesics.core.solvers.ledger import Ledger
from latent_geodesics.core.solvers.second_variation import Past, Sighting, Variation, second_variation
from latent_geodesics.core.vectors import norm, normal_to

__all__ = ["Newton", "Place", "look"]

MEMORY = 8
RADIUS = 0.3
LEAST_RADIUS = 1e-5
SAME = 1e-4
FALL, LONGER, SHARE = 0.2, 1e-2, 1e-3


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where pairs are, as the score shows it.

    Attributes:
        here: the knots, and the score there.
        seen: the path seen through it.
        level: the logarithm of the length.
        relative: the residual as a share of the pull.
        finite: whether the score is finite; where it is not, it is taken for zero.
    """

    here: Sighting
    seen: Linearisation
    level: Float[Tensor, " a"]
    relative: Float[Tensor, " a"]
    finite: Bool[Tensor, " a"]

    def restrict(self, rows: Int[Tensor, " b"]) -> "Place":
        """Those of some pairs."""
        return Place(**{entry.name: _restrict(getattr(self, entry.name), rows) for entry in fields(self)})

    def where(self, mask: Bool[Tensor, " a"], other: "Place") -> "Place":
        """This one for the pairs of the mask, the other for the rest."""
        return Place(
            here=self.here.where(mask, other.here),
            seen=self.seen.where(mask, other.seen),
            level=torch.where(mask, self.level, other.level),
            relative=torch.where(mask, self.relative, other.relative),
            finite=torch.where(mask, self.finite, other.finite),
        )


def _restrict(part: Any, rows: Int[Tensor, " b"]) -> Any:
    return part[rows] if isinstance(part, Tensor) else part.restrict(rows)


def look(
    grid: Collocation,
    offsets: Float[Tensor, "a n d"],
    score: Float[Tensor, "a n d"],
    end_scores: Float[Tensor, "a 2 d"],
    strength: Float[Tensor, " a"],
) -> Place:
    """What the scores at the knots of a path say of it, for a strength of the geometry a pair."""
    finite = torch.isfinite(score).flatten(1).all(1)
    score = score.nan_to_num(0.0, 0.0, 0.0)
    seen = grid.linearise(offsets, score, end_scores)
    return Place(
        here=Sighting(offsets=offsets, score=score),
        seen=seen,
        level=grid.log_length(seen, strength),
        relative=seen.relative_residual(strength),
        finite=finite,
    )


class Newton:
    """Iterates pairs on one grid until each is settled, has run out of budget or is given up.

    After `run`, `place` and `past` hold where each pair got to, and `outcome` how.

    Args:
        grid: the equation on the grid, for the given pairs.
        field: the score, as the given pairs see it.
        ledger: the books over all pairs of the problem.
        pairs: which of them these are, on the CPU.
        end_scores: the score at both ends of each pair.
        strength: that of the geometry for each pair.
        place: where each pair is.
        past: its earlier iterates, if any are known.
        tolerance: the relative residual at which a pair is settled, the same for all or one a pair.
        iterations: after how many a pair is given up.
        resolution: how well the scores are resolved; None for full precision.
    """

    def __init__(
        self,
        *,
        grid: Collocation,
        field: ScoreField,
        ledger: Ledger,
        pairs: Int[Tensor, " a"],
        end_scores: Float[Tensor, "a 2 d"],
        strength: Float[Tensor, " a"],
        place: Place,
        past: Past | None = None,
        tolerance: float,
        iterations: int,
        resolution: Resolution | None = None,
    ) -> None:
        self.grid, self.field, self.ledger, self.pairs = grid, field, ledger, pairs
        self.end_scores, self.strength = end_scores, strength
        self.place = place
        self.past = Past.none(place.here, MEMORY) if past is None else past
        self.outcome: list[Status | None] = [None] * len(pairs)
        self._tolerance, self._iterations, self._resolution = tolerance, iterations, resolution
        self._radius = torch.full_like(strength, RADIUS)
        self._factor = torch.ones_like(strength)

    def run(self) -> None:
        """Iterate until no pair is left."""
        cost = self.grid.intervals - 1
        for iteration in range(self._iterations + 1):
            self._judge(last=iteration == self._iterations)
            open_ = self.open()
            short = open_[~self.ledger.affords(self.pairs[open_], cost)]
            for row in short.tolist():
                self.outcome[row] = Status.BUDGET_EXHAUSTED
            open_ = self.open()
            if not len(open_):
                return
            self._step(open_)
            self.ledger.spend(self.pairs[open_], cost)

    def open(self) -> Int[Tensor, " b"]:
        """The rows that have not ended."""
        return torch.tensor([row for row, status in enumerate(self.outcome) if status is None], dtype=torch.long)

    def floor(self) -> Float[Tensor, " a"]:
        """The relative residual that the rounding of the scores leaves; zero where they have full precision."""
        if self._resolution is None:
            return torch.zeros_like(self.strength)
        seen = self.place.seen
        return self._resolution.floor(seen.size.mean(-1), seen.strength.mean(-1))

    def propose(self, open_: Int[Tensor, " b"]) -> tuple[Float[Tensor, "b n d"], Variation, Float[Tensor, " b"]]:
        """Where a step leads, what it is made of, and by how much it should shorten each path, as a share."""
        rows = open_.to(self.strength.device)
        grid, place, strength = self.grid.restrict(rows), self.place.restrict(rows), self.strength[rows]
        found = second_variation(
            grid, place.seen, place.here, self.past.restrict(rows), strength, self.end_scores[rows]
        )
        size = norm(found.step).amax(-1) / grid.span
        factor = (self._radius[rows] / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1.0)
        self._factor[rows] = factor
        step = factor[:, None, None] * found.step
        offsets = place.here.offsets + step
        if grid.geometry.constant_speed:
            offsets = equal_speed(grid, offsets)
        return offsets, found, grid.gain(place.seen, strength, step)

    def _step(self, open_: Int[Tensor, " b"]) -> None:
        """One evaluation, and the choice between the old knots and the new ones."""
        rows = open_.to(self.strength.device)
        offsets, _, gain = self.propose(open_)
        grid, before = self.grid.restrict(rows), self.place.restrict(rows)
        field, ends, strength = self.field.restrict(open_), self.end_scores[rows], self.strength[rows]
        after = look(grid, offsets, grid.scores(field, offsets), ends, strength)
        way = normal_to(before.seen.velocity, offsets - before.here.offsets)
        pushes = [(way * place.seen.defect(strength)).sum((1, 2)) for place in (before, after)]
        falls = (pushes[0] > 0) & (pushes[0] + pushes[1] > 0) & (after.level < before.level + SAME)
        taken = after.finite & (
            falls
            | (after.level < before.level - SHARE * gain.clamp(0, 0.1))
            | (
                (after.relative < (1 - FALL * self._factor[rows]) * before.relative)
                & (after.level < before.level + LONGER)
            )
        )
        # What is left behind is remembered, and what is not taken.
        left = before.here.where(taken | ~after.finite, after.here)
        moved = norm(offsets - before.here.offsets).amax(-1) / grid.span
        radius = torch.where(taken, (2 * self._radius[rows]).clamp(max=RADIUS), moved.minimum(self._radius[rows]) / 3)
        self._radius[rows] = radius
        self.place = _put(self.place, rows, after.where(taken, before))
        self.past = _remember(self.past, rows, left)

    def _judge(self, *, last: bool) -> None:
        """End the pairs that are done or given up; one read from the device."""
        place, full = self.place, torch.full_like(self.strength, self.grid.geometry.strength)
        table = torch.stack(
            [
                place.relative.double(),
                self.floor().double(),
                place.seen.settled(self.strength, self._tolerance).double(),
                place.finite.double(),
                self._radius.double(),
                place.seen.residual(full).double(),
                place.level.exp(),
                self._factor.double(),
                self.strength.double(),
            ]
        ).cpu()
        relative, floor, settled, finite, radius, residual, length, factor, strength = table
        for row in self.open().tolist():
            if not finite[row]:
                self.outcome[row] = Status.NON_FINITE_SCORE
            elif settled[row]:
                self.outcome[row] = Status.CONVERGED
            elif relative[row] <= floor[row]:
                self.outcome[row] = Status.RESOLVED
            elif last or radius[row] < LEAST_RADIUS:
                self.outcome[row] = Status.STALLED
        self.ledger.note(
            self.pairs,
            residual=residual,
            length=length,
            step=factor,
            alpha=strength,
            tolerance=floor.clamp(min=self._tolerance),
        )


def _put(place: Place, rows: Int[Tensor, " b"], part: Place) -> Place:
    """A place with some of its pairs moved."""
    if len(rows) == len(place.level):
        return part
    index = torch.full((len(place.level),), -1, dtype=torch.long, device=rows.device)
    index[rows] = torch.arange(len(rows), device=rows.device)
    return part.restrict(index.clamp(min=0)).where(index >= 0, place)


def _remember(past: Past, rows: Int[Tensor, " b"], left: Sighting) -> Past:
    """The iterates with one more for some of the pairs."""
    offsets, score = past.offsets.clone(), past.score.clone()
    offsets[:, rows] = torch.cat([offsets[1:, rows], left.offsets[None]])
    score[:, rows] = torch.cat([score[1:, rows], left.score[None]])
    return Past(offsets=offsets, score=score)
