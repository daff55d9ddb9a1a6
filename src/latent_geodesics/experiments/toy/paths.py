"""The paths of a scene in the plane, and what is measured of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core import geometry
from latent_geodesics.core.path import Path, StraightLine
from latent_geodesics.core.records import BoundaryProblem, InitialProblem, Status
from latent_geodesics.core.solvers import BoundarySolver, RungeKutta4
from latent_geodesics.data.scenes import Scene
from latent_geodesics.run.plane_figures import PlaneTrack

SAMPLES = 1025
STRAIGHT, CARRIED, EXACT = "straight_line", "carried_on", "exact"


@dataclass(frozen=True, kw_only=True)
class PlanePath:
    """A path of a scene.

    Attributes:
        method: What made it.
        status: How it ended.
        points: The points at shares of its way, [n] -> [n 2].
        path: The same as a path; None for points in closed form.
        end: The position to which it goes; 1 is the second end of the scene.
        evaluations: Score evaluations that it took.
        seconds: Time that it took.
    """

    method: str
    status: str
    points: Callable[[Float[Tensor, " n"]], Float[Tensor, "n 2"]]
    path: Path | None = None
    end: float = 1.0
    evaluations: int = 0
    seconds: float = 0.0

    def track(self, scene: Scene) -> PlaneTrack:
        """The path at positions whose spacing is the same for all paths."""
        to_end = torch.linspace(0, 1, SAMPLES, dtype=torch.float64)
        further = torch.linspace(1, self.end, 1 + round((self.end - 1) * (SAMPLES - 1)), dtype=torch.float64)[1:]
        u = torch.cat([to_end, further]) / self.end
        points = self.points(u)
        log_p = scene.density.log_prob(points[None], u[None])[0].detach()
        return PlaneTrack(
            method=self.method,
            u=self.end * u.numpy(),
            points=points.numpy(),
            log_density=log_p.numpy(),
            every=(SAMPLES - 1) // 16,
        )


def find_paths(
    scene: Scene, solvers: Mapping[str, BoundarySolver], integrator: RungeKutta4, *, beyond: float
) -> list[PlanePath]:
    """The straight line, each solver's geodesic, the first of them carried on, and the geodesic in closed form."""
    problem = scene.problem
    line = StraightLine(x0=problem.x0, x1=problem.x1)
    found = [_along(line, method=STRAIGHT, status=Status.CLOSED_FORM.value)]
    found += [_solved(name, solver, problem) for name, solver in solvers.items()]
    first = found[1]
    if first.status != Status.NON_FINITE_SCORE.value:
        assert first.path is not None
        start = InitialProblem(
            field=problem.field,
            manifold=problem.manifold,
            x0=problem.x0,
            v0=(1 + beyond) * first.path.velocity(torch.zeros(1, dtype=torch.float64))[:, 0],
            geometry=problem.geometry,
        )
        found.append(_solved(CARRIED, integrator, start, end=1 + beyond))
    exact = scene.exact
    if exact is not None:
        found.append(
            PlanePath(method=EXACT, status=Status.CLOSED_FORM.value, points=lambda u: exact(scene.a, scene.b, u))
        )
    return found


def _solved(
    method: str,
    solver: BoundarySolver | RungeKutta4,
    problem: BoundaryProblem | InitialProblem,
    *,
    end: float = 1.0,
) -> PlanePath:
    started = time.perf_counter()
    solution = solver.solve(problem)  # type: ignore[arg-type]  # each kind of solver is given its own kind of problem
    return _along(
        solution.path,
        method=method,
        status=solution.status[0].value,
        end=end,
        evaluations=int(solution.stats["evaluations"][0]),
        seconds=time.perf_counter() - started,
    )


def _along(path: Path, **known: Any) -> PlanePath:
    return PlanePath(points=lambda u: path.point(u)[0], path=path, **known)


def path_rows(scene: Scene, paths: Sequence[PlanePath], tracks: Sequence[PlaneTrack]) -> list[dict[str, Any]]:
    """The lines of `results.csv` for one scene; lengths and densities up to the second end only."""
    tracks = [track.up_to_end() for track in tracks]
    lengths = [_length(track, scene.alpha) for track in tracks]
    exact = {track.method: track.points for track in tracks}.get(EXACT)
    apart = float((scene.b - scene.a).norm())
    rows = []
    for path, track, length in zip(paths, tracks, lengths, strict=True):
        log_density = track.log_density - track.log_density[0]
        off = np.nan if exact is None else np.linalg.norm(track.points - exact, axis=-1).max()
        rows.append(
            {
                "pair": scene.name,
                "method": path.method,
                "status": path.status,
                "seconds": path.seconds,
                "evaluations": path.evaluations,
                "alpha": scene.alpha,
                "length": length,
                "length_over_straight": length / lengths[0],
                "density_min": float(np.exp(log_density.min())),
                "log_density_mean": float(log_density.mean()),
                "residual": _residual(scene, path),
                "deviation": float(off / apart),
                "end_miss": float(np.linalg.norm(track.points[-1] - scene.b.numpy()) / apart),
            }
        )
    return rows


def _length(track: PlaneTrack, alpha: float) -> float:
    """`int (p / p(a))^-alpha |g'| du` by the trapezoidal rule over the samples."""
    steps = np.linalg.norm(np.diff(track.points, axis=0), axis=-1)
    with np.errstate(over="ignore"):
        cost = np.exp(-alpha * (track.log_density - track.log_density[0]))
    return float(((cost[1:] + cost[:-1]) / 2 * steps).sum())


def _residual(scene: Scene, found: PlanePath) -> float:
    """Mean norm of the geodesic gradient at 63 inner positions; NaN for points in closed form."""
    if found.path is None:
        return float("nan")
    u = torch.linspace(0, 1, 65, dtype=torch.float64)[1:-1]
    values = geometry.residual(found.path, scene.density, scene.problem.manifold, scene.alpha, u)
    return float(values.mean())
