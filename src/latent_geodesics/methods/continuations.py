"""Ways to carry a velocity on: the geodesic, by any integrator, and the two lines that know nothing of the density.

The lines are what one would do without a geodesic: go on along the great circle ("slerp" beyond its ends) or straight
ahead ("lerp" beyond its ends). Both are known in closed form and cost no evaluation of the score.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.hermite import HermitePath
from latent_geodesics.core.manifold import Euclidean, Manifold, Sphere
from latent_geodesics.core.path import Path, StraightLine
from latent_geodesics.core.records import InitialProblem, Solution
from latent_geodesics.core.solvers import InitialSolver
from latent_geodesics.methods.lines import known_solution

ARC_KNOTS = 65


class Continuation(ABC):
    """Follows initial velocities, for a batch of images."""

    @abstractmethod
    def carry_on(self, problem: InitialProblem) -> Solution:
        """The path that leaves each start with its velocity."""

    def manifold(self, problem: InitialProblem) -> Manifold:
        """What the path lies on: the problem's own manifold unless the path leaves it."""
        return problem.manifold


class GeodesicOn(Continuation):
    """The geodesic of the density.

    Args:
        solver: The integrator.
    """

    def __init__(self, *, solver: InitialSolver) -> None:
        self.solver = solver

    def carry_on(self, problem: InitialProblem) -> Solution:
        """The geodesics, integrated."""
        return self.solver.solve(problem)


class GreatCircleOn(Continuation):
    """`x(u) = cos(u a) x0 + sin(u a) R v0 / |v0|`, with the angle `a = |v0| / R`."""

    def carry_on(self, problem: InitialProblem) -> Solution:
        """The great circles, however long."""
        sphere = problem.manifold
        assert isinstance(sphere, Sphere)
        u = torch.linspace(0, 1, ARC_KNOTS, dtype=torch.float64).to(problem.x0)
        angle = (problem.v0.norm(dim=-1) / problem.x0.norm(dim=-1))[:, None, None]
        turned, x0, v0 = angle * u[:, None], problem.x0[:, None], problem.v0[:, None]
        points = sphere.project(turned.cos() * x0 + turned.sin() * v0 / angle)
        path = HermitePath(
            knots=torch.cat([x0, points[:, 1:]], 1),
            velocities=turned.cos() * v0 - angle * turned.sin() * x0,
            accelerations=-angle.square() * points,
            manifold=sphere,
        )
        return _known(path, problem.x0)


class StraightOn(Continuation):
    """`x(u) = x0 + u v0`. It leaves the sphere: its norm grows."""

    def carry_on(self, problem: InitialProblem) -> Solution:
        """The straight lines."""
        return _known(StraightLine(x0=problem.x0, x1=problem.x0 + problem.v0), problem.x0)

    def manifold(self, problem: InitialProblem) -> Manifold:
        """The flat space around the sphere."""
        return Euclidean()


def _known(path: Path, like: Float[Tensor, "p d"]) -> Solution:
    none = torch.zeros(path.pairs, dtype=torch.long, device=like.device)
    whole = torch.ones_like(like[:, 0])
    return known_solution(
        path, evaluations=none, iterations=none, sequential=none, residual=whole * torch.nan, reached=whole
    )
