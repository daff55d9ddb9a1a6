"""Carry on the geodesic between two images beyond the second of them."""

import math

import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.manifold import Sphere
from latent_geodesics.core.records import BoundaryProblem
from latent_geodesics.core.solvers import BoundarySolver
from latent_geodesics.methods.departure import Departure, Launch, Lead
from latent_geodesics.methods.power import geometry_of
from latent_geodesics.methods.velocities.base import InitialVelocity, tangent_part

__all__ = ["BeyondSecond"]


class BeyondSecond(InitialVelocity):
    """Solves the boundary problem between two images and goes on from the second with the velocity that it ends with.

    Beyond the second image its own condition holds: an embedding extrapolated beyond both prompts is none that the
    model has seen.

    Args:
        solver: The solver of the boundary problem.
        share: How far to go on, as a share of the way between the images.

    Raises:
        UserError: if `share` is not a positive number.
    """

    needs_second = True
    words = "the velocity with which the geodesic between two images reaches the second"

    def __init__(self, *, solver: BoundarySolver, share: float = 0.5) -> None:
        if not (math.isfinite(share) and share > 0):
            raise UserError(f"share must be a positive number (0.5 goes on half as far again); got {share}.")
        self.solver, self.share = solver, share

    def launch(self, departure: Departure) -> Launch:
        """The second image of each pair, and the velocity of the geodesic there times `share`."""
        first, second = departure.first, departure.second
        assert second is not None
        setting = departure.setting
        radius = (first.norms + second.norms) / 2
        sphere = Sphere(radius=radius)
        problem = BoundaryProblem(
            field=setting.field(first.condition, second.condition),
            manifold=sphere,
            x0=first.latents * (radius / first.norms)[:, None],
            x1=second.latents * (radius / second.norms)[:, None],
            geometry=geometry_of(setting.geometry, setting.power),
        )
        solution = self.solver.solve(problem)
        v = solution.path.velocity(torch.ones(1, dtype=torch.float64))[:, 0]
        tangent = tangent_part(
            v,
            problem.x1,
            sphere,
            ids=departure.ids,
            cause="that of the geodesic between two images",
            remedy="give two images that differ",
        )
        return Launch(
            x0=problem.x1,
            v0=self.share * tangent,
            radius=radius,
            norms=second.norms,
            condition0=second.condition,
            lead=Lead(solution=solution, first=first, second=second, problem=problem),
        )
