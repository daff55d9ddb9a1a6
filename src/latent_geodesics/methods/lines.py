"""The two lines that every paper compares with: straight and spherical, between the inverted latents.

Both are known in closed form, so they cost no evaluation of the score.
"""

from dataclasses import fields

import torch

from latent_geodesics.core.manifold import Euclidean, Manifold
from latent_geodesics.core.path import Path, StraightLine, shortest_path
from latent_geodesics.core.records import BoundaryProblem, Solution, Status, Trace
from latent_geodesics.methods.base import PathMethod
from latent_geodesics.methods.statuses import CLOSED_FORM

__all__ = ["ClosedForm", "Lerp", "Slerp", "known_solution"]


class ClosedForm(PathMethod):
    """A path that needs no solving."""

    def statuses(self, solution: Solution) -> tuple[str, ...]:
        """Nothing was solved, so nothing converged."""
        return (CLOSED_FORM,) * solution.path.pairs


class Lerp(ClosedForm):
    """The straight line x(u) = (1-u) x_A + u x_B. It leaves the sphere: at its middle the norm is too small."""

    def solve(self, problem: BoundaryProblem) -> Solution:
        """The straight line."""
        return known_solution(StraightLine(x0=problem.x0, x1=problem.x1))

    def manifold(self, problem: BoundaryProblem) -> Manifold:
        """The flat space around the sphere."""
        return Euclidean()


class Slerp(ClosedForm):
    """The great circle between the two latents (Shoemake 1985), the angle taken over the whole flat latent."""

    def solve(self, problem: BoundaryProblem) -> Solution:
        """The great circle."""
        return known_solution(shortest_path(problem.manifold, problem.x0, problem.x1))


def known_solution(path: Path) -> Solution:
    """A path that needs no solving."""
    none = torch.zeros(path.pairs)
    empty = torch.empty(0, path.pairs)
    return Solution(
        path=path,
        status=(Status.CONVERGED,) * path.pairs,
        stats={"evaluations": none, "iterations": none},
        trace=Trace(**{column.name: empty for column in fields(Trace)}),
    )
