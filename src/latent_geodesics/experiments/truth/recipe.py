"""Truth: every method on the pairs with known in-between frames, held against them frame by frame."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.data import PairBatch, PairData, in_batches
from latent_geodesics.experiments.truth.errors import compare_methods, means_table, method_means, summary_of, verdicts
from latent_geodesics.experiments.truth.figures import draw_along, draw_groups, draw_tracks
from latent_geodesics.experiments.truth.frames import method_rows, show_frames
from latent_geodesics.experiments.truth.tracks import drawn_tracks, pair_tracks
from latent_geodesics.metrics import FrameMetric
from latent_geodesics.run.each import Rows
from latent_geodesics.run.files import file_stem
from latent_geodesics.run.morphs import Morphs
from latent_geodesics.run.results import broken_pairs
from latent_geodesics.run.runner import Run

LEAD = (
    "Between the two images of these pairs lies a motion whose frames are known. Every method sees the two images "
    "alone; its frames are held against the true ones at the same positions."
)
ERRORS_NOTE = (
    "Means over the inner frames and then over the pairs, with 95 % intervals that resample pairs. Below the methods "
    "stand the references: the true frames after inversion to the noise level and decoding, which is what a path that "
    "met their latents would show; after the autoencoder alone; and as they are, which leaves the error of the "
    "measurement itself."
)
TRACKS_NOTE = (
    "Where each frame shows its objects, found in the image and carried to the floor by the camera that is known to "
    "have taken the true frame. Broad grey line: the true course."
)


class Truth:
    """Creates the experiment of holding methods against true in-between frames.

    Args:
        morphs: The methods, without metrics.
        data: The pairs; those without true frames at the positions of the sequence are left out.
        metrics: Name -> metric of a frame.
        references: Which of the methods are references; names that are no method are passed over.
        draws: Bootstrap resamples.
    """

    shares_work = True

    def __init__(
        self,
        *,
        morphs: Morphs,
        data: PairData,
        metrics: Mapping[str, FrameMetric],
        references: Sequence[str],
        draws: int,
    ) -> None:
        if draws < 1:
            raise UserError(f"task.draws must be at least 1, got {draws}.")
        wrong = [name for name, metric in metrics.items() if not isinstance(metric, FrameMetric)]
        if wrong or not metrics:
            named = f"These metrics measure no single frames: {', '.join(wrong)}" if wrong else "No metric was chosen"
            raise UserError(f"{named}; take metrics=truth.")
        self.pairs = [pair for pair in data.pairs if morphs.has_truth(pair)]
        if not self.pairs:
            raise UserError(
                f"Of {counted(len(data), 'pair')} none has true in-between frames at the positions of {morphs.frames} "
                "frames: give a manifest whose column frames names them, or another number of frames."
            )
        self.morphs, self.batches, self.metrics = morphs, in_batches(self.pairs, data.batch_size), metrics
        self.references, self.draws = [name for name in references if name in morphs.methods], draws

    def run(self, run: Run) -> Mapping[str, float]:
        """Runs and measures every pair; returns the summary, `<method>/<error>` -> mean over the pairs."""
        weights = self.morphs.weights
        for metric in self.metrics.values():
            weights |= metric.weights
        run.record_environment(weights=weights, machinery=self.morphs.model.machinery)
        tables = run.each(self.batches, partial(self.work, run), read=self.morphs.read, made_with=weights)
        if not run.leads:
            return {}
        results, random = tables["results"], np.random.default_rng([run.seed, 2])
        means = method_means(results, draws=self.draws, generator=random)
        rivals = [name for name in dict.fromkeys(results["method"]) if name not in {*self.references, "geodesic"}]
        gains = compare_methods(results, method="geodesic", others=rivals, draws=self.draws, generator=random)
        figures, tracks = run.folder / "figures", drawn_tracks(tables.kept("tracks"))
        draw_along(figures / "along.png", tables["frames"], references=self.references)
        draw_groups(figures / "groups.png", results, references=self.references)
        draw_tracks(figures / "tracks.png", tracks, references=self.references)
        page = run.page(
            "How far sequences are from the true ones",
            LEAD,
            *("condition", "tau", "alpha", "frames", "seed"),
            pairs=tables.counted,
        )
        page.section("Verdicts", *verdicts(gains))
        page.section("Errors of every method", ERRORS_NOTE, table=means_table(means, self.references, results))
        page.section("Along the sequence", pictures={"figures/along.png": "Mean over the pairs; references in grey."})
        page.section("By kind of motion", pictures={"figures/groups.png": "Mean over the pairs; references as ticks."})
        if tracks:
            page.section(
                "Tracks over the floor", TRACKS_NOTE, pictures={"figures/tracks.png": "Broad: the true course."}
            )
        for of_batch in tables.kept("players"):
            for pair, players in of_batch.items():
                page.section(pair, players=players, pictures={f"images/{file_stem(pair)}.png": ""})
        return run.finish(
            page, tables, summary=summary_of(tables.items[0], means, gains), broken=broken_pairs(results, run.folder),
            means=means, gains=gains,
        )  # fmt: skip

    def work(self, run: Run, batch: PairBatch) -> Rows:
        """A batch of pairs: every frame of every method measured, strips and films written."""
        result, rows = self.morphs(batch, seed=run.seed), run.rows()
        rows.whole = result.whole
        for method in result.methods:
            results, frames = method_rows(result, method, self.metrics)
            rows.add("results", *results)
            rows.add("frames", *frames)
        rows.kept = {"tracks": {}, "players": {}}
        for place, pair in enumerate(batch.pairs):
            rows.kept["players"][pair.id] = show_frames(rows, result, place)
            rows.kept["tracks"][pair.id] = pair_tracks(self.metrics, pair.id, result.made(place), result.u)
        return rows
