"""What a batch solve keeps: what each pair has cost, where it stands and how it ended.

They are kept on the CPU, whatever device the points live on: row numbers of pairs are CPU tensors, and a solver brings
what it keeps from the device in one read an iteration.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.fields import Resolution
from latent_geodesics.core.path import Path
from latent_geodesics.core.progress import tell
from latent_geodesics.core.records import BoundaryProblem, Solution, Status, Trace


class SolveRecord:
    """Counts evaluations and iterations per pair, keeps the trace, and closes pairs with a status.

    Pairs that need no solving are closed from the start: equal ends, and all of them for alpha = 0.

    Args:
        problem: the boundary problem.
        budget: score evaluations that each pair may cost; no limit if not given.
        tolerance: the relative residual asked for.

    Attributes:
        evaluations: what each pair has cost.
        resolution: how well the scores were resolved; None for full precision.
    """

    def __init__(self, problem: BoundaryProblem, *, budget: int | None, tolerance: float) -> None:
        self._budget = torch.full((len(problem.x0),), math.inf if budget is None else float(budget))
        self._device = problem.x0.device
        like = torch.empty(len(problem.x0), dtype=problem.x0.dtype)
        self.resolution: Resolution | None = None
        self.evaluations = torch.zeros_like(like, dtype=torch.long)
        self.iterations = torch.zeros_like(self.evaluations)
        self.residual = torch.full_like(like, torch.nan)
        self.residual_between = torch.full_like(like, torch.nan)
        self.length_error = torch.full_like(like, torch.nan)
        self.strength = torch.full_like(like, torch.nan)
        self.tolerance = torch.full_like(like, tolerance)
        self._length = torch.full_like(like, torch.nan)
        self._step = torch.ones_like(like)
        self._alpha = torch.full_like(like, problem.alpha)
        self._rows: list[tuple[Tensor, ...]] = []
        self._status: list[Status | None] = [None] * len(like)
        self._close_trivial(problem)

    def open_pairs(self) -> Int[Tensor, " a"]:
        """The pairs that have not ended yet."""
        return torch.tensor([pair for pair, status in enumerate(self._status) if status is None], dtype=torch.long)

    def affords(self, pairs: Int[Tensor, " a"], cost: int, share: float = 1.0) -> Bool[Tensor, " a"]:
        """Whether `cost` more evaluations keep each pair within `share` of its budget."""
        return self.evaluations[pairs] + cost <= share * self._budget[pairs]

    def allow(self, pairs: Int[Tensor, " a"], budget: Float[Tensor, " a"]) -> None:
        """Set what each of the pairs may cost in all."""
        self._budget[pairs] = budget.to(self._budget)

    def between(
        self,
        pairs: Int[Tensor, " a"],
        *,
        relative: Float[Tensor, " a"],
        error: Float[Tensor, " a"],
        tolerance: Float[Tensor, " a"],
    ) -> None:
        """Keep what a look between the knots found: the relative residual, and the estimated error of the length.

        Args:
            pairs: that were looked at.
            relative: the relative residual.
            error: by which share of itself the length may be too long.
            tolerance: the relative residual in force.
        """
        self.tolerance[pairs] = tolerance.to(self.tolerance)
        self.residual_between[pairs] = relative.to(self.residual)
        self.length_error[pairs] = error.to(self.residual)
        self._row()

    def spend(self, pairs: Int[Tensor, " a"], cost: int) -> None:
        """Count `cost` evaluations for each of the pairs."""
        self.evaluations[pairs] += cost

    def note(
        self,
        pairs: Int[Tensor, " a"],
        *,
        residual: Float[Tensor, " a"],
        length: Float[Tensor, " a"],
        step: Float[Tensor, " a"],
        alpha: Float[Tensor, " a"],
        tolerance: Float[Tensor, " a"],
    ) -> None:
        """Count an iteration of the pairs and add a row to the trace; `tolerance` is the one in force."""
        self.iterations[pairs] += 1
        for column, values in (
            (self.residual, residual),
            (self._length, length),
            (self._step, step),
            (self._alpha, alpha),
            (self.tolerance, tolerance),
        ):
            column[pairs] = values.to(column)
        self._row()

    def ended(self, status: Status, *, among: Int[Tensor, " a"]) -> Int[Tensor, " b"]:
        """Those of some pairs that ended so."""
        return torch.tensor([pair for pair in among.tolist() if self._status[pair] is status], dtype=torch.long)

    def close(self, pairs: Int[Tensor, " a"], status: Status) -> None:
        """End the pairs with a status."""
        for pair in pairs.tolist():
            self._status[pair] = status

    def solution(self, path: Path) -> Solution:
        """The solution with the given path; pairs still open have run out of budget."""
        if not self._rows:
            self._row()
        columns = [torch.stack(column).to(self._device) for column in zip(*self._rows, strict=True)]
        evaluations, residual, length, step, alpha = columns
        stats = {
            "evaluations": self.evaluations,
            "iterations": self.iterations,
            "residual": self.residual,
            "tolerance": self.tolerance,
            "residual_between": self.residual_between,
            "length_error": self.length_error,
            "strength": self.strength,
        }
        return Solution(
            path=path,
            status=tuple(status or Status.BUDGET_EXHAUSTED for status in self._status),
            stats={name: column.to(self._device, copy=True) for name, column in stats.items()},
            trace=Trace(evaluations=evaluations, residual=residual, length=length, step=step, alpha=alpha),
            resolution=self.resolution,
        )

    def _close_trivial(self, problem: BoundaryProblem) -> None:
        coincident = (problem.x0 == problem.x1).all(-1).cpu()
        if problem.alpha == 0:
            self.residual.zero_()
            self.close(torch.arange(len(self._status)), Status.CONVERGED)
            antipodal = problem.manifold.antipodal(problem.x0, problem.x1).cpu()
            self.close(antipodal.nonzero().flatten(), Status.ANTIPODAL_ENDS)
        self.residual[coincident] = 0
        self.close(coincident.nonzero().flatten(), Status.COINCIDENT_ENDS)

    def _row(self) -> None:
        columns = (self.evaluations, self.residual, self._length, self._step, self._alpha)
        self._rows.append(tuple(column.clone() for column in columns))
        left = [status is None for status in self._status]
        worst = float(self.residual[left].nan_to_num(0.0).max()) if any(left) else 0.0
        tell(f"iteration {len(self._rows)}, residual {worst:.1e}, {sum(left)} path{'' if sum(left) == 1 else 's'} left")
