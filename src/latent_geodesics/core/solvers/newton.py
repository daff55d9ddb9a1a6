r"""Newton steps on the length of a path, for pairs that a fixed point does not solve and for the last digits of others.

The second variation at each knot comes from the scores of the iterates themselves (`second_variation`), so that a step
costs one evaluation a knot, as a step of the fixed point does. Where the variation is not positive the step is shifted
until it descends (Levenberg and Marquardt). A step is taken where it shortens the path, or where the residual falls and
the path is not much longer; else its pair goes back and trusts a quarter of it. What the length cannot tell, since most
of it lies elsewhere on the path, the residual can.
"""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from latent_geodesics.core.manifold import norm, normal_to
from latent_geodesics.core.records import Status
from latent_geodesics.core.solvers.group import Group, equal_speed
from latent_geodesics.core.solvers.second_variation import second_variation
from latent_geodesics.core.solvers.solve_record import SolveRecord

RADIUS = 0.3
LEAST_RADIUS = 1e-5
SAME = 1e-4
FALL, LONGER, SHARE = 0.2, 1e-2, 1e-3


def newton(group: Group, record: SolveRecord, *, tolerance: float, iterations: int) -> tuple[Group, list[Status]]:
    """Where Newton steps on their grid lead, and how each pair ended.

    Args:
        group: where the pairs are.
        record: what all pairs of the problem have cost, and how they ended.
        tolerance: the relative residual at which a pair is settled.
        iterations: after how many a pair is given up.
    """
    run, cost = _Newton(group, record, tolerance), group.grid.intervals - 1
    for iteration in range(iterations + 1):
        run.judge(last=iteration == iterations)
        open_ = run.open()
        for row in open_[~record.affords(group.numbers[open_], cost)].tolist():
            run.outcome[row] = Status.BUDGET_EXHAUSTED
        open_ = run.open()
        if not len(open_):
            break
        run.step(open_)
    return run.group, [status or Status.BUDGET_EXHAUSTED for status in run.outcome]


class _Newton:
    """The iteration of pairs on one grid; `group` holds where each is, and `outcome` how those ended that have."""

    def __init__(self, group: Group, record: SolveRecord, tolerance: float) -> None:
        self.group, self._record, self._tolerance = group, record, tolerance
        self.outcome: list[Status | None] = [None] * len(group)
        self._radius = torch.full_like(group.strength, RADIUS)
        self._factor = torch.ones_like(group.strength)

    def open(self) -> Int[Tensor, " b"]:
        """The rows that have not ended."""
        return torch.tensor([row for row, status in enumerate(self.outcome) if status is None], dtype=torch.long)

    def step(self, open_: Int[Tensor, " b"]) -> None:
        """One evaluation, and the choice between the old knots and the new ones."""
        group, rows = self.group.restrict(open_), open_.to(self._radius.device)
        grid, before, strength, radius = group.grid, group.place, group.strength, self._radius[rows]
        step = second_variation(group).step
        size = norm(step).amax(-1) / grid.span
        factor = (radius / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1.0)
        step = factor[:, None, None] * step
        gain = grid.gain(before.seen, strength, step)
        offsets = before.offsets + step
        if grid.geometry.constant_speed:
            offsets = equal_speed(grid, offsets)
        after = group.evaluate(offsets, self._record)
        way = normal_to(before.seen.velocity, offsets - before.offsets)
        pushes = [(way * place.seen.defect(strength)).sum((1, 2)) for place in (before, after)]
        falls = (pushes[0] > 0) & (pushes[0] + pushes[1] > 0) & (after.level < before.level + SAME)
        taken = after.finite & (
            falls
            | (after.level < before.level - SHARE * gain.clamp(0, 0.1))
            | ((after.relative < (1 - FALL * factor) * before.relative) & (after.level < before.level + LONGER))
        )
        moved = norm(offsets - before.offsets).amax(-1) / grid.span
        radius = torch.where(taken, (2 * radius).clamp(max=RADIUS), moved.minimum(radius) / 3)
        self._factor = self._factor.index_copy(0, rows, factor)
        self._radius = self._radius.index_copy(0, rows, radius)
        # What is left behind is remembered, and what is not taken.
        past = group.past.followed(before.where(taken | ~after.finite, after))
        part = replace(group, place=after.where(taken, before), past=past)
        self.group = self.group.put(open_, part) if len(open_) < len(self.group) else part

    def judge(self, *, last: bool) -> None:
        """End the pairs that are done or given up; one read from the device."""
        group, place = self.group, self.group.place
        columns = {
            "relative": place.relative,
            "floor": group.floor(),
            "settled": place.seen.settled(group.strength, self._tolerance),
            "finite": place.finite,
            "radius": self._radius,
            "residual": place.seen.residual(group.full),
            "length": place.level.exp(),
            "step": self._factor,
            "alpha": group.strength,
        }
        read = torch.stack([column.double() for column in columns.values()]).cpu()
        said = dict(zip(columns, read, strict=True))
        for row in self.open().tolist():
            if not said["finite"][row]:
                self.outcome[row] = Status.NON_FINITE_SCORE
            elif said["settled"][row]:
                self.outcome[row] = Status.CONVERGED
            elif said["relative"][row] <= said["floor"][row]:
                self.outcome[row] = Status.RESOLVED
            elif last or said["radius"][row] < LEAST_RADIUS:
                self.outcome[row] = Status.STALLED
        self._record.note(
            group.numbers,
            tolerance=said["floor"].clamp(min=self._tolerance),
            **{name: said[name] for name in ("residual", "length", "step", "alpha")},
        )
