r"""Evolution: the path, its density and its length while a solver proceeds (the paper's Figure 5).

On densities in the plane, and on one pair of images whose middle frame is decoded at some of the iterates. Every solver
is watched through the score that it asks for, and measured by the same definition, whatever its own discretisation.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.records import BoundaryProblem, Status
from latent_geodesics.core.solvers import BoundarySolver
from latent_geodesics.data import PairData, read_batch
from latent_geodesics.data.images import as_uint8
from latent_geodesics.data.scenes import Scene
from latent_geodesics.data.starts import pick_pairs
from latent_geodesics.experiments.evolution.figures import Evolution as Drawn
from latent_geodesics.experiments.evolution.figures import draw_evolution
from latent_geodesics.experiments.evolution.paths import Course, measure, select, watch
from latent_geodesics.methods import EncodedPairs, PairEncoder
from latent_geodesics.metrics import reference_curves
from latent_geodesics.models import LatentModel
from latent_geodesics.run.files import write_text
from latent_geodesics.run.markup import csv_text
from latent_geodesics.run.names import SOLVER_TITLES, file_stem
from latent_geodesics.run.pages import Picture, Section, write_page
from latent_geodesics.run.runner import Run
from latent_geodesics.run.strips import save_strip

__all__ = ["Evolution"]

PLANE_POSITIONS = 513
IMAGE_POSITIONS = 65
OF_ONE_DENSITY = ("length", "log_density_min", "log_density_mean")
SUMMARISED = (
    "evaluations", "length", "residual", "log_density_min", "log_density_mean", "residual_first", "closure",
)  # fmt: skip
COLUMNS = {
    "pair": "pair",
    "method": "solver",
    "status": "status",
    "evaluations": "score evaluations",
    "iterations": "iterations",
    "length_first": "length at first",
    "length": "length at last",
    "residual_first": "residual at first",
    "residual": "residual at last",
    "log_density_min_first": "least log-density at first",
    "log_density_min": "least log-density at last",
    "log_density_mean_first": "mean log-density at first",
    "log_density_mean": "mean log-density at last",
    "closure": "closure at last, nats",
    "seconds": "seconds",
}


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """One problem to watch the solvers at."""

    name: str
    title: str
    problem: BoundaryProblem
    positions: int
    scene: Scene | None = None
    pairs: EncodedPairs | None = None

    @property
    def moving(self) -> bool:
        """Whether there is another density at each position, so that lengths and log-densities are of none."""
        return self.pairs is not None and bool(self.pairs.moving.any())


class Evolution:
    """Creates the task of watching boundary solvers.

    Args:
        scenes: densities in the plane with two ends each.
        solvers: name -> boundary solver.
        stages: at how many iterates a solver's course is shown, at least 2.
        pair: the id of the image pair; None for no images. Two files of the user's own need no id.
        model: the diffusion model.
        data: where the pair is found.
        encoder: makes a problem of it, given a seed: a `PairEncoder` with everything else set.
    """

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
        self.scenes, self.solvers, self.stages = scenes, solvers, stages
        self.model = model
        self.pair = None if pair is None else pick_pairs(data.pairs, [pair])[0]
        self._titles = _titles(solvers)
        self._encoder = dict(encoder)
        PairEncoder(model=model, **self._encoder)  # so that a number out of range is refused before anything starts

    def run(self, run: Run) -> Mapping[str, float]:
        """Watches every solver on every problem; returns `<pair>/<solver>/<column>`.

        Raises:
            UserError: when a score was not finite where a solver went (all is written first).
        """
        run.record_environment(weights={"model": self.model.fingerprint} if self.pair else {})
        rows: list[dict[str, Any]] = []
        stages: list[dict[str, Any]] = []
        sections: list[Section] = []
        for subject in self._subjects(run.seed):
            drawn = []
            for name, solver in self.solvers.items():
                started = time.perf_counter()
                course = watch(solver, subject.problem)
                seconds = time.perf_counter() - started
                evolution = self._follow(subject, name, course)
                drawn.append(evolution)
                rows.append(_row(subject, evolution, course, seconds))
                stages += _stage_rows(subject, evolution)
                write_text(run.folder / "results.csv", csv_text(pd.DataFrame(rows)))
                write_text(run.folder / "stages.csv", csv_text(pd.DataFrame(stages)))
            sections.append(_show(run, subject, drawn, pd.DataFrame(rows)))
        table = pd.DataFrame(rows)
        run.logger.table("results", list(table.columns), table.to_numpy().tolist())
        _write_report(run.folder, sections, self.solvers)
        _refuse_broken(table, run.folder)
        return _summarise(table)

    def _subjects(self, seed: int) -> list[_Subject]:
        """The scenes, then the pair of images."""
        found = [
            _Subject(
                name=scene.name,
                title=f"{scene.title}, α = {scene.alpha:g}",
                problem=scene.problem,
                positions=PLANE_POSITIONS,
                scene=scene,
            )
            for scene in self.scenes
        ]
        if self.pair is not None:
            encoder = PairEncoder(model=self.model, seed=seed, **self._encoder)
            pairs = encoder.encode(read_batch([self.pair], size=self.model.image_size)).sound
            found.append(
                _Subject(
                    name=self.pair.id,
                    title=f"pair {self.pair.id}, density {pairs.density} at τ = {encoder.tau:g}, α = {encoder.power:g}",
                    problem=pairs.problem,
                    positions=IMAGE_POSITIONS,
                    pairs=pairs,
                )
            )
        return found

    def _follow(self, subject: _Subject, name: str, course: Course) -> Drawn:
        """Measures a course at some of its iterates, and decodes the middle of each."""
        problem, stages, frames = subject.problem, [], []
        middle = torch.tensor([0.5], dtype=torch.float64)
        reference = reference_curves(problem)
        chosen = select(course.iterates, self.stages)
        for iterate in tqdm(chosen, desc=f"{subject.name}, {name}", unit="iterate"):
            found = measure(
                iterate,
                problem.field,
                problem.manifold,
                problem.geometry,
                positions=subject.positions,
                reference=reference,
            )
            if not np.isfinite(found.log_density).all():
                continue
            stages.append(found)
            if subject.pairs is not None:
                frames.append(as_uint8(subject.pairs.decode(iterate.path, middle)[0, 0]))
        return Drawn(method=name, title=self._titles[name], stages=stages, frames=frames)


def _titles(solvers: Mapping[str, BoundarySolver]) -> dict[str, str]:
    """What figures call the solvers; two of one kind are told apart by their names in the configuration."""
    kinds = {name: type(solver).__name__ for name, solver in solvers.items()}
    words = {name: SOLVER_TITLES.get(kind, kind) for name, kind in kinds.items()}
    several = {name for name, kind in kinds.items() if list(kinds.values()).count(kind) > 1}
    return {name: f"{title} ({name.replace('_', ' ')})" if name in several else title for name, title in words.items()}


def _row(subject: _Subject, evolution: Drawn, course: Course, seconds: float) -> dict[str, Any]:
    """The line of `results.csv` for one solver on one problem."""
    first, last = evolution.stages[0], evolution.stages[-1]
    row: dict[str, Any] = {
        "pair": subject.name,
        "method": evolution.method,
        "status": course.solution.status[0].value,
        "seconds": seconds,
        "evaluations": int(course.solution.stats["evaluations"][0]),
        "iterations": int(course.solution.stats["iterations"][0]),
        "alpha": subject.problem.alpha,
    }
    row["closure"] = float("nan") if subject.moving else last.closure
    for measured in ("residual", *OF_ONE_DENSITY):
        known = measured not in OF_ONE_DENSITY or not subject.moving
        row[f"{measured}_first"] = getattr(first, measured) if known else float("nan")
        row[measured] = getattr(last, measured) if known else float("nan")
    return row


def _stage_rows(subject: _Subject, evolution: Drawn) -> list[dict[str, Any]]:
    """The lines of `stages.csv`: every iterate that is drawn."""
    return [
        {
            "pair": subject.name,
            "method": evolution.method,
            "evaluations": stage.evaluations,
            "residual": stage.residual,
        }
        | {name: float("nan") if subject.moving else getattr(stage, name) for name in OF_ONE_DENSITY}
        for stage in evolution.stages
    ]


def _show(run: Run, subject: _Subject, drawn: Sequence[Drawn], table: pd.DataFrame) -> Section:
    """Draws a problem, logs its curves, and makes its part of the report."""
    stem = file_stem(subject.name)
    file = run.folder / "figures" / f"evolution_{stem}.png"
    draw_evolution(file, drawn, title=subject.title, scene=subject.scene)
    run.logger.picture(f"evolution/{stem}", file)
    for evolution in drawn:
        costs = [stage.evaluations for stage in evolution.stages]
        for measured in ("length", "residual", "log_density_min", "log_density_mean"):
            values = [getattr(stage, measured) for stage in evolution.stages]
            run.logger.curve(
                f"{measured}/{stem}/{file_stem(evolution.method)}", values, against=costs, axis="score evaluations"
            )
    _save_middles(run.folder, subject, drawn)
    shown = table[table["pair"] == subject.name].replace({"method": {"_": " "}}, regex=True)
    return Section(
        title=subject.title[0].upper() + subject.title[1:],
        pictures=[Picture(file=f"figures/{file.name}", caption="From light, at first, to dark, at last.")],
        table=shown[list(COLUMNS)].rename(columns=COLUMNS),
    )


def _save_middles(folder: File, subject: _Subject, drawn: Sequence[Drawn]) -> None:
    """The middle frames of every solver as one strip."""
    rows = {
        evolution.method: torch.from_numpy(np.stack(evolution.frames)).permute(0, 3, 1, 2) / 255
        for evolution in drawn
        if len(evolution.frames)
    }
    if rows:
        save_strip(folder / "images" / f"{file_stem(subject.name, 'middle')}.png", rows)


def _summarise(table: pd.DataFrame) -> dict[str, float]:
    summary: dict[str, float] = {}
    for row in table.to_dict("records"):
        name = f"{row['pair']}/{row['method']}"
        ratios = {f"{column}_over_first": row[column] / row[f"{column}_first"] for column in ("length", "residual")}
        numbers = {column: row[column] for column in SUMMARISED} | ratios
        summary |= {f"{name}/{column}": float(value) for column, value in numbers.items() if np.isfinite(value)}
    for pair, rows in table.groupby("pair", sort=False):
        lengths = dict(zip(rows["method"], rows["length"], strict=True))
        ours = next(iter(lengths))
        for other in list(lengths)[1:]:
            if np.isfinite(lengths[other]):
                summary[f"{pair}/{ours}/length_over_{other}"] = float(lengths[ours] / lengths[other])
    return summary


def _write_report(folder: File, sections: Sequence[Section], solvers: Mapping[str, BoundarySolver]) -> None:
    write_page(
        folder,
        title="How a path evolves while it is solved for",
        lead="Each solver begins with the straight line, on the sphere of noisy latents with the great circle, and "
        "moves the path to where the density is high. Its iterates are drawn from light to dark.",
        facts={"solvers": ", ".join(solvers), "problems": len(sections)},
        sections=[
            *sections,
            Section(
                title="How it is measured",
                text=[
                    "A solver is watched through the score that it asks for: the points of one call are its path. All "
                    "solvers are measured by the same definition, at the same positions, from outside; these "
                    "evaluations are not counted. Log-densities are relative to A, by the line integral of the score; "
                    "the two ends do not count for the least and the mean.",
                ],
            ),
        ],
    )


def _refuse_broken(table: pd.DataFrame, folder: File) -> None:
    broken = table[table["status"] == Status.NON_FINITE_SCORE.value]
    if len(broken):
        named = ", ".join(dict.fromkeys(broken["pair"]))
        raise UserError(
            f"The score of {named} was not finite where a solver went: what was found is in '{folder}'; move the ends, "
            "or lower alpha."
        )
