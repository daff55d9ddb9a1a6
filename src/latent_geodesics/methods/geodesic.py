"""The probability-density geodesic between two images (Yu et al. 2025, arXiv 2504.06675)."""

from latent_geodesics.methods.base import PathMethod
from latent_geodesics.records import BoundaryProblem, Solution
from latent_geodesics.solvers import BoundarySolver

__all__ = ["Geodesic"]


class Geodesic(PathMethod):
    """Creates the geodesic method: the shortest path through probable latents, decoded.

    Args:
        solver: The solver of the boundary value problem; with `ControlPointDescent` it is the paper's own method.
    """

    def __init__(self, *, solver: BoundarySolver) -> None:
        self.solver = solver

    def solve(self, problem: BoundaryProblem) -> Solution:
        """The geodesic between the ends of each pair."""
        return self.solver.solve(problem)
