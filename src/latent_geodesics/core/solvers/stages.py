"""What the default boundary solver passes from grid to grid, and the paths that it ends with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.fields import Resolution, ScoreField
from latent_geodesics.core.path import KnotPath
from latent_geodesics.core.records import Status
from latent_geodesics.core.solvers.collocation import Collocation
from latent_geodesics.core.solvers.fixed_point import FixedPoint, Trail
from latent_geodesics.core.solvers.group import Finished
from latent_geodesics.core.solvers.ledger import Ledger
from latent_geodesics.core.solvers.rules import Rules
from latent_geodesics.core.solvers.second_variation import Past

__all__ = ["Pairs", "Paths", "Reached", "ended"]


class Paths:
    """The paths that pairs ended with, each on a grid of its own; until then their shortest paths.

    Args:
        grid: a grid for all pairs.
    """

    def __init__(self, grid: Collocation) -> None:
        self._grid = grid
        self._parts: list[Finished] = []

    def put(self, found: Finished) -> None:
        """Add the paths of some pairs, in place of what there is of them."""
        self._parts.append(found)

    def path(self) -> KnotPath:
        """All paths, on the finest grid that any of them needs: a spline on a coarser one is one on it as well."""
        finest = max([self._grid.intervals, *(part.intervals for part in self._parts)])
        grid = self._grid
        while grid.intervals < finest:
            grid = grid.double()
        offsets = grid.start()
        for part in self._parts:
            offsets[part.numbers.to(offsets.device)] = grid.refine(part.offsets)
        return grid.path(offsets)


def ended(grid: Collocation, pairs: "Pairs", reached: "Reached", rows: Int[Tensor, " b"], status: Status) -> Finished:
    """Pairs that end with what the fixed point has found."""
    part = reached.restrict(rows)
    return Finished(
        numbers=pairs.numbers[rows], intervals=grid.intervals, offsets=part.offsets, status=[status] * len(rows)
    )


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Some pairs on their way from grid to grid, with what they bring along.

    Attributes:
        numbers: which of the problem's, on the CPU.
        field: the score, as they see it.
        end_scores: the score at both ends.
        offsets: where they are, at the interior knots of the grid that they come from.
        alpha: the alpha in force; NaN where it is to be chosen.
        past: what the iteration on that grid left behind; None at the start.
        scores: the score at the interior knots, where the grid is theirs and it is known.
    """

    numbers: Int[Tensor, " a"]
    field: ScoreField
    end_scores: Float[Tensor, "a 2 d"]
    offsets: Float[Tensor, "a m d"]
    alpha: Float[Tensor, " a"]
    past: Trail | None = None
    scores: Float[Tensor, "a m d"] | None = None

    def restrict(self, rows: Int[Tensor, " b"]) -> "Pairs":
        """Some of them, by their places on the CPU."""
        there = rows.to(self.offsets.device)
        return Pairs(
            numbers=self.numbers[rows],
            field=self.field.restrict(rows),
            end_scores=self.end_scores[there],
            offsets=self.offsets[there],
            alpha=self.alpha[there],
            past=None if self.past is None else self.past.restrict(there),
            scores=None if self.scores is None else self.scores[there],
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
            scores=self.scores,
        )
        iteration.run()
        return iteration


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Where pairs got to on the finest of the fixed point's grids, and how each ended.

    Attributes:
        offsets: their best iterates.
        scores: the score there; NaN for a pair that has none.
        past: earlier iterates; the best one stands in for those that there are not.
        outcome: how each ended.
        finer: which were finished with scores of a higher precision, on the CPU.
    """

    offsets: Float[Tensor, "a n d"]
    scores: Float[Tensor, "a n d"]
    past: Past
    outcome: list[Status]
    finer: Bool[Tensor, " a"]

    @staticmethod
    def of(offsets: Float[Tensor, "a n d"], trail: Trail, outcome: list[Status]) -> "Reached":
        """What an iteration leaves."""
        counts = trail.memory.counts[..., None, None]
        past = Past(
            offsets=torch.where(counts, trail.memory.knots, offsets),
            score=torch.where(counts, trail.memory.score, trail.scores),
        )
        none = torch.zeros(len(outcome), dtype=torch.bool)
        return Reached(offsets=offsets, scores=trail.scores, past=past, outcome=outcome, finer=none)

    @staticmethod
    def join(parts: Sequence[tuple[Int[Tensor, " b"], "Reached"]]) -> "Reached":
        """Those of pairs with others, in the order of their rows."""
        order = torch.cat([rows for rows, _ in parts]).argsort()
        outcome = [status for _, part in parts for status in part.outcome]
        whole = Reached(
            offsets=torch.cat([part.offsets for _, part in parts]),
            scores=torch.cat([part.scores for _, part in parts]),
            past=Past(
                offsets=torch.cat([part.past.offsets for _, part in parts], 1),
                score=torch.cat([part.past.score for _, part in parts], 1),
            ),
            outcome=outcome,
            finer=torch.cat([part.finer for _, part in parts]),
        )
        return whole.restrict(order)

    def restrict(self, rows: Int[Tensor, " b"]) -> "Reached":
        """Some of them, by their places on the CPU."""
        there = rows.to(self.offsets.device)
        return Reached(
            offsets=self.offsets[there],
            scores=self.scores[there],
            past=self.past.restrict(there),
            outcome=[self.outcome[row] for row in rows.tolist()],
            finer=self.finer[rows],
        )

    def rows(self, status: Status) -> Int[Tensor, " b"]:
        """The places of the pairs that ended so."""
        return torch.tensor([row for row, found in enumerate(self.outcome) if found is status], dtype=torch.long)
