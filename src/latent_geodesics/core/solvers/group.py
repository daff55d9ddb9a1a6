"""Some pairs on one grid, between the stages of a solve."""

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.fields import Resolution, ScoreField
from latent_geodesics.core.records import Status
from latent_geodesics.core.solvers.collocation import Collocation
from latent_geodesics.core.solvers.fixed_point import FixedPoint
from latent_geodesics.core.solvers.ledger import Ledger
from latent_geodesics.core.solvers.newton import Newton, Place, look
from latent_geodesics.core.solvers.rules import Rules
from latent_geodesics.core.solvers.second_variation import Past

__all__ = ["Finished", "Group"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some pairs on one grid.

    Attributes:
        numbers: which of the problem's pairs these are, on the CPU.
        grid: their grid.
        field: the score, as they see it.
        end_scores: the score at both ends.
        strength: that of the geometry for each pair.
        place: where they are.
        past: their earlier iterates on this grid.
        resolution: how well the scores are resolved; None for full precision.
    """

    numbers: Int[Tensor, " a"]
    grid: Collocation
    field: ScoreField
    end_scores: Float[Tensor, "a 2 d"]
    strength: Float[Tensor, " a"]
    place: Place
    past: Past
    resolution: Resolution | None = None

    def restrict(self, rows: Int[Tensor, " b"]) -> "Group":
        """Some of them, by their places on the CPU."""
        there = rows.to(self.strength.device)
        return replace(
            self,
            numbers=self.numbers[rows],
            grid=self.grid.restrict(there),
            field=self.field.restrict(rows),
            end_scores=self.end_scores[there],
            strength=self.strength[there],
            place=self.place.restrict(there),
            past=self.past.restrict(there),
        )

    def pick(self, mask: Bool[Tensor, " a"]) -> "Group":
        """Those of a mask on the CPU."""
        return self.restrict(mask.nonzero().flatten())

    def settle(self, ledger: Ledger, *, tolerance: float, iterations: int) -> tuple["Group", list[Status]]:
        """Where steps on their grid lead, and how each ended: Newton's, where the geometry has a second variation."""
        if self.grid.geometry.constant_speed:
            return self.newton(ledger, tolerance=tolerance, iterations=iterations)
        run = FixedPoint(
            grid=self.grid,
            field=self.field,
            ledger=ledger,
            pairs=self.numbers,
            offsets=self.place.here.offsets,
            end_scores=self.end_scores,
            alpha=self.strength,
            rules=Rules(
                target=self.grid.geometry.strength,
                tolerance=tolerance,
                loose=1.0,
                growth=1.0,
                budget_share=1.0,
                memory=len(self.past.offsets),
                trust=0.1,
                patience=10,
                halvings=4,
            ),
            resolution=self.resolution,
            scores=self.place.here.score,
        )
        run.run()
        trail, offsets = run.trail, run.offsets
        place = look(self.grid, offsets, trail.scores, self.end_scores, self.strength)
        past = Past.none(place.here, len(self.past.offsets))
        return replace(self, place=place, past=past), [run.outcome[row] for row in range(len(self))]

    def newton(self, ledger: Ledger, *, tolerance: float, iterations: int) -> tuple["Group", list[Status]]:
        """Where Newton steps on their grid lead, and how each ended."""
        run = Newton(
            grid=self.grid,
            field=self.field,
            ledger=ledger,
            pairs=self.numbers,
            end_scores=self.end_scores,
            strength=self.strength,
            place=self.place,
            past=self.past,
            tolerance=tolerance,
            iterations=iterations,
            resolution=self.resolution,
        )
        run.run()
        ended = [status or Status.BUDGET_EXHAUSTED for status in run.outcome]
        return replace(self, place=run.place, past=run.past), ended

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Pairs that have ended.

    Attributes:
        numbers: which of the problem's pairs these are, on the CPU.
        intervals: those of their grid.
        offsets: their paths.
        status: how each ended.
    """

    numbers: Int[Tensor, " a"]
    intervals: int
    offsets: Float[Tensor, "a n d"]
    status: list[Status]
