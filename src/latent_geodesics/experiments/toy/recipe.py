r"""Toy: geodesics and straight lines over densities in the plane, with the density along them (the paper's Figure 1).

For each scene: the straight line, the geodesic by every solver, the geodesic in closed form where it is known, and the
path that a Runge-Kutta integrator follows from the geodesic's first velocity, on beyond the second end.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from latent_geodesics.core import geometry
from latent_geodesics.core.errors import UserError
from latent_geodesics.core.path import Path, StraightLine
from latent_geodesics.core.records import InitialProblem, Solution, Status
from latent_geodesics.core.solvers import BoundarySolver, RungeKutta4
from latent_geodesics.data.scenes import Scene
from latent_geodesics.methods.statuses import CLOSED_FORM
from latent_geodesics.run.files import write_text
from latent_geodesics.run.markup import csv_text
from latent_geodesics.run.names import file_stem
from latent_geodesics.run.pages import Picture, Section, write_page
from latent_geodesics.run.plane_figures import Track, draw_gallery, draw_scene
from latent_geodesics.run.runner import Run

__all__ = ["Toy"]

SAMPLES = 1025
STRAIGHT, CARRIED, EXACT = "straight_line", "carried_on", "exact"
COLUMNS = {
    "pair": "density",
    "method": "path",
    "status": "status",
    "length": "length relative to A",
    "length_over_straight": "length over the straight line's",
    "density_min": "least density, over that at A",
    "log_density_mean": "mean log-density, nats above A",
    "residual": "residual",
    "deviation": "deviation from the closed form",
    "end_miss": "distance from B at u = 1",
    "evaluations": "score evaluations",
    "seconds": "seconds",
}


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A path of a scene before it is measured."""

    method: str
    status: str
    seconds: float = 0.0
    evaluations: int = 0
    path: Path | None = None
    end: float = 1.0
    points: Tensor | None = None


class Toy:
    """Creates the task of drawing geodesics in the plane.

    Args:
        scenes: densities with two ends each.
        solvers: name -> boundary solver; the first one's geodesic is carried on.
        integrator: follows the geodesic from its first velocity.
        beyond: how far it is followed beyond the second end, as a share of the way there; at least 0.
    """

    def __init__(
        self,
        *,
        scenes: Sequence[Scene],
        solvers: Mapping[str, BoundarySolver],
        integrator: RungeKutta4,
        beyond: float,
    ) -> None:
        if not solvers:
            raise UserError("No solver was chosen: give task.solvers at least one.")
        if isinstance(beyond, bool) or not isinstance(beyond, int | float) or not 0 <= beyond <= 10:
            raise UserError(f"beyond must be a share of the way between 0 and 10, got {beyond!r}.")
        self.scenes, self.solvers, self.integrator, self.beyond = scenes, solvers, integrator, float(beyond)

    def run(self, run: Run) -> Mapping[str, float]:
        """Solves and draws every scene; returns `<density>/<path>/<column>` and how often the geodesic is shortest.

        Raises:
            UserError: when the density of some scene was not finite where a solver went (all is written first).
        """
        run.record_environment(weights={})
        rows: list[dict[str, Any]] = []
        drawn: list[tuple[Scene, list[Track]]] = []
        for scene in tqdm(self.scenes, desc="densities", unit="scene"):
            found = self._paths(scene)
            tracks = [_track(scene, path) for path in found]
            rows += _rows(scene, found, tracks)
            write_text(run.folder / "results.csv", csv_text(pd.DataFrame(rows)))
            draw_scene(run.folder / "figures" / f"{file_stem(scene.name)}.png", scene, tracks)
            run.logger.picture(
                f"figures/{file_stem(scene.name)}", run.folder / "figures" / f"{file_stem(scene.name)}.png"
            )
            drawn.append((scene, tracks))
        draw_gallery(run.folder / "figures" / "toy.png", drawn)
        run.logger.picture("toy", run.folder / "figures" / "toy.png")
        table = pd.DataFrame(rows)
        run.logger.table("results", list(table.columns), table.to_numpy().tolist())
        _write_report(run.folder, table, self.scenes, self.solvers)
        _refuse_broken(table[table["method"].isin(self.solvers)], run.folder)
        return _summarise(table, list(self.solvers))

    def _paths(self, scene: Scene) -> list[_Found]:
        problem = scene.problem
        line = StraightLine(x0=problem.x0, x1=problem.x1)
        found = [_Found(method=STRAIGHT, status=CLOSED_FORM, path=line)]
        for name, solver in self.solvers.items():
            started = time.perf_counter()
            found.append(_solved(name, solver.solve(problem), time.perf_counter() - started))
        first = found[1]
        if first.path is not None and first.status != Status.NON_FINITE_SCORE.value:
            found.append(self._carry_on(scene, first.path))
        if scene.exact is not None:
            points = scene.exact(scene.a, scene.b, torch.linspace(0, 1, SAMPLES, dtype=torch.float64))
            found.append(_Found(method=EXACT, status=CLOSED_FORM, points=points))
        return found

    def _carry_on(self, scene: Scene, path: Path) -> _Found:
        """Follows the geodesic from its first velocity, to `u = 1 + beyond`."""
        problem, end = scene.problem, 1 + self.beyond
        start = InitialProblem(
            field=problem.field,
            manifold=problem.manifold,
            x0=problem.x0,
            v0=end * path.velocity(torch.zeros(1, dtype=torch.float64))[:, 0],
            geometry=problem.geometry,
        )
        started = time.perf_counter()
        solution = self.integrator.solve(start)
        return _solved(CARRIED, solution, time.perf_counter() - started, end=end)


def _solved(method: str, solution: Solution, seconds: float, *, end: float = 1.0) -> _Found:
    return _Found(
        method=method,
        status=solution.status[0].value,
        seconds=seconds,
        evaluations=int(solution.stats["evaluations"][0]),
        path=solution.path,
        end=end,
    )


def _track(scene: Scene, found: _Found) -> Track:
    """A path at positions whose spacing is the same for all of them."""
    to_end = torch.linspace(0, 1, SAMPLES, dtype=torch.float64)
    further = torch.linspace(1, found.end, 1 + round((found.end - 1) * (SAMPLES - 1)), dtype=torch.float64)[1:]
    u = torch.cat([to_end, further]) / found.end
    if found.path is not None:
        points = found.path.point(u)[0]
    else:
        assert found.points is not None
        points = found.points
    log_p = scene.density.log_prob(points[None], u[None])[0].detach()
    return Track(
        method=found.method,
        u=found.end * u.numpy(),
        points=points.numpy(),
        log_density=log_p.numpy(),
        every=(SAMPLES - 1) // 16,
    )


def _rows(scene: Scene, found: Sequence[_Found], tracks: Sequence[Track]) -> list[dict[str, Any]]:
    """The lines of `results.csv` for one scene; lengths and densities up to the second end only."""
    lengths = [_length(track, scene.alpha) for track in tracks]
    exact = {track.method: track.points for track in tracks}.get(EXACT)
    rows = []
    for path, track, length in zip(found, tracks, lengths, strict=True):
        to_end = track.u <= 1 + 1e-9
        log_density = track.log_density[to_end] - track.log_density[0]
        points = track.points[to_end]
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
                "deviation": np.nan if exact is None else _deviation(points, exact, scene),
                "end_miss": _share(points[-1] - scene.b.numpy(), scene),
            }
        )
    return rows


def _length(track: Track, alpha: float) -> float:
    """`int (p / p(a))^-alpha |g'| du` up to the second end, by the trapezoidal rule over the samples."""
    to_end = track.u <= 1 + 1e-9
    points, log_p = track.points[to_end], track.log_density[to_end]
    steps = np.linalg.norm(np.diff(points, axis=0), axis=-1)
    with np.errstate(over="ignore"):
        cost = np.exp(-alpha * (log_p - log_p[0]))
    return float(((cost[1:] + cost[:-1]) / 2 * steps).sum())


def _residual(scene: Scene, found: _Found) -> float:
    """Mean norm of the geodesic gradient at 63 inner positions; none for points in closed form."""
    if found.path is None:
        return float("nan")
    u = torch.linspace(0, 1, 65, dtype=torch.float64)[1:-1]
    values = geometry.residual(found.path, scene.density, scene.problem.manifold, scene.alpha, u)
    return float(values.mean())


def _deviation(points: np.ndarray, exact: np.ndarray, scene: Scene) -> float:
    """The largest distance of a path from the geodesic in closed form at the same position."""
    return _share((points - exact)[np.linalg.norm(points - exact, axis=-1).argmax()], scene)


def _share(offset: Float[np.ndarray, " 2"], scene: Scene) -> float:
    """The size of an offset as a share of the distance of the ends."""
    return float(np.linalg.norm(offset) / float((scene.b - scene.a).norm()))


def _summarise(table: pd.DataFrame, solvers: Sequence[str]) -> dict[str, float]:
    """Every number under `<density>/<path>/<column>`, and the worst case of each path over all densities."""
    numbers = ["length", "length_over_straight", "density_min", "residual", "deviation", "end_miss", "evaluations"]
    summary: dict[str, float] = {"densities": float(table["pair"].nunique())}
    for row in table.to_dict("records"):
        for column in numbers:
            if np.isfinite(row[column]):
                summary[f"{row['pair']}/{row['method']}/{column}"] = float(row[column])
    for method in (*solvers, CARRIED):
        rows = table[table["method"] == method]
        for column in ("length_over_straight", "deviation", "end_miss"):
            if rows[column].notna().any():
                summary[f"{method}/{column}_max"] = float(rows[column].max())
    for method in solvers:
        rows = table[table["method"] == method]
        summary[f"{method}/shorter_than_straight"] = float((rows["length_over_straight"] < 1).mean())
        summary[f"{method}/converged"] = float(rows["status"].isin(Status.solved()).mean())
    return summary


def _write_report(
    folder: File, table: pd.DataFrame, scenes: Sequence[Scene], solvers: Mapping[str, BoundarySolver]
) -> None:
    words = table.replace({"method": {"_": " "}}, regex=True)
    shown = words[list(COLUMNS)].rename(columns=COLUMNS)
    write_page(
        folder,
        title="Geodesics of densities in the plane",
        lead="A geodesic is the path on which ∫ p^−α |γ′| du is least: it goes round where the density is low. The "
        "straight line does not.",
        facts={"densities": len(scenes), "solvers": ", ".join(solvers)},
        sections=[
            Section(
                title="All densities",
                text=[
                    "Contours and shade: the density. Arrows: its score, the gradient of the log-density. Hatched: "
                    "where it is not defined. Below each map: the density along the paths, at positions u of constant "
                    "Euclidean speed, over the most in sight. Dots: Runge-Kutta from the geodesic's first velocity."
                ],
                pictures=[Picture(file="figures/toy.png", caption="Each density with its paths")],
            ),
            *[
                Section(
                    title=scene.title[0].upper() + scene.title[1:],
                    pictures=[Picture(file=f"figures/{file_stem(scene.name)}.png", caption=f"alpha = {scene.alpha:g}")],
                    table=shown[table["pair"] == scene.name],
                )
                for scene in scenes
            ],
        ],
    )


def _refuse_broken(table: pd.DataFrame, folder: File) -> None:
    # A log-density of NaN may well have a finite derivative, so the status alone does not tell.
    broken = table[(table["status"] == Status.NON_FINITE_SCORE.value) | ~np.isfinite(table["length"])]
    if len(broken):
        named = ", ".join(dict.fromkeys(broken["pair"]))
        raise UserError(
            f"The density of {named} was not finite where a path went: what was found is in '{folder}'; check log_prob "
            "there, move the ends, or lower alpha."
        )
