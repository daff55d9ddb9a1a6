"""The two sequences: from one image to the other, and on beyond the second."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.fields import ScoreField
from latent_geodesics.core.path import Path
from latent_geodesics.core.records import InitialProblem, Solution
from latent_geodesics.core.solvers import BoundarySolver, RungeKutta4
from latent_geodesics.methods import EncodedPairs
from latent_geodesics.metrics import closed_curves
from latent_geodesics.models.scores import Score
from latent_geodesics.run.files import SOLVER_TITLES


@dataclass(frozen=True, kw_only=True)
class PipelineResult:
    """What one pipeline made.

    Attributes:
        solver: Its solver, in words.
        solution: The path.
        u: Positions of the images; 1 is the second image of the pair.
        noisy: The latents there, decoded as if they were clean.
        images: The images there.
        row: The line of `results.csv`.
    """

    solver: str
    solution: Solution
    u: Float[Tensor, " n"]
    noisy: Float[Tensor, "n 3 h w"]
    images: Float[Tensor, "n 3 h w"]
    row: dict[str, Any]


def interpolate(pairs: EncodedPairs, solver: BoundarySolver, u: Float[Tensor, " n"]) -> PipelineResult:
    """The geodesic between the two latents of a pair, decoded at positions."""
    started = time.perf_counter()
    solution = solver.solve(pairs.problem)
    images = pairs.decode(solution.path, u)[0]
    seconds = time.perf_counter() - started
    # The norms of the latents between those that the inverted latents of the ends have.
    points, norms = solution.path.point(u)[0], torch.lerp(pairs.norms_a, pairs.norms_b, u.to(pairs.norms_a))
    return PipelineResult(
        solver=_title(solver),
        solution=solution,
        u=u,
        noisy=pairs.model.decode(points * (norms / points.norm(dim=-1))[:, None]),
        images=images,
        row=_row("interpolation", pairs, solution, pairs.problem.field, seconds),
    )


def extrapolate(
    pairs: EncodedPairs,
    integrator: RungeKutta4,
    u: Float[Tensor, " n"],
    *,
    start: Solution,
    beyond: float,
    score: Score,
) -> PipelineResult:
    """The geodesic that leaves the second latent as the interpolation arrives there, on for a share of its length."""
    started, problem, model = time.perf_counter(), pairs.problem, pairs.model
    arrival = start.path.velocity(torch.ones(1, dtype=torch.float64))[:, 0]
    field = model.field(condition0=pairs.condition_b, tau=pairs.tau, score=score)
    solution = integrator.solve(
        InitialProblem(
            field=field, manifold=problem.manifold, x0=problem.x1, v0=beyond * arrival, geometry=problem.geometry
        )
    )
    points = solution.path.point(u)[0] * (pairs.norms_b / problem.x1.norm(dim=-1))
    condition = pairs.condition_b.expand(len(u), -1, -1)
    images = model.decode(points, condition=condition, tau=pairs.tau, guidance=pairs.guidance)
    return PipelineResult(
        solver=_title(integrator),
        solution=solution,
        u=1 + beyond * u,
        noisy=model.decode(points),
        images=images,
        row=_row("extrapolation", pairs, solution, field, time.perf_counter() - started),
    )


def _title(solver: BoundarySolver | RungeKutta4) -> str:
    return SOLVER_TITLES.get(type(solver).__name__, type(solver).__name__)


def _row(method: str, pairs: EncodedPairs, solution: Solution, field: ScoreField, seconds: float) -> dict[str, Any]:
    return {
        "pair": pairs.batch.pairs[0].id,
        "method": method,
        "status": solution.status[0].value,
        "seconds": seconds,
        "evaluations": int(solution.stats["evaluations"][0]),
        **_numbers(pairs, solution.path, field),
    }


def _numbers(pairs: EncodedPairs, path: Path, field: ScoreField) -> dict[str, float]:
    """What a path is like; of a prompt that moves along it, only what asks for no density of the whole path."""
    curves = closed_curves(path, field, pairs.problem.manifold, pairs.problem.geometry)
    of_one_density = {
        "length": float(curves.length[0]),
        "log_density_min": float(curves.log_density[0, 1:-1].min()),
        "log_density_mean": float(curves.log_density[0, 1:-1].mean()),
        "closure": float(curves.closure[0].abs()),
    }
    moving = bool(pairs.moving.any()) and field is pairs.problem.field
    return (dict.fromkeys(of_one_density, float("nan")) if moving else of_one_density) | {
        "residual": float(curves.residual[0, 1:-1].mean()),
        "strength": float(curves.strength[0]),
    }
