"""Video analysis: is the path of a video's frames through the latent space a geodesic, as in Figure 3 of the paper?

References:
    Yu et al., Probability Density Geodesics in Image Diffusion Latent Space (2025), arXiv 2504.06675, Figure 3.
"""

import time
from collections.abc import Mapping
from functools import partial

import pandas as pd

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import VideoBatch, VideoData
from latent_geodesics.experiments.video_analysis import figures, findings
from latent_geodesics.experiments.video_analysis.analysis import Analyser
from latent_geodesics.experiments.video_analysis.encoding import VideoEncoder
from latent_geodesics.experiments.video_analysis.rows import (
    frame_rows,
    path_rows,
    show_paths,
    stride_rows,
    sweep_rows,
)
from latent_geodesics.experiments.video_analysis.verdicts import judge, larger_table, verdict_table, with_floors
from latent_geodesics.run.each import Rows
from latent_geodesics.run.files import file_stem
from latent_geodesics.run.runner import Run


class VideoAnalysis:
    """Creates the experiment of holding videos against the geodesic equation.

    Args:
        encoder: What makes points of frames.
        analyser: What makes paths of them, and measures these.
        data: The videos.
        shown_videos: Of each kind so many are shown in pictures, with their other paths decoded.
    """

    shares_work = True

    def __init__(self, *, encoder: VideoEncoder, analyser: Analyser, data: VideoData, shown_videos: int = 1) -> None:
        if shown_videos < 0:
            raise UserError(f"task.shown_videos must not be negative, got {shown_videos}.")
        self.encoder, self.analyser, self.data = encoder, analyser, data
        kinds = pd.Series([video.kind for video in data.videos])
        places = kinds.groupby(kinds).cumcount()
        self.shown = [video.id for video, place in zip(data.videos, places, strict=True) if place < shown_videos]

    def run(self, run: Run) -> Mapping[str, float]:
        """Analyses every video; returns means, on which share of the videos each prediction held, and separations."""
        model, paths = self.encoder.model, self.analyser.shown
        weights = {"model": model.fingerprint}
        run.record_environment(weights=weights, machinery=model.machinery)
        batches, read = self.data.batches(size=model.image_size), partial(self.data.read, size=model.image_size)
        tables = run.each(batches, partial(self.work, run), read=read, made_with=weights)
        if not run.leads:
            return {}
        table, frames, scales = with_floors(tables["results"]), tables["norms"], tables["scales"]
        judged = judge(table, frames)
        summary = findings.summarise(table, judged, scales)
        draw = run.folder / "figures"
        figures.draw_norms(draw / "norms_along_the_path.png", table, frames, paths)
        figures.draw_kinds(draw / "norms_by_kind.png", table, paths)
        figures.draw_sweeps(draw / "sweeps.png", table, tables["alphas"], alpha=self.analyser.power(model.dimension))
        figures.draw_scale(draw / "scale.png", scales)
        figures.draw_balance(draw / "balance.png", table)
        page = run.page(
            "Is a video a geodesic?", findings.LEAD, "tau", "alpha", "seed",
            videos=tables.counted, controls=int(judged["control"].sum()), density=self.analyser.score.density,
        )  # fmt: skip
        page.section("Verdicts", *findings.VERDICTS, table=verdict_table(judged, paths))
        page.section("The norm along the paths", findings.NORMS, pictures=figures.NORMS)
        page.section("Numbers", findings.NUMBERS, table=findings.numbers_table(table))
        page.section(
            "Amplitudes, kernels and alpha", findings.SWEEPS, pictures=figures.SWEEPS, table=larger_table(judged)
        )
        words = findings.scale_words(scales, summary)
        page.section("At which scale is this measured?", *words, pictures=figures.SCALE)
        if len(apart := findings.separation_table(summary)):
            page.section("What tells a motion from a control?", findings.SEPARATIONS, table=apart)
        page.section(
            "Every video", "Mean norm along each path, 1/[x].", *findings.remarks(table),
            table=findings.every_video(table, paths),
        )  # fmt: skip
        if pictures := {file: caption for shown in tables.kept("shown") for file, caption in shown.items()}:
            page.section("What the paths look like", findings.PICTURES, pictures=pictures)
        for (video, path), rows in frames[frames["method"].isin(paths)].groupby(["pair", "method"], sort=False):
            at = rows["frame"].astype(float).tolist()
            run.logger.curve(
                f"norm/{file_stem(str(video))}/{file_stem(str(path))}", rows["norm"].tolist(), against=at, axis="frame"
            )
        broken = findings.refusal(table, run.folder)
        return run.finish(page, tables, summary=summary, broken=broken, verdicts=judged)

    def work(self, run: Run, batch: VideoBatch) -> Rows:
        """A batch of videos encoded, and all their paths made, measured and shown."""
        rows, started = run.rows(), time.perf_counter()
        encoded = self.encoder.encode(batch)
        seconds = (time.perf_counter() - started) / len(batch)
        measures = self.analyser.analyse(encoded, again=self.encoder.encode_again(encoded))
        rows.add("results", *path_rows(measures, encoding_seconds=seconds))
        rows.add("norms", *frame_rows(measures))
        rows.add("scales", *stride_rows(measures))
        rows.add("alphas", *sweep_rows(measures))
        rows.kept["shown"] = show_paths(rows, measures, self.shown, self.analyser.shown)
        return rows
