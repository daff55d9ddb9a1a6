"""The geodesic of the density, in whichever geometry and by whichever boundary solver is given."""

from latent_geodesics.geometries import Geometry
from latent_geodesics.manifold import Euclidean, Manifold
from latent_geodesics.methods.base import PathMethod
from latent_geodesics.records import BoundaryProblem, Solution
from latent_geodesics.solvers import BoundarySolver

__all__ = ["Geodesic"]


class Geodesic(PathMethod):
    """The path whose length in a geometry is least: int p^-alpha |g'| du (Yu et al. 2025, arXiv 2504.06675), say.

    Args:
        solver: What finds it; with `ControlPointDescent` this is the paper's own method.
        sphere: Whether it must stay on the sphere on which noisy latents lie; without it the same ends are joined
            through the flat space around the sphere.
        geometry: The geometry; the problem's own if not given.
    """

    def __init__(self, *, solver: BoundarySolver, sphere: bool = True, geometry: Geometry | None = None) -> None:
        self.solver, self.sphere, self.geometry = solver, sphere, geometry

    def solve(self, problem: BoundaryProblem) -> Solution:
        """Runs the solver on all pairs of the batch together."""
        if not self.sphere or self.geometry is not None:
            problem = BoundaryProblem(
                field=problem.field,
                manifold=self.manifold(problem),
                x0=problem.x0,
                x1=problem.x1,
                geometry=self.geometry or problem.geometry,
            )
        return self.solver.solve(problem)

    def manifold(self, problem: BoundaryProblem) -> Manifold:
        """The problem's sphere, or the flat space around it."""
        return problem.manifold if self.sphere else Euclidean()
