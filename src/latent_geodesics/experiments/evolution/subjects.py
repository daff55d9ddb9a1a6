"""What solvers are watched at, and what is measured and shown of each of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.records import BoundaryProblem, Solution
from latent_geodesics.core.solvers import BoundarySolver
from latent_geodesics.data import ImagePair, read_batch
from latent_geodesics.data.images import as_uint8
from latent_geodesics.data.scenes import Scene
from latent_geodesics.experiments.evolution.paths import PathStage, measure, select, watch
from latent_geodesics.methods import EncodedPairs, PairEncoder
from latent_geodesics.metrics import reference_curves
from latent_geodesics.run.files import SOLVER_TITLES, file_stem
from latent_geodesics.run.tracking import RunLogger

PLANE_POSITIONS, IMAGE_POSITIONS = 513, 65
OF_ONE_DENSITY = ("length", "log_density_min", "log_density_mean")
MEASURES = ("length", "residual", "log_density_min", "log_density_mean")
COLUMNS = {
    "method": "solver", "status": "status", "evaluations": "score evaluations",
    "iterations": "iterations", "length_first": "length at first", "length": "length at last",
    "residual_first": "residual at first", "residual": "residual at last",
    "log_density_min_first": "least log-density at first", "log_density_min": "least log-density at last",
    "log_density_mean_first": "mean log-density at first", "log_density_mean": "mean log-density at last",
    "closure": "closure at last, nats", "seconds": "seconds",
}  # fmt: skip
"""The columns of `results.csv` that the page shows, with their headings."""


@dataclass(frozen=True, kw_only=True)
class WatchedProblem:
    """A problem to watch the solvers at: one of a scene, or of a pair of images."""

    name: str
    title: str
    problem: BoundaryProblem
    positions: int
    scene: Scene | None = None
    pairs: EncodedPairs | None = None

    @classmethod
    def of(cls, item: Scene | ImagePair, encoder: Callable[[], PairEncoder]) -> "WatchedProblem":
        """The problem of a scene or of a pair; `encoder` makes what encodes the pair."""
        if isinstance(item, Scene):
            title = f"{item.title}, α = {item.alpha:g}"
            return cls(name=item.name, title=title, problem=item.problem, positions=PLANE_POSITIONS, scene=item)
        made = encoder()
        pairs = made.encode(read_batch([item], size=made.model.image_size)).sound
        title = f"pair {item.id}, density {pairs.density} at τ = {made.tau:g}, α = {made.power:.3g}"
        return cls(name=item.id, title=title, problem=pairs.problem, positions=IMAGE_POSITIONS, pairs=pairs)

    def known(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values with NaN for those that ask for one density, where there is another at each position."""
        moving = self.pairs is not None and bool(self.pairs.moving.any())
        return {name: float("nan") if moving and _of_one_density(name) else value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class WatchedSolver:
    """What a solver did with a problem, at some of its iterates.

    Attributes:
        method: Its name in tables, which gives it its colour.
        title: Its name in figures.
        solution: What it gave.
        seconds: The time that it took.
        stages: Its iterates, measured, in order.
        frames: The image in the middle of each of them, uint8 [h w 3]; none for a scene in the plane.
    """

    method: str
    title: str
    solution: Solution
    seconds: float
    stages: Sequence[PathStage]
    frames: Sequence[np.ndarray] = ()

    @property
    def images(self) -> Float[Tensor, "n 3 h w"]:
        """The frames in [0, 1]."""
        return torch.from_numpy(np.stack(self.frames)).permute(0, 3, 1, 2) / 255

    def row(self, subject: WatchedProblem) -> dict[str, Any]:
        """The line of `results.csv`."""
        first, last = self.stages[0], self.stages[-1]
        measured = {"closure": last.closure}
        for name in ("residual", *OF_ONE_DENSITY):
            measured |= {f"{name}_first": getattr(first, name), name: getattr(last, name)}
        return {
            "pair": subject.name,
            "method": self.method,
            "status": self.solution.status[0].value,
            "seconds": self.seconds,
            "evaluations": int(self.solution.stats["evaluations"][0]),
            "iterations": int(self.solution.stats["iterations"][0]),
            "alpha": subject.problem.alpha,
        } | subject.known(measured)

    def stage_rows(self, subject: WatchedProblem) -> list[dict[str, Any]]:
        """The lines of `stages.csv`: every iterate that is drawn."""
        common = {"pair": subject.name, "method": self.method}
        columns = ("evaluations", "residual", *OF_ONE_DENSITY)
        return [common | subject.known({name: getattr(one, name) for name in columns}) for one in self.stages]


def watch_solver(
    subject: WatchedProblem, method: str, solver: BoundarySolver, *, title: str, stages: int
) -> WatchedSolver:
    """Solves a problem, measures the course at some of its iterates, and decodes the middle of each."""
    problem, measured, frames = subject.problem, [], []
    started = time.perf_counter()
    course = watch(solver, problem)
    seconds = time.perf_counter() - started
    middle, reference = torch.tensor([0.5], dtype=torch.float64), reference_curves(problem)
    for iterate in select(course.iterates, stages):
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
        measured.append(found)
        if subject.pairs is not None:
            frames.append(as_uint8(subject.pairs.decode(iterate.path, middle)[0, 0]))
    return WatchedSolver(
        method=method, title=title, solution=course.solution, seconds=seconds, stages=measured, frames=frames
    )


def log_courses(logger: RunLogger, stages: pd.DataFrame) -> None:
    """Tells a logger of every measure of `stages.csv` against what it cost."""
    for named, rows in stages.groupby(["pair", "method"], sort=False):
        for measured in MEASURES:
            if rows[measured].notna().all():
                name = "/".join([measured, *(file_stem(str(part)) for part in named)])
                costs = rows["evaluations"].tolist()
                logger.curve(name, rows[measured].tolist(), against=costs, axis="score evaluations")


def solver_titles(solvers: Mapping[str, BoundarySolver]) -> dict[str, str]:
    """What figures call the solvers; two of one kind are told apart by their names in the configuration."""
    kinds = {name: type(solver).__name__ for name, solver in solvers.items()}
    words = {name: SOLVER_TITLES.get(kind, kind) for name, kind in kinds.items()}
    several = {name for name, kind in kinds.items() if list(kinds.values()).count(kind) > 1}
    return {name: f"{title} ({name.replace('_', ' ')})" if name in several else title for name, title in words.items()}


def _of_one_density(name: str) -> bool:
    return name.removesuffix("_first") in OF_ONE_DENSITY or name == "closure"
