r"""From paths that meet their equation at the knots to paths that meet it between them, and are minima.

A group of pairs is looked at between its knots (`between_knots`). Where the residual is small there a pair has
converged. Elsewhere it goes on at the grid of twice the intervals, of which what was looked at is a part, and is
looked at again. Where the second variation has a negative direction the path is tried on both sides of it, and goes on
from the side that is shorter; so it is where a path has not moved at all, by symmetry it may be.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_geodesics.core.records import Status
from latent_geodesics.core.solvers.between_knots import Between, completed, excess, look_between
from latent_geodesics.core.solvers.equal_speed import equal_speed
from latent_geodesics.core.solvers.group import Finished, Group
from latent_geodesics.core.solvers.ledger import Ledger
from latent_geodesics.core.solvers.newton import look
from latent_geodesics.core.solvers.second_variation import Past
from latent_geodesics.core.vectors import norm, normal_to

__all__ = ["AT_KNOTS", "Refinement"]

AT_KNOTS, BETWEEN = 0.3, 0.7
ITERATIONS = 30
NEGATIVE = -0.5
HOPELESS, MANY = 0.9, 64
KICK = 0.05
KICKS = 3
UNMOVED = 1e-3
SHORTER = 1e-7


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """How far paths are refined.

    Attributes:
        ledger: the books over all pairs of the problem.
        tolerance: the relative residual between the knots at which a pair has converged.
        finest: the most intervals of a grid.
    """

    ledger: Ledger
    tolerance: float
    finest: int

    def finish(self, group: Group, *, kicks: int = 0) -> list[Finished]:
        """Look between the knots of pairs that are settled at them, and go on where the look says so."""
        affords = self.ledger.affords(group.numbers, min(group.grid.intervals, 16))
        finished = []
        if not bool(affords.all()):
            finished.append(self._ended(group.pick(~affords), Status.BUDGET_EXHAUSTED))
            group = group.pick(affords)
        if not len(group):
            return finished
        seen = look_between(group.grid, group.field, group.place.here, group.end_scores, group.strength)
        self.ledger.spend(group.numbers, seen.cost)
        error, least, mode = excess(seen, self._past(group, seen), group.end_scores, group.strength)
        floor = self._floor(group, seen)
        table = torch.stack([seen.relative.double(), seen.finite.double(), floor.double(), least.double()]).cpu()
        relative, finite, floor, least = table
        # A residual that a finer grid does not make smaller is the score's own.
        hopeless = relative > HOPELESS * self.ledger.residual_between[group.numbers].double().nan_to_num(torch.inf)
        hopeless &= torch.tensor(group.grid.intervals > MANY)
        in_force = floor.clamp(min=self.tolerance)
        self.ledger.between(group.numbers, relative=relative, error=error.cpu(), tolerance=in_force)
        good = (relative <= floor.clamp(min=BETWEEN * self.tolerance)) & (finite > 0)
        straight = self._straight(group, seen) if not kicks else torch.zeros_like(good)
        mode = torch.where(straight.to(mode.device)[:, None, None], _aside(seen), mode)
        bent = good & ((least < NEGATIVE) | straight) & (kicks < KICKS)
        bent &= torch.tensor(group.grid.geometry.constant_speed)
        flat = good & ~bent
        lost = finite == 0
        for mask, status in ((lost, Status.NON_FINITE_SCORE), (flat, Status.CONVERGED)):
            if bool(mask.any()):
                finished.append(self._ended(group.pick(mask), status))
        if bool(bent.any()):
            finished += self._kick(group, mode, bent, kicks)
        stuck = ~good & ~lost & hopeless
        if bool(stuck.any()):
            finished.append(self._ended(group.pick(stuck), Status.STALLED))
        coarse = ~good & ~lost & ~hopeless
        if bool(coarse.any()):
            finished += self._refine(group.pick(coarse), _pick(seen, coarse), kicks)
        return finished

    def _refine(self, group: Group, seen: Between, kicks: int) -> list[Finished]:
        """Go on at the grid of twice the intervals."""
        if seen.grid.intervals > self.finest:
            return [self._ended(group, Status.STALLED)]
        cost = int(seen.missing.sum())
        affords = self.ledger.affords(group.numbers, cost + seen.grid.intervals - 1)
        finished = []
        if not bool(affords.all()):
            finished.append(self._ended(group.pick(~affords), Status.BUDGET_EXHAUSTED))
            group, seen = group.pick(affords), _pick(seen, affords)
        if not len(group):
            return finished
        place = completed(seen, group.field, group.end_scores, group.strength)
        self.ledger.spend(group.numbers, cost)
        past = group.past.refine(seen.grid, group.place.here, place.here)
        return finished + self.settle(replace(group, grid=seen.grid, place=place, past=past), kicks=kicks)

    def settle(self, group: Group, *, kicks: int = 0) -> list[Finished]:
        """Solve the equation at the knots of a grid, and go on."""
        group, status = group.settle(self.ledger, tolerance=AT_KNOTS * self.tolerance, iterations=ITERATIONS)
        finished = []
        # A grid that is too coarse may have no solution: what stalls close to one is refined.
        near = (group.place.relative.cpu() < 1.0).tolist()
        go_on = torch.tensor(
            [
                how in (Status.CONVERGED, Status.RESOLVED) or (how is Status.STALLED and close)
                for how, close in zip(status, near, strict=True)
            ]
        )
        for how in set(status):
            mask = torch.tensor([one is how for one in status]) & ~go_on
            if bool(mask.any()):
                finished.append(self._ended(group.pick(mask), how))
        return finished + (self.finish(group.pick(go_on), kicks=kicks) if bool(go_on.any()) else [])

    def _kick(
        self,
        group: Group,
        mode: Float[Tensor, "a n d"],
        bent: Bool[Tensor, " a"],
        kicks: int,
    ) -> list[Finished]:
        """Try both sides of a direction in which the second variation is negative, on the grid of the knots."""
        rows = bent.nonzero().flatten()
        group, mode = group.restrict(rows), mode[rows.to(mode.device)][:, 1::2]
        cost = 2 * (group.grid.intervals - 1)
        affords = self.ledger.affords(group.numbers, cost)
        finished = []
        if not bool(affords.all()):
            finished.append(self._ended(group.pick(~affords), Status.SADDLE))
            some = affords.nonzero().flatten()
            group, mode = group.restrict(some), mode[some.to(mode.device)]
        if not len(group):
            return finished
        grid, here = group.grid, group.place.here
        size = KICK * grid.span / mode.square().sum(-1).sqrt().amax(-1).clamp(min=1e-300)
        best = group.place
        shortest = best.level
        for sign in (1.0, -1.0):
            offsets = here.offsets + sign * size[:, None, None] * mode
            if grid.geometry.constant_speed:
                offsets = equal_speed(grid, offsets)
            tried = look(grid, offsets, grid.scores(group.field, offsets), group.end_scores, group.strength)
            best = tried.where(tried.finite & (tried.level < best.level - SHORTER), best)
        self.ledger.spend(group.numbers, cost)
        shorter = (best.level < shortest).cpu()
        if not bool(shorter.all()):
            finished.append(self._ended(group.pick(~shorter), Status.CONVERGED))
        if bool(shorter.any()):
            moved = replace(group, place=best).pick(shorter)
            moved = replace(moved, past=Past.none(moved.place.here, len(moved.past.offsets)))
            finished += self.settle(moved, kicks=kicks + 1)
        return finished

    def _straight(self, group: Group, seen: Between) -> Bool[Tensor, " a"]:
        """Which paths have not left the shortest one, so that nothing is known of what lies beside them."""
        moved = norm(group.place.here.offsets).amax(-1) / group.grid.span
        pulled = seen.place.seen.scale(group.strength) * group.grid.span
        return ((moved < UNMOVED) & (pulled > UNMOVED)).cpu()

    def _past(self, group: Group, seen: Between) -> Past:
        return group.past.refine(seen.grid, group.place.here, seen.place.here)

    def _floor(self, group: Group, seen: Between) -> Float[Tensor, " a"]:
        if group.resolution is None:
            return torch.zeros_like(group.strength)
        lines = seen.place.seen
        return group.resolution.floor(lines.size.mean(-1), lines.strength.mean(-1))

    def _ended(self, group: Group, status: Status) -> Finished:
        how = [status] * len(group)
        if status is Status.CONVERGED:
            floored = self.ledger.residual_between[group.numbers] > self.tolerance
            how = [Status.RESOLVED if one else status for one in floored.tolist()]
        return Finished(
            numbers=group.numbers, intervals=group.grid.intervals, offsets=group.place.here.offsets, status=how
        )


def _pick(seen: Between, mask: Bool[Tensor, " a"]) -> Between:
    return seen.restrict(mask.nonzero().flatten().to(seen.relative.device))


def _aside(seen: Between) -> Float[Tensor, "a n d"]:
    """A bulge of each path in the direction across it that lies nearest to an axis."""
    grid, velocity = seen.grid, seen.place.seen.velocity
    middle = velocity[:, velocity.shape[1] // 2]
    axis = torch.nn.functional.one_hot(middle.abs().argmin(-1), middle.shape[-1]).to(middle)
    bulge = (math.pi * grid.nodes[1:-1]).sin().to(middle)[:, None] * axis[:, None]
    return grid.manifold.tangent(grid.knots(seen.place.here.offsets), normal_to(velocity, bulge))
