r"""A look at paths between their knots, where no equation was solved: how far each is from a geodesic there.

The midpoints of a grid are knots of the one with twice the intervals, so that nothing that is looked at is lost where
that grid is needed. A grid of many intervals is looked at on some of its midpoints, evenly spread; the scores at the
others, which are not evaluated, are those of the spline through all that are.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.fields import ScoreField
from latent_geodesics.core.solvers.collocation import Collocation
from latent_geodesics.core.solvers.newton import Place, look
from latent_geodesics.core.solvers.second_variation import Past, Sighting, second_variation

__all__ = ["Between", "completed", "excess", "look_between"]

SAMPLES = 16
MARGIN = 2.0
ROUNDINGS = 100.0


@dataclass(frozen=True, kw_only=True)
class Between:
    """What a look between the knots has found.

    Attributes:
        grid: that of twice the intervals.
        place: the paths on it.
        looked: which of its interior knots are midpoints that were evaluated; the same for all pairs.
        relative: the mean residual there, as a share of the pull.
        finite: whether the score was finite there.
        cost: evaluations a pair.
    """

    grid: Collocation
    place: Place
    looked: Bool[Tensor, " n"]
    relative: Float[Tensor, " a"]
    finite: Bool[Tensor, " a"]
    cost: int

    @property
    def missing(self) -> Bool[Tensor, " n"]:
        """Which of the knots are midpoints that were not evaluated."""
        every = torch.arange(len(self.looked)) % 2 == 0
        return every & ~self.looked

    def restrict(self, rows: Int[Tensor, " b"]) -> "Between":
        """That of some pairs."""
        return Between(
            grid=self.grid.restrict(rows),
            place=self.place.restrict(rows),
            looked=self.looked,
            relative=self.relative[rows],
            finite=self.finite[rows],
            cost=self.cost,
        )


def samples(intervals: int) -> Bool[Tensor, " n"]:
    """Which interior knots of the grid of twice the intervals are looked at: at most some midpoints."""
    midpoints = torch.arange(0, 2 * intervals - 1, 2)
    chosen = torch.zeros(2 * intervals - 1, dtype=torch.bool)
    count = min(intervals, SAMPLES)
    chosen[midpoints[((torch.arange(count) + 0.5) * intervals / count).long()]] = True
    return chosen


def look_between(
    grid: Collocation,
    field: ScoreField,
    here: Sighting,
    end_scores: Float[Tensor, "a 2 d"],
    strength: Float[Tensor, " a"],
) -> Between:
    """Evaluate the score at midpoints between the knots of paths.

    Args:
        grid: the grid of the paths.
        field: the score, as the given pairs see it.
        here: the knots of the paths, and the scores there.
        end_scores: the score at both ends of each pair.
        strength: that of the geometry for each pair.
    """
    fine, looked = grid.double(), samples(grid.intervals)
    offsets = fine.refine(here.offsets)
    found = fine.scores_at(field, offsets, looked)
    finite = torch.isfinite(found).flatten(1).all(1)
    known = torch.ones(len(looked), dtype=torch.bool)
    known[::2] = looked[::2]
    score = torch.zeros_like(offsets)
    score[:, 1::2], score[:, looked.to(score.device)] = here.score, found.nan_to_num(0.0, 0.0, 0.0)
    place = look(fine, offsets, fine.interpolated(score, end_scores, known), end_scores, strength)
    where = looked.to(score.device)
    residual = (place.seen.residuals(strength)[:, where].mean(-1) - place.seen.rounding).clamp(min=0)
    relative = residual / place.seen.scale(strength).clamp(min=torch.finfo(residual.dtype).tiny)
    return Between(grid=fine, place=place, looked=looked, relative=relative, finite=finite, cost=int(looked.sum()))


def completed(
    between: Between, field: ScoreField, end_scores: Float[Tensor, "a 2 d"], strength: Float[Tensor, " a"]
) -> Place:
    """The paths on the finer grid, with the score at every knot; costs what the look left out."""
    missing = between.missing
    if not bool(missing.any()):
        return between.place
    here = between.place.here
    score = here.score.clone()
    score[:, missing.to(score.device)] = between.grid.scores_at(field, here.offsets, missing)
    return look(between.grid, here.offsets, score, end_scores, strength)


def excess(
    between: Between, past: Past, end_scores: Float[Tensor, "a 2 d"], strength: Float[Tensor, " a"]
) -> tuple[Float[Tensor, " a"], Float[Tensor, " a"], Float[Tensor, "a n d"]]:
    """By which share of itself each path may be longer than the geodesic, and the least second variation with its mode.

    To second order a path exceeds the geodesic by half of what a Newton step would gain to first order.
    """
    grid, place = between.grid, between.place
    found = second_variation(grid, place.seen, place.here, past, strength, end_scores)
    gain = grid.gain(place.seen, strength, found.step).abs() / 2
    rounding = ROUNDINGS * torch.finfo(gain.dtype).eps
    return MARGIN * gain + rounding, found.least, found.mode
