r"""Evolution: the path, its density and its length while a solver proceeds (the paper's Figure 5).

On densities in the plane, and on one pair of images whose middle frame is decoded at some of the iterates. Every solver
is watched through the score that it asks for, and measured by the same definition, whatever its own discretisation.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.records import Status
from latent_geodesics.core.solvers import BoundarySolver
from latent_geodesics.data import ImagePair, PairData
from latent_geodesics.data.scenes import Scene
from latent_geodesics.data.starts import pick_pairs
from latent_geodesics.experiments.evolution.figures import draw_evolution
from latent_geodesics.experiments.evolution.subjects import (
    COLUMNS,
    MEASURES,
    WatchedProblem,
    log_courses,
    solver_titles,
    watch_solver,
)
from latent_geodesics.methods import PairEncoder
from latent_geodesics.models import LatentModel
from latent_geodesics.run.each import Rows
from latent_geodesics.run.files import file_stem
from latent_geodesics.run.results import non_finite
from latent_geodesics.run.runner import Run

LEAD = (
    "Each solver begins with the straight line, on the sphere of noisy latents with the great circle, and moves the "
    "path to where the density is high. Its iterates are drawn from light to dark."
)
MEASURING_NOTE = (
    "A solver is watched through the score that it asks for: the points of one call are its path. All solvers are "
    "measured by the same definition, at the same positions, from outside; these evaluations are not counted. "
    "Log-densities are relative to A, by the line integral of the score; the two ends do not count for the least and "
    "the mean."
)
SUMMARISED = ("evaluations", *MEASURES, "residual_first", "closure")


class Evolution:
    """Creates the experiment of watching boundary solvers.

    Args:
        scenes: Densities in the plane with two ends each.
        solvers: Name -> boundary solver.
        stages: At how many iterates a solver's course is shown, at least 2.
        pair: The id of the image pair; None for no images. Two files of the user's own need no id.
        model: The diffusion model.
        data: Where the pair is found.
        encoder: Makes a problem of it, given a seed: a `PairEncoder` with everything else set.
    """

    shares_work = True

    def __init__(
        self,
        *,
        scenes: Sequence[Scene],
        solvers: Mapping[str, BoundarySolver],
        stages: int,
        pair: str | None,
        model: LatentModel,
        data: PairData,
        encoder: Mapping[str, Any],
    ) -> None:
        if not solvers:
            raise UserError("No solver was chosen: give task.solvers at least one.")
        if isinstance(stages, bool) or not isinstance(stages, int) or stages < 2:
            raise UserError(f"stages must be a whole number of at least 2, got {stages!r}.")
        self.solvers, self.titles, self.stages = solvers, solver_titles(solvers), stages
        self.subjects: list[Scene | ImagePair] = [
            *scenes,
            *(() if pair is None else pick_pairs(data.pairs, [pair])[:1]),
        ]
        self._encoder = partial(PairEncoder, model=model, **encoder)
        self._encoder(seed=0)  # so that a number out of range is refused before anything starts
        self.weights = {} if pair is None else {"model": model.fingerprint}
        self.machinery = {} if pair is None else model.machinery

    def run(self, run: Run) -> Mapping[str, float]:
        """Watches every solver on every problem; returns `<pair>/<solver>/<column>`."""
        run.record_environment(weights=self.weights, machinery=self.machinery)
        subjects = [[subject] for subject in self.subjects]
        tables = run.each(subjects, partial(self.work, run), read=itemgetter(0), made_with=self.weights)
        if not run.leads:
            return {}
        results = tables["results"]
        log_courses(run.logger, tables["stages"])
        page = run.page(
            "How a path evolves while it is solved for",
            LEAD,
            solvers=", ".join(self.titles.values()),
            problems=tables.counted,
        )
        titles = {name: title for titles in tables.kept("titles") for name, title in titles.items()}
        shown = results.assign(method=results["method"].replace(self.titles))[list(COLUMNS)].rename(columns=COLUMNS)
        for name, title in titles.items():
            picture = {f"figures/evolution_{file_stem(name)}.png": "From light, at first, to dark, at last."}
            page.section(title[0].upper() + title[1:], table=shown[results["pair"] == name], pictures=picture)
        page.section("How it is measured", MEASURING_NOTE)
        broken = results[results["status"] == Status.NON_FINITE_SCORE.value]["pair"].unique()
        refusal = non_finite(list(broken), run.folder, "move the ends, or lower alpha")
        return run.finish(page, tables, summary=_summary(results), broken=refusal)

    def work(self, run: Run, item: Scene | ImagePair) -> Rows:
        """Every solver watched on a scene or a pair of images, and drawn."""
        subject, rows = WatchedProblem.of(item, partial(self._encoder, seed=run.seed)), run.rows()
        watched = [
            watch_solver(subject, name, solver, title=self.titles[name], stages=self.stages)
            for name, solver in self.solvers.items()
        ]
        for one in watched:
            rows.add("results", one.row(subject))
            rows.add("stages", *one.stage_rows(subject))
        name = f"figures/evolution_{file_stem(subject.name)}.png"
        rows.file(name, lambda file: draw_evolution(file, watched, title=subject.title, scene=subject.scene))
        if subject.pairs is not None:
            rows.strip({one.method: one.images for one in watched if len(one.frames)}, subject.name, "middle")
        rows.kept["titles"] = {subject.name: subject.title}
        return rows


def _summary(results: pd.DataFrame) -> dict[str, float]:
    summary: dict[str, float] = {}
    for row in results.to_dict("records"):
        ratios = {f"{column}_over_first": row[column] / row[f"{column}_first"] for column in ("length", "residual")}
        numbers = {column: row[column] for column in SUMMARISED} | ratios
        name = f"{row['pair']}/{row['method']}"
        summary |= {f"{name}/{column}": float(value) for column, value in numbers.items() if np.isfinite(value)}
    for pair, rows in results.groupby("pair", sort=False):
        (ours, length), *others = zip(rows["method"], rows["length"], strict=True)
        summary |= {f"{pair}/{ours}/length_over_{name}": length / one for name, one in others if np.isfinite(one)}
    return summary
