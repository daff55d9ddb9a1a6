r"""From paths that meet their equation at the knots to paths that meet it between them, and are minima.

A group of pairs is looked at between its knots, where no equation was solved. Where the residual is small there a pair
has converged. Elsewhere it goes on at the grid of twice the intervals, of which the midpoints that were looked at are
knots, and is looked at again. A grid of many intervals is looked at on some of its midpoints, evenly spread; the scores
at the others are those of the spline through all that are known.

Where the second variation has a negative direction the path is tried on both sides of it, and goes on from the side
that is shorter; so it is where a path has not moved at all, by symmetry it may be.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.manifold import norm, normal_to
from latent_geodesics.core.path import Spline
from latent_geodesics.core.records import Batched, Status
from latent_geodesics.core.solvers.fixed_point import FixedPoint, Rules
from latent_geodesics.core.solvers.group import Finished, Group, History, by_status, equal_speed, look
from latent_geodesics.core.solvers.newton import newton
from latent_geodesics.core.solvers.second_variation import second_variation
from latent_geodesics.core.solvers.solve_record import SolveRecord

AT_KNOTS, BETWEEN = 0.5, 0.7
SAMPLES, SHARE = 8, 4  # at how many midpoints at least, and at which share of many
MARGIN = 2.0
ROUNDINGS = 100.0
ITERATIONS = 30
NEGATIVE = -0.5
HOPELESS, MANY = 0.9, 64
KICK = 0.05
KICKS = 3
UNMOVED = 1e-3
SHORTER = 1e-7
LONGER = 1e-3


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """How far paths are refined.

    Attributes:
        record: what all pairs of the problem have cost, and how they ended.
        tolerance: the relative residual between the knots at which a pair has converged.
        finest: the most intervals of a grid.
    """

    record: SolveRecord
    tolerance: float
    finest: int

    def settle(self, group: Group, *, kicks: int = 0) -> list[Finished]:
        """Solve the equation at the knots of a grid, and go on."""
        tolerance = AT_KNOTS * self.tolerance
        if group.grid.geometry.constant_speed:
            group, status = newton(group, self.record, tolerance=tolerance, iterations=ITERATIONS)
        else:  # whose second variation is not known
            rules = Rules(
                target=group.grid.geometry.strength, tolerance=tolerance, memory=len(group.past.offsets), growth=1.0
            )
            fresh = replace(group, past=History.none(group.place, 0))
            group, status = FixedPoint(fresh, self.record, rules).run()
        # A grid that is too coarse may have no solution: what stalls close to one is refined.
        near = (group.place.relative.cpu() < 1.0).tolist()
        done = (Status.CONVERGED, Status.RESOLVED)
        go_on = torch.tensor(
            [how in done or (how is Status.STALLED and close) for how, close in zip(status, near, strict=True)]
        )
        finished = [self.ended(part, how) for how, part in by_status(group, status, ~go_on)]
        return finished + (self.finish(group.pick(go_on), kicks=kicks) if bool(go_on.any()) else [])

    def finish(self, group: Group, *, kicks: int = 0) -> list[Finished]:
        """Look between the knots of pairs that are settled at them, and go on where the look says so."""
        group, finished = self._affording(group, _samples(group.grid.intervals), Status.BUDGET_EXHAUSTED)
        if not len(group):
            return finished
        seen = _look_between(group, self.record)
        variation = second_variation(seen.fine)
        error = _excess(seen.fine, variation.step)
        table = torch.stack(
            [part.double() for part in (seen.relative, seen.fine.place.finite, seen.fine.floor(), variation.least)]
        ).cpu()
        relative, finite, floor, least = table
        # A residual that a finer grid does not make smaller is the score's own.
        hopeless = relative > HOPELESS * self.record.residual_between[group.numbers].double().nan_to_num(torch.inf)
        hopeless &= torch.tensor(group.grid.intervals > MANY)
        in_force = floor.clamp(min=self.tolerance)
        self.record.between(group.numbers, relative=relative, error=error.cpu(), tolerance=in_force)
        good = (relative <= floor.clamp(min=BETWEEN * self.tolerance)) & (finite > 0)
        straight = self._straight(seen.fine) if not kicks else torch.zeros_like(good)
        bent = good & ((least < NEGATIVE) | straight) & (kicks < KICKS)
        bent &= torch.tensor(group.grid.geometry.constant_speed)
        lost = finite == 0
        for mask, status in (
            (lost, Status.NON_FINITE_SCORE),
            (good & ~bent, Status.CONVERGED),
            (~good & ~lost & hopeless, Status.STALLED),
        ):
            if bool(mask.any()):
                finished.append(self.ended(group.pick(mask), status))
        if bool(bent.any()):
            mode = torch.where(straight.to(error.device)[:, None, None], _aside(seen.fine), variation.mode)
            finished += self._kick(group.pick(bent), mode[_places(bent).to(mode.device)][:, 1::2], kicks)
        coarse = ~good & ~lost & ~hopeless
        if bool(coarse.any()):
            finished += self._refine(group.pick(coarse), seen.pick(coarse), kicks)
        return finished

    def ended(self, group: Group, status: Status) -> Finished:
        """Pairs that end where they are; what was not solved, and is longer than the path that it began at, there."""
        how, offsets = [status] * len(group), group.place.offsets
        if status is Status.CONVERGED:
            floored = self.record.residual_between[group.numbers] > self.tolerance
            how = [Status.RESOLVED if one else status for one in floored.tolist()]
        elif status is not Status.RESOLVED:
            longer = group.place.level > group.start + LONGER
            offsets = torch.where(longer[:, None, None], group.grid.start(), offsets)
        return Finished(numbers=group.numbers, offsets=offsets, status=how)

    def _affording(self, group: Group, cost: int, status: Status) -> tuple[Group, list[Finished]]:
        """The pairs that afford so many evaluations more; the others end with the status."""
        affords = self.record.affords(group.numbers, cost)
        if bool(affords.all()):
            return group, []
        return group.pick(affords), [self.ended(group.pick(~affords), status)]

    def _refine(self, group: Group, seen: "_Between", kicks: int) -> list[Finished]:
        """Go on at the grid of twice the intervals."""
        if seen.fine.grid.intervals > self.finest:
            return [self.ended(group, Status.STALLED)]
        missing = seen.missing
        cost = int(missing.sum())
        affords = self.record.affords(group.numbers, cost + seen.fine.grid.intervals - 1)
        finished = [] if bool(affords.all()) else [self.ended(group.pick(~affords), Status.BUDGET_EXHAUSTED)]
        if not bool(affords.any()):
            return finished
        fine = seen.fine.pick(affords)
        if cost:
            score, offsets = fine.place.score.clone(), fine.place.offsets
            score[:, missing.to(score.device)] = _scores_at(fine, missing)
            self.record.spend(fine.numbers, cost)
            place = look(fine.grid, offsets, score, fine.end_scores, fine.strength)
            fine = replace(fine, place=place, past=fine.past.refine(fine.grid, fine.place, place))
        return finished + self.settle(fine, kicks=kicks)

    def _kick(self, group: Group, mode: Float[Tensor, "a n d"], kicks: int) -> list[Finished]:
        """Try both sides of a direction in which the second variation is negative."""
        cost = 2 * (group.grid.intervals - 1)
        affords = self.record.affords(group.numbers, cost)
        group, finished = self._affording(group, cost, Status.SADDLE)
        if not len(group):
            return finished
        grid, best = group.grid, group.place
        mode = mode[_places(affords).to(mode.device)]
        size = KICK * grid.span / mode.square().sum(-1).sqrt().amax(-1).clamp(min=1e-300)
        for sign in (1.0, -1.0):
            offsets = equal_speed(grid, group.place.offsets + sign * size[:, None, None] * mode)
            tried = group.evaluate(offsets, self.record)
            best = tried.where(tried.finite & (tried.level < best.level - SHORTER), best)
        shorter = (best.level < group.place.level).cpu()
        if not bool(shorter.all()):
            finished.append(self.ended(group.pick(~shorter), Status.CONVERGED))
        if bool(shorter.any()):
            finished += self.settle(group.moved(best).pick(shorter), kicks=kicks + 1)
        return finished

    def _straight(self, group: Group) -> Bool[Tensor, " a"]:
        """Which paths have not left the shortest one, so that nothing is known of what lies beside them."""
        moved = norm(group.place.offsets).amax(-1) / group.grid.span
        pulled = group.place.seen.scale(group.strength) * group.grid.span
        return ((moved < UNMOVED) & (pulled > UNMOVED)).cpu()


@dataclass(frozen=True, kw_only=True)
class _Between(Batched):
    """What a look between the knots has found.

    Attributes:
        fine: the pairs on the grid of twice the intervals.
        looked: which of its interior knots are midpoints that were evaluated; the same for all pairs.
        relative: the mean residual there, as a share of the pull.
    """

    shared = ("looked",)

    fine: Group
    looked: Bool[Tensor, " n"]
    relative: Float[Tensor, " a"]

    @property
    def missing(self) -> Bool[Tensor, " n"]:
        """Which of the knots are midpoints that were not evaluated."""
        return (torch.arange(len(self.looked)) % 2 == 0) & ~self.looked


def _samples(intervals: int) -> int:
    """At how many midpoints a grid is looked at."""
    return max(min(intervals, SAMPLES), intervals // SHARE)


def _look_between(group: Group, record: SolveRecord) -> _Between:
    """Evaluate the score at midpoints between the knots."""
    intervals, strength = group.grid.intervals, group.strength
    grid = group.grid.double()
    looked = torch.zeros(2 * intervals - 1, dtype=torch.bool)
    count = _samples(intervals)
    looked[2 * ((torch.arange(count) + 0.5) * intervals / count).long()] = True
    offsets = grid.refine(group.place.offsets)
    fine = replace(group, grid=grid, place=replace(group.place, offsets=offsets))
    found = _scores_at(fine, looked)
    record.spend(group.numbers, count)
    known = looked.clone()
    known[1::2] = True
    score = torch.zeros_like(offsets)
    score[:, 1::2], score[:, looked.to(score.device)] = group.place.score, found.nan_to_num(0.0, 0.0, 0.0)
    place = look(grid, offsets, _interpolated(grid.nodes, score, group.end_scores, known), group.end_scores, strength)
    place = replace(place, finite=torch.isfinite(found).flatten(1).all(1))
    residual = place.seen.residuals(strength)[:, looked.to(score.device)].mean(-1)
    residual = (residual - place.seen.rounding).clamp(min=0)
    relative = residual / place.seen.scale(strength).clamp(min=torch.finfo(residual.dtype).tiny)
    past = group.past.refine(grid, group.place, place)
    return _Between(fine=replace(fine, place=place, past=past), looked=looked, relative=relative)


def _scores_at(group: Group, chosen: Bool[Tensor, " n"]) -> Float[Tensor, "a m d"]:
    """The score at some of the interior knots."""
    knots = group.grid.knots(group.place.offsets)[:, chosen.to(group.strength.device)]
    return group.field.score(knots, group.grid.nodes[1:-1][chosen].to(knots).expand(knots.shape[:-1]))


def _interpolated(
    nodes: Float[Tensor, " k"],
    score: Float[Tensor, "a n d"],
    end_scores: Float[Tensor, "a 2 d"],
    known: Bool[Tensor, " n"],
) -> Float[Tensor, "a n d"]:
    """The score at all interior knots, from the ends and those where it is known."""
    if bool(known.all()):
        return score
    rows = Spline(nodes[torch.nn.functional.pad(known, (1, 1), value=True)]).matrix(nodes[1:-1]).to(score)
    there = known.to(score.device)
    return rows @ torch.cat([end_scores[:, :1], score[:, there], end_scores[:, 1:]], 1)


def _excess(group: Group, step: Float[Tensor, "a n d"]) -> Float[Tensor, " a"]:
    """By which share of itself each path may be longer than the geodesic.

    To second order a path exceeds the geodesic by half of what a Newton step would gain to first order.
    """
    gain = group.grid.gain(group.place.seen, group.strength, step).abs() / 2
    return MARGIN * gain + ROUNDINGS * torch.finfo(gain.dtype).eps


def _aside(group: Group) -> Float[Tensor, "a n d"]:
    """A bulge of each path in the direction across it that lies nearest to an axis."""
    grid, velocity = group.grid, group.place.seen.velocity
    middle = velocity[:, velocity.shape[1] // 2]
    axis = torch.nn.functional.one_hot(middle.abs().argmin(-1), middle.shape[-1]).to(middle)
    bulge = (math.pi * grid.nodes[1:-1]).sin().to(middle)[:, None] * axis[:, None]
    return grid.manifold.tangent(grid.knots(group.place.offsets), normal_to(velocity, bulge))


def _places(mask: Bool[Tensor, " a"]) -> Int[Tensor, " b"]:
    return mask.nonzero().flatten()
