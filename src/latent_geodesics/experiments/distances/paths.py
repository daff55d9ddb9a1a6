"""Paths between images under one density on one sphere, with the density along each.

One density for all images (a fixed condition) on one sphere: only then does the log-density belong to a point, and the
length of the shortest path between two points to the two alone.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.fields import ScoreField
from latent_geodesics.core.geometry import DensityProfile, density_profile
from latent_geodesics.core.manifold import Sphere
from latent_geodesics.core.path import GreatCircle, Path
from latent_geodesics.core.records import BoundaryProblem
from latent_geodesics.core.solvers import BoundarySolver
from latent_geodesics.experiments.distances.plan import FINER, GEODESIC, GREAT_CIRCLE, Ends, WantedPath
from latent_geodesics.methods.conditions import power_of_density
from latent_geodesics.models import LatentModel
from latent_geodesics.models.scores import Score


@dataclass(frozen=True, kw_only=True)
class Leg:
    """A path between two images with the density along it; see `geometry.DensityProfile` for the tensors.

    Attributes:
        status: How it was found.
        seconds: Its share of its batch's time.
        evaluations: Score evaluations to find it, without those along it.
        residual: Mean norm of the geodesic gradient; 0 for a path in closed form.
        arc: Its Euclidean length.
    """

    status: str
    seconds: float
    evaluations: int
    residual: float
    arc: float
    u: Float[Tensor, " m"]
    widths: Float[Tensor, " k"]
    log_density: Float[Tensor, " m"]
    error: Float[Tensor, " m"]
    speed: Float[Tensor, " m"]

    @property
    def change(self) -> float:
        """`log p` at the end less that at the start, in nats; not finite where the score was not, anywhere."""
        return float(self.log_density[-1] if self.log_density.isfinite().all() else torch.nan)

    def length(self, start: float, end: float, alpha: float) -> tuple[float, float]:
        """The length `int p^-alpha |g'| du` between ends of given log-densities, and the error of its quadrature.

        What the line integral misses of the difference of the two, since a network's score is not quite a gradient, is
        spread evenly over the path, so that the length is the same in both directions. NaN where the score was not
        finite.
        """
        profile = DensityProfile(
            u=self.u,
            widths=self.widths,
            log_density=self.log_density[None],
            error=self.error[None],
            speed=self.speed[None],
        )
        ends = torch.tensor([[start], [end]], dtype=torch.float64)
        found = profile.closed(*ends).length(alpha)
        known = bool(self.log_density.isfinite().all())
        return (float(found.value[0]), float(found.error[0])) if known else (float("nan"), float("nan"))


def legs_of(
    batches: Sequence[Sequence[WantedPath]], found: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, dict[Ends, Leg]]:
    """Kind -> ends -> the path, of what a run kept of each batch."""
    legs: dict[str, dict[Ends, Leg]] = {GEODESIC: {}, GREAT_CIRCLE: {}, FINER: {}}
    for batch, kept in zip(batches, found, strict=True):
        for path, leg in zip(batch, kept, strict=True):
            legs[path.kind][path.ends] = Leg(**leg)
    return legs


class PathFinder:
    """Finds the latents of images and the paths between them.

    Args:
        model: The diffusion model.
        score: Which score of it makes the geometry.
        solver: Solver of the geodesics.
        check_solver: A finer one, which solves some pairs again to say how fine `solver` is.
        tau: Noise level of the latents, in (0, 1).
        alpha_d: Power of the density times the dimension of a latent, at least 0; see `methods.conditions`.
        alpha: The power itself, in its place; None for none.
        pieces: Pieces of the quadrature along great circles, five evaluations each; a solved path has one between any
            two of its knots.
    """

    def __init__(
        self,
        *,
        model: LatentModel,
        score: Score,
        solver: BoundarySolver,
        check_solver: BoundarySolver,
        tau: float,
        alpha_d: float,
        pieces: int,
        alpha: float | None = None,
    ) -> None:
        if not 0 < tau < 1:
            raise UserError(f"tau is a noise level between 0 and 1 (0.6 is usual), got {tau}.")
        if pieces < 1:
            raise UserError(f"task.finder.pieces must be at least 1, got {pieces}.")
        self.model, self.score, self.tau, self.pieces = model, score, tau, pieces
        self.alpha = power_of_density(alpha_d=alpha_d, alpha=alpha, dimension=model.dimension)
        self._solver, self._check_solver = solver, check_solver

    def condition(self, prompts: Sequence[str]) -> Float[Tensor, "1 l c"]:
        """The mean of the embeddings of the different prompts."""
        return self.model.condition(list(dict.fromkeys(prompts))).mean(dim=0, keepdim=True)

    def encode(self, images: Float[Tensor, "p 3 h w"], condition: Float[Tensor, "1 l c"]) -> Float[Tensor, "p d"]:
        """The latents of images at the noise level, with their own norms."""
        return self.model.encode(images, condition=condition, tau=self.tau, remember=True)

    def find(
        self,
        paths: Sequence[WantedPath],
        *,
        x: Float[Tensor, "m d"],
        condition: Float[Tensor, "1 l c"],
        radius: float,
    ) -> list[Leg]:
        """Paths of one kind between the latents `x`, put on the sphere of a radius around 0."""
        started, sphere, kind = time.perf_counter(), Sphere(radius), paths[0].kind
        x0, x1 = (sphere.project(x[list(ends)]) for ends in zip(*(path.ends for path in paths), strict=True))
        field = self.model.field(condition0=condition.expand(len(x0), -1, -1), tau=self.tau, score=self.score)
        if kind == GREAT_CIRCLE:
            return self._measured(GreatCircle(x0=x0, x1=x1, sphere=sphere), field, started)
        problem = BoundaryProblem(field=field, manifold=sphere, x0=x0, x1=x1, alpha=self.alpha)
        solution = (self._check_solver if kind == FINER else self._solver).solve(problem)
        return [
            replace(
                leg,
                status=solution.status[row].value,
                evaluations=int(solution.stats["evaluations"][row]),
                residual=float(solution.stats["residual"][row]),
            )
            for row, leg in enumerate(self._measured(solution.path, field, started))
        ]

    def _measured(self, path: Path, field: ScoreField, started: float) -> list[Leg]:
        """Paths with the density along them, as if they were in closed form."""
        pieces = self.pieces if isinstance(path, GreatCircle) else 1
        profile = density_profile(path, field, pieces=pieces)
        arcs = profile.length(0.0).value
        seconds = (time.perf_counter() - started) / path.pairs
        curves = {name: getattr(profile, name).cpu() for name in ("log_density", "error", "speed")}
        return [
            Leg(
                status=GREAT_CIRCLE,
                seconds=seconds,
                evaluations=0,
                residual=0.0,
                arc=float(arcs[row]),
                u=profile.u,
                widths=profile.widths,
                **{name: values[row].clone() for name, values in curves.items()},
            )
            for row in range(path.pairs)
        ]
