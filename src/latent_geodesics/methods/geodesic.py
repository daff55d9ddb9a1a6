"""The geodesic of the density, in whichever geometry and by whichever boundary solver is given."""

from latent_geodesics.core.manifold import Euclidean, Manifold
from latent_geodesics.core.records import BoundaryProblem, Solution
from latent_geodesics.core.solvers import BoundarySolver
from latent_geodesics.methods.base import PathMethod
from latent_geodesics.methods.conditions import GeometryChoice, geometry_of


class Geodesic(PathMethod):
    """The path whose length in a geometry is stationary, of one density: int p^-alpha |g'| du, or another geometry's.

    At constant speed it satisfies g'' + alpha |g'|^2 P_v s(g) = 0 (Yu et al. 2025, arXiv 2504.06675). Under a condition
    that moves along the path (see `methods.conditions`) that is but the normal part of the Euler-Lagrange equation: its
    solution is still what is found, but it minimises nothing, and has no length.

    Args:
        solver: What finds it; with `ControlPointDescent` this is the paper's descent, on whatever score the run has.
            The paper's method with its own score and settings is `Reposed`.
        sphere: Whether it must stay on the sphere on which noisy latents lie; without it the same ends are joined
            through the flat space around the sphere.
        geometry: The geometry; the problem's own if not given.
    """

    def __init__(self, *, solver: BoundarySolver, sphere: bool = True, geometry: GeometryChoice = None) -> None:
        self.solver, self.sphere, self.geometry = solver, sphere, geometry

    def solve(self, problem: BoundaryProblem) -> Solution:
        """Runs the solver on all pairs of the batch together."""
        if not self.sphere or self.geometry is not None:
            own = problem.geometry
            problem = BoundaryProblem(
                field=problem.field,
                manifold=self.manifold(problem),
                x0=problem.x0,
                x1=problem.x1,
                geometry=own if self.geometry is None else geometry_of(self.geometry, own.power),
            )
        return self.solver.solve(problem)

    def manifold(self, problem: BoundaryProblem) -> Manifold:
        """The problem's sphere, or the flat space around it."""
        return problem.manifold if self.sphere else Euclidean()
