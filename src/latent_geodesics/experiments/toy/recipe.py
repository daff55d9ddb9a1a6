r"""Toy: geodesics and straight lines over densities in the plane, with the density along them (the paper's Figure 1).

For each scene: the straight line, the geodesic by every solver, the geodesic in closed form where it is known, and the
path that a Runge-Kutta integrator follows from the geodesic's first velocity, on beyond the second end.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter

import numpy as np
import pandas as pd

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.records import Status
from latent_geodesics.core.solvers import BoundarySolver, RungeKutta4
from latent_geodesics.data.scenes import Scene
from latent_geodesics.experiments.toy.figures import draw_gallery, draw_scene, path_title
from latent_geodesics.experiments.toy.paths import CARRIED, find_paths, path_rows
from latent_geodesics.run.each import Rows
from latent_geodesics.run.files import file_stem
from latent_geodesics.run.plane_figures import PlaneTrack
from latent_geodesics.run.results import non_finite
from latent_geodesics.run.runner import Run

LEAD = (
    "A geodesic is the path on which ∫ p^−α |γ′| du is least: it goes round where the density is low. The straight "
    "line does not."
)
FIGURE_NOTE = (
    "Contours and shade: the density. Arrows: its score, the gradient of the log-density. Hatched: where it is not "
    "defined. Below each map: the density along the paths, at positions u of constant Euclidean speed, over the most "
    "in sight. Dots: Runge-Kutta from the geodesic's first velocity."
)
COLUMNS = {
    "method": "path", "status": "status", "length": "length relative to A",
    "length_over_straight": "length over the straight line's", "density_min": "least density, over that at A",
    "log_density_mean": "mean log-density, nats above A", "residual": "residual",
    "deviation": "deviation from the closed form", "end_miss": "distance from B at u = 1",
    "evaluations": "score evaluations", "seconds": "seconds",
}  # fmt: skip
SUMMARISED = ("length", "length_over_straight", "density_min", "residual", "deviation", "end_miss", "evaluations")


class Toy:
    """Creates the experiment of drawing geodesics in the plane.

    Args:
        scenes: Densities with two ends each.
        solvers: Name -> boundary solver; the first one's geodesic is carried on.
        integrator: Follows the geodesic from its first velocity.
        beyond: How far it is followed beyond the second end, as a share of the way there; at least 0.
    """

    shares_work = True

    def __init__(
        self, *, scenes: Sequence[Scene], solvers: Mapping[str, BoundarySolver], integrator: RungeKutta4, beyond: float
    ) -> None:
        if not solvers:
            raise UserError("No solver was chosen: give task.solvers at least one.")
        if isinstance(beyond, bool) or not isinstance(beyond, int | float) or not 0 <= beyond <= 10:
            raise UserError(f"beyond must be a share of the way between 0 and 10, got {beyond!r}.")
        self.scenes, self.solvers, self.integrator, self.beyond = scenes, solvers, integrator, float(beyond)

    def run(self, run: Run) -> Mapping[str, float]:
        """Solves and draws every scene; returns `<density>/<path>/<column>` and how often the geodesic is shortest."""
        run.record_environment(weights={})
        scenes = [[scene] for scene in self.scenes]
        tables = run.each(scenes, partial(self.work, run), read=itemgetter(0), made_with={})
        if not run.leads:
            return {}
        results = tables["results"]
        tracks = {
            name: map(PlaneTrack.of, kept) for of_scene in tables.kept("tracks") for name, kept in of_scene.items()
        }
        drawn = [(scene, list(tracks[scene.name])) for scene in self.scenes if scene.name in tracks]
        draw_gallery(run.folder / "figures" / "toy.png", drawn)
        page = run.page(
            "Geodesics of densities in the plane",
            LEAD,
            densities=tables.counted,
            solvers=", ".join(map(path_title, self.solvers)),
        )
        page.section("All densities", FIGURE_NOTE, pictures={"figures/toy.png": "Each density with its paths"})
        shown = results.assign(method=results["method"].map(path_title))[list(COLUMNS)].rename(columns=COLUMNS)
        for scene, _ in drawn:
            picture = {f"figures/{file_stem(scene.name)}.png": f"alpha = {scene.alpha:g}"}
            table = shown[results["pair"] == scene.name]
            page.section(scene.title[0].upper() + scene.title[1:], table=table, pictures=picture)
        summary = _summary(results, list(self.solvers))
        return run.finish(page, tables, summary=summary, broken=self._broken(results, run))

    def work(self, run: Run, scene: Scene) -> Rows:
        """The paths of a scene, measured and drawn."""
        rows, paths = run.rows(), find_paths(scene, self.solvers, self.integrator, beyond=self.beyond)
        tracks = [path.track(scene) for path in paths]
        rows.add("results", *path_rows(scene, paths, tracks))
        rows.file(f"figures/{file_stem(scene.name)}.png", lambda file: draw_scene(file, scene, tracks))
        rows.kept["tracks"] = {scene.name: [track.kept() for track in tracks]}
        return rows

    def _broken(self, results: pd.DataFrame, run: Run) -> str | None:
        """The scenes whose density was not finite on the way.

        A log-density of NaN may well have a finite derivative, so the status alone does not tell.
        """
        unfinished = (results["status"] == Status.NON_FINITE_SCORE.value) | ~np.isfinite(results["length"])
        named = results[unfinished & results["method"].isin(self.solvers)]["pair"].unique()
        remedy = "check log_prob where its paths went, move the ends, or lower alpha"
        return non_finite(named, run.folder, remedy, of="density")


def _summary(results: pd.DataFrame, solvers: Sequence[str]) -> dict[str, float]:
    """Every number under `<density>/<path>/<column>`, and the worst case of each path over all densities."""
    summary: dict[str, float] = {"densities": float(results["pair"].nunique())}
    for row in results.to_dict("records"):
        found = {f"{row['pair']}/{row['method']}/{column}": float(row[column]) for column in SUMMARISED}
        summary |= {name: value for name, value in found.items() if np.isfinite(value)}
    for method in (*solvers, CARRIED):
        rows = results[results["method"] == method]
        worst = rows[["length_over_straight", "deviation", "end_miss"]].max()
        summary |= {f"{method}/{column}_max": float(value) for column, value in worst.items() if not np.isnan(value)}
        if method != CARRIED:
            summary[f"{method}/shorter_than_straight"] = float((rows["length_over_straight"] < 1).mean())
            summary[f"{method}/converged"] = float(rows["status"].isin(Status.solved()).mean())
    return summary
