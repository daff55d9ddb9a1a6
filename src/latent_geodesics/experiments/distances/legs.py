"""Paths between many images under one density, in batches, with the density along each.

One density for all images (a fixed condition) on one sphere: only then does the log-density belong to a point, and the
length of the shortest path between two points to the two alone.
"""

import time
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.fields import ScoreField
from latent_geodesics.core.geometry import density_profile
from latent_geodesics.core.manifold import Sphere
from latent_geodesics.core.path import GreatCircle, Path
from latent_geodesics.core.records import BoundaryProblem
from latent_geodesics.core.solvers import BoundarySolver
from latent_geodesics.experiments.distances.store import Leg
from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.models.scores import Score

__all__ = ["GREAT_CIRCLE", "GEODESIC", "LegFinder"]

GEODESIC = "geodesic"
GREAT_CIRCLE = "great_circle"


class LegFinder:
    """Finds the path between two latents, and the density along it.

    Args:
        model: The diffusion model.
        score: Which score of it makes the geometry.
        condition: The embedding that the density is conditioned on, the same for all.
        tau: Noise level of the latents.
        alpha: Power of the density.
        radius: Radius of the sphere that all latents lie on.
        solver: Solver of the boundary problem.
        pieces: Pieces of the quadrature of a path in closed form; a solved one has a piece between its knots.
    """

    def __init__(
        self,
        *,
        model: LatentModel,
        score: Score,
        condition: Float[Tensor, "1 l c"],
        tau: float,
        alpha: float,
        radius: float,
        solver: BoundarySolver,
        pieces: int,
    ) -> None:
        self.model, self.score, self.condition, self.tau = model, score, condition, tau
        self.alpha, self.solver, self.pieces = alpha, solver, pieces
        self.sphere = Sphere(radius)

    def find(self, kind: str, x0: Float[Tensor, "p d"], x1: Float[Tensor, "p d"]) -> list[Leg]:
        """The paths of one kind from `x0` to `x1`, which lie on the sphere."""
        return self._geodesics(x0, x1) if kind == GEODESIC else self._great_circles(x0, x1)

    def _geodesics(self, x0: Float[Tensor, "p d"], x1: Float[Tensor, "p d"]) -> list[Leg]:
        started = time.perf_counter()
        field = self._field(len(x0))
        problem = BoundaryProblem(field=field, manifold=self.sphere, x0=x0, x1=x1, alpha=self.alpha)
        solution = self.solver.solve(problem)
        stats = {name: solution.stats[name] for name in ("evaluations", "residual")}
        return self._legs(solution.path, [status.value for status in solution.status], stats, started)

    def _great_circles(self, x0: Float[Tensor, "p d"], x1: Float[Tensor, "p d"]) -> list[Leg]:
        none = torch.zeros(len(x0))
        stats = {"evaluations": none, "residual": none}
        path = GreatCircle(x0=x0, x1=x1, sphere=self.sphere)
        return self._legs(path, [GREAT_CIRCLE] * len(x0), stats, time.perf_counter())

    def _legs(
        self, path: Path, statuses: Sequence[str], stats: Mapping[str, Float[Tensor, " p"]], started: float
    ) -> list[Leg]:
        pieces = self.pieces if isinstance(path, GreatCircle) else 1
        profile = density_profile(path, self._field(path.pairs), pieces=pieces)
        seconds = (time.perf_counter() - started) / path.pairs
        arcs = profile.length(0.0).value
        return [
            Leg(
                status=statuses[row],
                seconds=seconds,
                evaluations=int(stats["evaluations"][row]),
                residual=float(stats["residual"][row]),
                arc=float(arcs[row]),
                u=profile.u.numpy(),
                widths=profile.widths.numpy(),
                log_density=profile.log_density[row].cpu().numpy(),
                error=profile.error[row].cpu().numpy(),
                speed=profile.speed[row].cpu().numpy(),
            )
            for row in range(path.pairs)
        ]

    def _field(self, pairs: int) -> ScoreField:
        return self.model.field(condition0=self.condition.expand(pairs, -1, -1), tau=self.tau, score=self.score)
