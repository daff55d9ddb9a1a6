r"""Pipelines: interpolation and extrapolation of one pair of images, step by step (the paper's Figure 2).

Interpolation: both images are encoded, carried to the noise level tau by DDIM inversion, joined by a geodesic, and its
points are denoised and decoded. Extrapolation: the geodesic that leaves the second image with the velocity at which the
first one arrived there, under the second image's prompt alone.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.path import Path
from latent_geodesics.core.records import InitialProblem, Solution, Status
from latent_geodesics.core.solvers import BoundarySolver, RungeKutta4
from latent_geodesics.data import PairData, read_batch
from latent_geodesics.data.images import as_uint8
from latent_geodesics.data.starts import pick_pairs
from latent_geodesics.experiments.pipelines.diagram import Ends, Pipeline, Points, draw_pipelines
from latent_geodesics.methods import EncodedPairs, PairEncoder
from latent_geodesics.metrics import closed_curves
from latent_geodesics.models import LatentModel
from latent_geodesics.run.files import write_text
from latent_geodesics.run.markup import csv_text
from latent_geodesics.run.names import SOLVER_TITLES, file_stem
from latent_geodesics.run.pages import Picture, Section, settings_of, write_page
from latent_geodesics.run.runner import Run
from latent_geodesics.run.strips import save_animation, save_strip

__all__ = ["Pipelines"]

SHOWN = 5
COLUMNS = {
    "pair": "pair",
    "method": "pipeline",
    "status": "status",
    "evaluations": "score evaluations",
    "length": "relative length",
    "log_density_min": "least log-density",
    "log_density_mean": "mean log-density",
    "residual": "residual",
    "closure": "closure, nats",
    "strength": "strength",
    "seconds": "seconds",
}


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What one pipeline made: its path, the images along it, and the latents there as images."""

    method: str
    solution: Solution
    seconds: float
    u: Float[Tensor, " n"]
    noisy: Float[Tensor, "n 3 h w"]
    images: Float[Tensor, "n 3 h w"]
    numbers: Mapping[str, float]


class Pipelines:
    """Creates the task of drawing both pipelines.

    Args:
        model: the diffusion model.
        data: where the pair is found.
        pair: its id; two files of the user's own need none.
        solver: solves the boundary value problem.
        integrator: solves the initial value problem.
        beyond: how far extrapolation goes, as a share of the length of the interpolation, above 0.
        frames: images of each sequence, one more than a multiple of 4, so that quarters are among them.
        encoder: the other arguments of a `PairEncoder`, without the seed.
    """

    def __init__(
        self,
        *,
        model: LatentModel,
        data: PairData,
        pair: str,
        solver: BoundarySolver,
        integrator: RungeKutta4,
        beyond: float,
        frames: int,
        encoder: Mapping[str, Any],
    ) -> None:
        if isinstance(beyond, bool) or not isinstance(beyond, int | float) or not 0 < beyond < float("inf"):
            raise UserError(f"beyond must be a finite number above 0, got {beyond!r}.")
        if isinstance(frames, bool) or not isinstance(frames, int) or frames < SHOWN or (frames - 1) % (SHOWN - 1):
            raise UserError(f"frames must be 5, 9, 13, 17, ..., so that the quarters are among them, got {frames!r}.")
        self.model, self.pair = model, pick_pairs(data.pairs, [pair])[0]
        self.solver, self.integrator, self.beyond, self.frames = solver, integrator, float(beyond), frames
        self._encoder = dict(encoder)
        PairEncoder(model=model, **self._encoder)  # so that a number out of range is refused before anything starts

    def run(self, run: Run) -> Mapping[str, float]:
        """Runs both pipelines on the pair and draws them; returns `<pipeline>/<column>` and the round trips in dB.

        Raises:
            UserError: when the score of a path was not finite (all is written first).
        """
        run.record_environment(weights={"model": self.model.fingerprint}, machinery=self.model.machinery)
        rows: list[dict[str, Any]] = []
        with tqdm(total=4, desc="pipelines", unit="step") as steps:
            encoder = PairEncoder(model=self.model, seed=run.seed, **self._encoder)
            pairs = encoder.encode(read_batch([self.pair], size=self.model.image_size)).sound
            clean = self.model.decode(self.model.encode(_inputs(pairs)))
            steps.update()
            results: list[_Result] = []
            for pipeline in (self._interpolate, self._extrapolate):
                results.append(pipeline(pairs, results))
                rows.append(self._row(results[-1]))
                write_text(run.folder / "results.csv", csv_text(pd.DataFrame(rows)))
                steps.update()
            self._draw(run, pairs, clean, results)
            steps.update()
        table = pd.DataFrame(rows)
        run.logger.table("results", list(table.columns), table.to_numpy().tolist())
        self._write_report(run, table)
        broken = table[table["status"] == Status.NON_FINITE_SCORE.value]
        if len(broken):
            raise UserError(
                f"The score of the {' and the '.join(broken['method'])} was not finite: what was found is in "
                f"'{run.folder}'; try a larger tau, a smaller alpha, or a smaller task.beyond."
            )
        return _summarise(table) | _round_trips(pairs, clean, results[0])

    def _interpolate(self, pairs: EncodedPairs, before: Sequence[_Result]) -> _Result:
        """The geodesic between the two latents."""
        del before
        started = time.perf_counter()
        solution = self.solver.solve(pairs.problem)
        u = torch.linspace(0, 1, self.frames, dtype=torch.float64)
        images = pairs.decode(solution.path, u)[0]
        return _Result(
            method="interpolation",
            solution=solution,
            seconds=time.perf_counter() - started,
            u=u,
            noisy=self.model.decode(_on_own_norms(pairs, solution.path, u)),
            images=images,
            numbers=_numbers(pairs, solution.path, pairs.problem.field),
        )

    def _extrapolate(self, pairs: EncodedPairs, before: Sequence[_Result]) -> _Result:
        """The geodesic that leaves the second latent as the interpolation arrives there."""
        started = time.perf_counter()
        arrival = before[0].solution.path.velocity(torch.ones(1, dtype=torch.float64))[:, 0]
        field = self.model.field(condition0=pairs.condition_b, tau=pairs.tau, score=self._encoder["score"])
        solution = self.integrator.solve(
            InitialProblem(
                field=field,
                manifold=pairs.problem.manifold,
                x0=pairs.problem.x1,
                v0=self.beyond * arrival,
                geometry=pairs.problem.geometry,
            )
        )
        u = torch.linspace(0, 1, self.frames, dtype=torch.float64)
        points = solution.path.point(u)[0] * (pairs.norms_b / pairs.problem.x1.norm(dim=-1))
        condition = pairs.condition_b.expand(len(u), -1, -1)
        images = self.model.decode(points, condition=condition, tau=pairs.tau, guidance=pairs.guidance)
        return _Result(
            method="extrapolation",
            solution=solution,
            seconds=time.perf_counter() - started,
            u=1 + self.beyond * u,
            noisy=self.model.decode(points),
            images=images,
            numbers=_numbers(pairs, solution.path, field),
        )

    def _row(self, result: _Result) -> dict[str, Any]:
        return {
            "pair": self.pair.id,
            "method": result.method,
            "status": result.solution.status[0].value,
            "seconds": result.seconds,
            "evaluations": int(result.solution.stats["evaluations"][0]),
            **result.numbers,
        }

    def _draw(self, run: Run, pairs: EncodedPairs, clean: Float[Tensor, "2 3 h w"], results: Sequence[_Result]) -> None:
        """The diagram, the two sequences as strips, and both in a row as an animation."""
        interpolation, extrapolation = results
        a, b = (
            Ends(
                letter=letter,
                prompt=prompt,
                image=as_uint8(image),
                clean=as_uint8(clean[index]),
                noisy=as_uint8(interpolation.noisy[-index]),
            )
            for index, (letter, prompt, image) in enumerate(
                zip("AB", (self.pair.prompt_a, self.pair.prompt_b), _inputs(pairs), strict=True)
            )
        )
        draw_pipelines(
            run.folder / "figures" / "pipelines.png",
            a,
            b,
            _pipeline(interpolation, type(self.solver).__name__),
            _pipeline(extrapolation, type(self.integrator).__name__),
            tau=pairs.tau,
            density=pairs.density,
        )
        rows = {
            "A to B, at tau": interpolation.noisy,
            "A to B": interpolation.images,
            "on, at tau": extrapolation.noisy,
            "on beyond B": extrapolation.images,
        }
        save_strip(run.folder / "images" / f"{file_stem(self.pair.id)}.png", rows)
        save_animation(
            run.folder / "images" / f"{file_stem(self.pair.id)}.webp",
            torch.cat([interpolation.images, extrapolation.images[1:]]),
        )
        run.logger.picture("pipelines", run.folder / "figures" / "pipelines.png")
        run.logger.picture(
            f"strips/{file_stem(self.pair.id)}", run.folder / "images" / f"{file_stem(self.pair.id)}.png"
        )

    def _write_report(self, run: Run, table: pd.DataFrame) -> None:
        write_page(
            run.folder,
            title="From two images to a path, and beyond",
            lead="Interpolation joins two images by the geodesic between their noisy latents. Extrapolation carries on "
            "from the second image, with the velocity at which the geodesic arrived there.",
            facts=settings_of(run.config, "condition", "tau", "alpha", "guidance", "seed") | {"pair": self.pair.id},
            sections=[
                Section(
                    title="Both pipelines", pictures=[Picture(file="figures/pipelines.png", caption="Step by step")]
                ),
                Section(
                    title="All images",
                    text=[
                        "The latents at tau are shown through the decoder as if they were clean. The animation plays "
                        "the interpolation, then the extrapolation."
                    ],
                    pictures=[
                        Picture(file=f"images/{file_stem(self.pair.id)}.png", caption="Every frame of both sequences"),
                        Picture(file=f"images/{file_stem(self.pair.id)}.webp", caption="A to B, and on"),
                    ],
                    table=table[list(COLUMNS)].rename(columns=COLUMNS),
                ),
            ],
        )


def _inputs(pairs: EncodedPairs) -> Float[Tensor, "2 3 h w"]:
    return torch.cat([pairs.batch.images_a, pairs.batch.images_b])


def _on_own_norms(pairs: EncodedPairs, path: Path, u: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """The points of a path with the norms that the inverted latents of its ends have."""
    points = path.point(u)[0]
    norms = torch.lerp(pairs.norms_a, pairs.norms_b, u.to(pairs.norms_a))
    scaled: Tensor = points * (norms / points.norm(dim=-1))[:, None]
    return scaled


def _numbers(pairs: EncodedPairs, path: Path, field: Any) -> dict[str, float]:
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


def _pipeline(result: _Result, solver: str) -> Pipeline:
    """Five of a result's frames, evenly spread."""
    chosen = list(range(0, len(result.u), (len(result.u) - 1) // (SHOWN - 1)))
    return Pipeline(
        solver=SOLVER_TITLES.get(solver, solver),
        evaluations=int(result.solution.stats["evaluations"][0]),
        points=Points(
            u=result.u[chosen].tolist(),
            noisy=list(as_uint8(result.noisy[chosen])),
            images=list(as_uint8(result.images[chosen])),
        ),
    )


def _round_trips(pairs: EncodedPairs, clean: Float[Tensor, "2 3 h w"], result: _Result) -> dict[str, float]:
    """How well the autoencoder alone, and the whole way to tau and back, give the two images again; in dB."""
    inputs = _inputs(pairs)
    ends = result.images[[0, -1]]
    return {"autoencoder_psnr": _psnr(clean, inputs), "round_trip_psnr": _psnr(ends, inputs)}


def _psnr(found: Float[Tensor, "n 3 h w"], true: Float[Tensor, "n 3 h w"]) -> float:
    error = float((found.cpu() - true.cpu()).square().mean())
    return -10 * float(np.log10(max(error, 1e-12)))


def _summarise(table: pd.DataFrame) -> dict[str, float]:
    summary: dict[str, float] = {}
    for row in table.to_dict("records"):
        for column in (
            "evaluations",
            "length",
            "log_density_min",
            "log_density_mean",
            "residual",
            "closure",
            "strength",
        ):
            if np.isfinite(row[column]):
                summary[f"{row['method']}/{column}"] = float(row[column])
    return summary
