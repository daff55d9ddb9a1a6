r"""Pipelines: interpolation and extrapolation of one pair of images, step by step (the paper's Figure 2).

Interpolation: both images are encoded, carried to the noise level tau by DDIM inversion, joined by a geodesic, and its
points are denoised and decoded. Extrapolation: the geodesic that leaves the second image with the velocity at which the
first one arrived there, under the second image's prompt alone.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.records import Status
from latent_geodesics.core.solvers import BoundarySolver, RungeKutta4
from latent_geodesics.data import PairBatch, PairData, read_batch
from latent_geodesics.data.images import psnr
from latent_geodesics.data.starts import pick_pairs
from latent_geodesics.experiments.pipelines.figures import draw_pipelines
from latent_geodesics.experiments.pipelines.results import extrapolate, interpolate
from latent_geodesics.methods import PairEncoder
from latent_geodesics.models import LatentModel
from latent_geodesics.run.each import Rows
from latent_geodesics.run.files import file_stem
from latent_geodesics.run.results import non_finite
from latent_geodesics.run.runner import Run

SHOWN = 5
LEAD = (
    "Interpolation joins two images by the geodesic between their noisy latents. Extrapolation carries on from the "
    "second image, with the velocity at which the geodesic arrived there."
)
IMAGES_NOTE = (
    "The latents at tau are shown through the decoder as if they were clean. The slider plays the interpolation, "
    "then the extrapolation."
)
COLUMNS = {
    "pair": "pair", "method": "pipeline", "status": "status", "evaluations": "score evaluations",
    "length": "relative length", "log_density_min": "least log-density", "log_density_mean": "mean log-density",
    "residual": "residual", "closure": "closure, nats", "strength": "strength", "seconds": "seconds",
}  # fmt: skip
SUMMARISED = ("evaluations", "length", "log_density_min", "log_density_mean", "residual", "closure", "strength")


class Pipelines:
    """Creates the experiment of drawing both pipelines.

    Args:
        model: The diffusion model.
        data: Where the pair is found.
        pair: Its id; two files of the user's own need none.
        solver: Solves the boundary value problem.
        integrator: Solves the initial value problem.
        beyond: How far extrapolation goes, as a share of the length of the interpolation, above 0.
        frames: Images of each sequence, one more than a multiple of 4, so that quarters are among them.
        encoder: The other arguments of a `PairEncoder`, without the seed.
    """

    shares_work = True

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
        self.solver, self.integrator, self.beyond = solver, integrator, float(beyond)
        self.u = torch.linspace(0, 1, frames, dtype=torch.float64)
        self.score, self._encoder = encoder["score"], partial(PairEncoder, model=model, **encoder)
        self._encoder(seed=0)  # so that a number out of range is refused before anything starts

    def run(self, run: Run) -> Mapping[str, float]:
        """Runs both pipelines on the pair and draws them; returns `<pipeline>/<column>` and the round trips in dB."""
        weights = {"model": self.model.fingerprint}
        run.record_environment(weights=weights, machinery=self.model.machinery)
        read = partial(read_batch, size=self.model.image_size)
        tables = run.each([[self.pair]], partial(self.work, run), read=read, made_with=weights)
        if not run.leads:
            return {}
        results, stem = tables["results"], file_stem(self.pair.id)
        settings = ("condition", "tau", "alpha", "guidance", "seed")
        page = run.page("From two images to a path, and beyond", LEAD, *settings, pair=self.pair.id)
        page.section("Both pipelines", pictures={"figures/pipelines.png": "Step by step"})
        pictures = {f"images/{stem}.png": "Every frame of both sequences"}
        table = results[list(COLUMNS)].rename(columns=COLUMNS)
        page.section("All images", IMAGES_NOTE, table=table, pictures=pictures, players=tables.kept("player"))
        numbers = {f"{row['method']}/{name}": row[name] for _, row in results.iterrows() for name in SUMMARISED}
        summary = {name: float(value) for name, value in numbers.items() if np.isfinite(value)}
        broken = results[results["status"] == Status.NON_FINITE_SCORE.value]["method"]
        refusal = non_finite(list(broken), run.folder, "try a larger tau, a smaller alpha, or a smaller task.beyond")
        return run.finish(page, tables, summary=summary | tables.kept("round_trips")[0], broken=refusal)

    def work(self, run: Run, batch: PairBatch) -> Rows:
        """Both pipelines: the diagram, the two sequences as strips, and both in a row as a film."""
        rows, pairs = run.rows(), self._encoder(seed=run.seed).encode(batch).sound
        inputs = torch.cat([batch.images_a, batch.images_b])
        clean = self.model.decode(self.model.encode(inputs))
        first = interpolate(pairs, self.solver, self.u)
        second = extrapolate(pairs, self.integrator, self.u, start=first.solution, beyond=self.beyond, score=self.score)
        rows.add("results", first.row, second.row)
        trips = {"autoencoder_psnr": clean, "round_trip_psnr": first.images[[0, -1]]}
        whole = inputs.flatten(0, 1)[None]  # both images as one
        rows.kept["round_trips"] = {
            name: float(psnr(found.flatten(0, 1)[None], whole)) for name, found in trips.items()
        }
        rows.file("figures/pipelines.png", lambda file: draw_pipelines(file, pairs, clean, first, second, shown=SHOWN))
        rows.strip(
            {
                "A to B, at tau": first.noisy,
                "A to B": first.images,
                "on, at tau": second.noisy,
                "on beyond B": second.images,
            },
            self.pair.id,
        )
        there_and_on = torch.cat([first.images, second.images[1:]])
        rows.kept["player"] = rows.sequence(there_and_on, self.pair.id, "there_and_on")
        return rows
