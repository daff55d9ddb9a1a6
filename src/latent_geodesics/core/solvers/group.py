"""Some pairs on one grid: where they are, as the score there shows it, and where they were before."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.fields import Resolution, ScoreField
from latent_geodesics.core.manifold import norm
from latent_geodesics.core.path import KnotPath
from latent_geodesics.core.records import Batched, Status
from latent_geodesics.core.solvers.collocation import Collocation, Linearisation
from latent_geodesics.core.solvers.solve_record import SolveRecord

POINTS = 8


@dataclass(frozen=True, kw_only=True)
class Place(Batched):
    """Where pairs are, as the score shows it.

    Attributes:
        offsets: of the interior knots.
        score: the score there, in 1/[x]; zero where it is not finite, and of the coarser grid on the way to a finer.
        seen: the path seen through it.
        level: the logarithm of the length.
        relative: the residual as a share of the pull.
        finite: whether the score is finite.
    """

    offsets: Float[Tensor, "a n d"]
    score: Float[Tensor, "a m d"]
    seen: Linearisation
    level: Float[Tensor, " a"]
    relative: Float[Tensor, " a"]
    finite: Bool[Tensor, " a"]


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
        offsets=offsets,
        score=score,
        seen=seen,
        level=grid.log_length(seen, strength),
        relative=seen.relative_residual(strength),
        finite=finite,
    )


@dataclass(frozen=True, kw_only=True)
class History(Batched):
    """Earlier iterates, the newest last; one that stands in for none is the present place and says nothing.

    Attributes:
        offsets: of the interior knots.
        score: the score there, in 1/[x].
    """

    axis: ClassVar[int] = 1

    offsets: Float[Tensor, "m a n d"]
    score: Float[Tensor, "m a n d"]

    @staticmethod
    def none(place: Place, size: int) -> "History":
        """No iterates yet."""
        return History(
            offsets=place.offsets.expand(size, *place.offsets.shape).clone(),
            score=place.score.expand(size, *place.score.shape).clone(),
        )

    def followed(self, place: Place) -> "History":
        """With another iterate in place of the oldest."""
        return History(
            offsets=torch.cat([self.offsets[1:], place.offsets[None]]),
            score=torch.cat([self.score[1:], place.score[None]]),
        )

    def refine(self, grid: Collocation, coarse: Place, here: Place) -> "History":
        """The same on a finer grid, or with another score; what changed is interpolated, since it vanishes at the ends.

        Args:
            grid: the finer grid.
            coarse: the present place on the coarser one.
            here: the same on the finer one.
        """
        return History(
            offsets=here.offsets + grid.refine(self.offsets - coarse.offsets),
            score=here.score + grid.refine(self.score - coarse.score),
        )


@dataclass(frozen=True, kw_only=True)
class Group(Batched):
    """Some pairs on one grid.

    Attributes:
        numbers: which of the problem's pairs these are, on the CPU.
        grid: their grid.
        field: the score, as they see it.
        end_scores: the score at both ends.
        strength: that of the geometry for each pair; NaN where it is to be chosen.
        place: where they are.
        past: their earlier iterates on this grid.
        start: the logarithm of the length of the path that they began at, as a grid like theirs shows it.
        resolution: how well the scores are resolved; None for full precision.
    """

    numbers: Int[Tensor, " a"]
    grid: Collocation
    field: ScoreField
    end_scores: Float[Tensor, "a 2 d"]
    strength: Float[Tensor, " a"]
    place: Place
    past: History
    start: Float[Tensor, " a"]
    resolution: Resolution | None = None

    @staticmethod
    def begin(
        grid: Collocation,
        field: ScoreField,
        numbers: Int[Tensor, " a"],
        *,
        end_scores: Float[Tensor, "a 2 d"],
        record: SolveRecord,
        resolution: Resolution | None,
        memory: int = 0,
        offsets: Float[Tensor, "a n d"] | None = None,
    ) -> "Group":
        """Pairs at given paths, or their shortest ones, with room for so many iterates; costs an evaluation a knot."""
        strength = torch.full_like(grid.span, grid.geometry.strength)
        offsets = grid.start() if offsets is None else offsets
        place = look(grid, offsets, grid.scores(field, offsets), end_scores, strength)
        record.spend(numbers, grid.intervals - 1)
        return Group(
            numbers=numbers,
            grid=grid,
            field=field,
            end_scores=end_scores,
            strength=strength,
            place=place,
            past=History.none(place, memory),
            start=place.level,
            resolution=resolution,
        )

    def where(self, mask: Bool[Tensor, " a"], other: "Group") -> "Group":
        """The places of this one for the pairs of a mask, those of the other for the rest."""
        return replace(self, place=self.place.where(mask, other.place), past=self.past.where(mask, other.past))

    def put(self, rows: Int[Tensor, " b"], part: "Group") -> "Group":
        """With the pairs of some rows where they are in another group."""
        return replace(self, place=self.place.put(rows, part.place), past=self.past.put(rows, part.past))

    @property
    def full(self) -> Float[Tensor, " a"]:
        """The geometry's own strength."""
        return torch.full_like(self.strength, self.grid.geometry.strength)

    def strengths(self, record: SolveRecord) -> Float[Tensor, " a"]:
        """Those of the problems, as pairs at their shortest paths show them (`search`); on the CPU, and recorded."""
        found = (self.place.seen.scale(self.strength) * self.grid.span).cpu().double()
        record.strength[self.numbers] = found.to(record.strength)
        return found

    def evaluate(self, offsets: Float[Tensor, "a n d"], record: SolveRecord) -> Place:
        """What the score says of other paths on the grid; costs an evaluation a knot."""
        score = self.grid.scores(self.field, offsets)
        record.spend(self.numbers, self.grid.intervals - 1)
        return look(self.grid, offsets, score, self.end_scores, self.strength)

    def at(self, strength: Float[Tensor, " a"]) -> "Group":
        """The same paths at another strength, which costs nothing."""
        place = look(self.grid, self.place.offsets, self.place.score, self.end_scores, strength)
        return replace(self, strength=strength, place=replace(place, finite=self.place.finite))

    def moved(self, place: Place) -> "Group":
        """The pairs somewhere else, with no iterates before."""
        return replace(self, place=place, past=History.none(place, len(self.past.offsets)))

    def with_finer_scores(self, field: ScoreField, record: SolveRecord) -> "Group":
        """The same paths as a field of a higher precision sees them; costs an evaluation a knot."""
        finer = replace(self, field=field, resolution=self.grid.end_resolution(field))
        place = finer.evaluate(self.place.offsets, record)
        return replace(finer, place=place, past=self.past.refine(self.grid, self.place, place))

    def refined(self, record: SolveRecord) -> "Group":
        """The same paths on twice the intervals; costs an evaluation a midpoint."""
        grid = self.grid.double()
        offsets = grid.refine(self.place.offsets)
        known = torch.where(self.place.finite[:, None, None], self.place.score, torch.nan)
        score = grid.scores(self.field, offsets, known)
        record.spend(self.numbers, self.grid.intervals)
        place = look(grid, offsets, score, self.end_scores, self.strength)
        return replace(self, grid=grid, place=place, past=self.past.refine(grid, self.place, place))

    def floor(self) -> Float[Tensor, " a"]:
        """The relative residual that the rounding of the scores leaves; zero where they have full precision."""
        return rounding_floor(self.resolution, self.place.seen)

    def __len__(self) -> int:
        return len(self.numbers)


def rounding_floor(resolution: Resolution | None, seen: Linearisation) -> Float[Tensor, " a"]:
    """The relative residual that the rounding of the scores leaves; zero where they have full precision."""
    if resolution is None:
        return torch.zeros_like(seen.speed[:, 0])
    return resolution.floor(seen.size.mean(-1), seen.strength.mean(-1))


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Pairs that have ended.

    Attributes:
        numbers: which of the problem's pairs these are, on the CPU.
        offsets: their paths, at the interior knots of some grid.
        status: how each ended.
    """

    numbers: Int[Tensor, " a"]
    offsets: Float[Tensor, "a n d"]
    status: list[Status]

    def pick(self, mask: Bool[Tensor, " a"]) -> "Finished":
        """Those of a mask on the CPU."""
        status = [how for how, chosen in zip(self.status, mask.tolist(), strict=True) if chosen]
        return Finished(numbers=self.numbers[mask], offsets=self.offsets[mask.to(self.offsets.device)], status=status)


def by_status(group: Group, status: list[Status], among: Bool[Tensor, " a"]) -> list[tuple[Status, Group]]:
    """The pairs of a mask, a group for each way in which they ended."""
    masks = {how: torch.tensor([one is how for one in status]) & among for how in dict.fromkeys(status)}
    return [(how, group.pick(mask)) for how, mask in masks.items() if bool(mask.any())]


def equal_speed(grid: Collocation, offsets: Float[Tensor, "a n d"]) -> Float[Tensor, "a n d"]:
    """The offsets of knots that lie on the same curves at equal distances along them, at no evaluation.

    By the arc length at eight points an interval, between which the curve is a cubic.

    Args:
        grid: the grid of the knots.
        offsets: those of the interior knots.
    """
    # In float64: the second derivative of offsets that are rounded as coarsely as points are would be rounding.
    base = grid.base.double()
    padded = torch.nn.functional.pad(offsets.double(), (0, 0, 1, 1))
    path = KnotPath(base=base, offsets=padded, manifold=grid.manifold, nodes=grid.nodes)
    u = torch.linspace(0, 1, POINTS * grid.intervals + 1, dtype=torch.float64)
    width = float(u[1])
    points, velocities = path.point(u), path.velocity(u)
    speed = norm(velocities)
    gone = torch.nn.functional.pad((width * (speed[:, 1:] + speed[:, :-1]) / 2).cumsum(1), (1, 0))
    wanted = gone[:, -1:] * grid.nodes[1:-1].to(gone)
    cell = (torch.searchsorted(gone, wanted, right=True) - 1).clamp(0, len(u) - 2)
    first, last = _at(speed, cell), _at(speed, cell + 1)
    way = (wanted - _at(gone, cell)) / width
    # The speed is linear within a cell, so that the place in it solves a quadratic equation.
    root = (first.square() + 2 * (last - first) * way).clamp(min=0).sqrt()
    t = (2 * way / (first + root).clamp(min=torch.finfo(speed.dtype).tiny)).clamp(0, 1)[..., None]
    start, end = _at(points, cell), _at(points, cell + 1)
    leave, arrive = width * _at(velocities, cell), width * _at(velocities, cell + 1)
    moved = start + t * t * (3 - 2 * t) * (end - start) + t * (1 - t) * ((1 - t) * leave - t * arrive)
    return (grid.manifold.project(moved) - base.point(grid.nodes[1:-1])).to(offsets)


def _at(values: Float[Tensor, "a m *d"], index: Int[Tensor, "a n"]) -> Float[Tensor, "a n *d"]:
    """The values of each pair at its own places."""
    return values[torch.arange(len(values), device=values.device)[:, None], index]
