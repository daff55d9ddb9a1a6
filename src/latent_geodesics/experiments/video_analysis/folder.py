"""Lightning callback: writes a video analysis, its tables after every batch, the figures and the page at the end."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.records import Status
from latent_geodesics.experiments.video_analysis.analysis import Analyser, BatchMeasures
from latent_geodesics.experiments.video_analysis.figures import (
    draw_balance,
    draw_kinds,
    draw_norms,
    draw_scale,
    draw_sweeps,
)
from latent_geodesics.experiments.video_analysis.page import Findings, write_findings
from latent_geodesics.experiments.video_analysis.pictures import save_side_by_side
from latent_geodesics.experiments.video_analysis.tables import (
    frame_rows,
    path_rows,
    stride_rows,
    sweep_rows,
    with_floors,
)
from latent_geodesics.experiments.video_analysis.verdicts import Verdict, judge, verdicts
from latent_geodesics.run.batch_loop import BatchWriter
from latent_geodesics.run.batch_store import BatchStore
from latent_geodesics.run.files import write_text
from latent_geodesics.run.markup import csv_text
from latent_geodesics.run.names import file_stem
from latent_geodesics.run.runner import Run
from latent_geodesics.run.statistics import separation
from latent_geodesics.run.strips import save_strip

__all__ = ["AnalysedBatch", "AnalysisFolder"]

TABLES = ("results", "norms", "scales", "alphas")
COMPARED = ("norm", "turn", "cosine", "detour")


@dataclass(frozen=True, kw_only=True)
class AnalysedBatch:
    """What a batch of videos came to.

    Attributes:
        number: Of the batch, in the run.
        measures: Of its videos.
        encoding_seconds: Time to encode a video of it.
        pictures: Name of a video that is shown -> its paths' names -> their images.
    """

    number: int
    measures: BatchMeasures
    encoding_seconds: float
    pictures: Mapping[str, Mapping[str, Float[Tensor, "k 3 h w"]]]


class AnalysisFolder(BatchWriter):
    """Writes what the batches measure: tables after each of them, figures and the page at the end.

    Args:
        run: The run whose folder and logger are written to.
        store: Where each batch's numbers are kept, whichever process did it.
        videos: How many videos the run has in all.
        analyser: What measures the videos.
    """

    def __init__(self, *, run: Run, store: BatchStore, videos: int, analyser: Analyser) -> None:
        self.run, self.store, self.expected, self.analyser = run, store, videos, analyser

    def write(self, result: AnalysedBatch) -> None:
        """Writes what a batch gave: pictures first, then its record; from then on it counts as done."""
        measures, folder, files = result.measures, self.run.folder, []
        for name, paths in result.pictures.items():
            strip, animation = f"images/{file_stem(name)}.png", f"images/{file_stem(name)}.webp"
            save_strip(folder / strip, dict(paths))
            save_side_by_side(folder / animation, paths)
            files += [strip, animation]
        self.store.write(
            result.number,
            {
                "results": path_rows(measures, encoding_seconds=result.encoding_seconds),
                "norms": frame_rows(measures),
                "scales": stride_rows(measures),
                "alphas": sweep_rows(measures, tuple(self.analyser.alphas)),
                "shown": list(result.pictures),
                "whole": True,
            },
            files=files,
        )
        if self.run.leads:
            self._write_tables()

    def _gathered(self, name: str) -> pd.DataFrame:
        """A table of what every finished batch gave under a name."""
        return pd.DataFrame([row for content in self.store.read() for row in content[name]])

    def _write_tables(self) -> None:
        for name in TABLES:
            write_text(self.run.folder / f"{name}.csv", csv_text(self._gathered(name)))

    def finish(self) -> Mapping[str, float]:
        """Writes figures, tables and the report; returns the summary.

        Raises:
            KeyboardInterrupt: when the run was interrupted before its last video (what was finished is written first).
            UserError: when the score of some video was not finite, so that not all of the run worked.
        """
        table, frames, scales, alphas = (self._gathered(name) for name in TABLES)
        if table.empty:
            raise KeyboardInterrupt
        self._write_tables()
        folder, whole = self.run.folder, table["pair"].nunique() == self.expected
        shown = [name for content in self.store.read() for name in content["shown"]]
        judged = judge(table, frames)
        write_text(folder / "verdicts.csv", csv_text(judged))
        figures = folder / "figures"
        draw_norms(figures / "norms_along_the_path.png", table, frames, self.analyser.shown)
        draw_kinds(figures / "norms_by_kind.png", table, self.analyser.shown)
        draw_sweeps(figures / "sweeps.png", table, alphas, alpha=self.analyser.alpha)
        draw_scale(figures / "scale.png", scales)
        draw_balance(figures / "balance.png", table)
        summary = self._summary(table, judged, scales)
        findings = Findings(
            table=table,
            judged=judged,
            scales=scales,
            summary=summary,
            pictures=shown,
            shown=self.analyser.shown,
        )
        density = self.analyser.score.density
        write_findings(folder, findings, density=density, config=self.run.config, finished=whole)
        self._log_curves(frames)
        for name in shown:
            stem = file_stem(name)
            self.run.logger.picture(f"strips/{stem}", folder / "images" / f"{stem}.png")
        for file in sorted(figures.glob("*.png")):
            self.run.logger.picture(file.stem, file)
        self.run.logger.table("results", list(table.columns), table.to_numpy().tolist())
        if not whole:
            raise KeyboardInterrupt
        self._refuse_broken(table)
        return summary

    def _summary(self, table: pd.DataFrame, judged: pd.DataFrame, scales: pd.DataFrame) -> dict[str, float]:
        """Flat means and shares: `motions/...` and `controls/...`, and what tells the two apart."""
        table = with_floors(table)
        summary = {"videos": float((judged["control"] == 0).sum()), "controls": float((judged["control"] == 1).sum())}
        for group, control in (("motions", 0), ("controls", 1)):
            part = table[table["control"] == control]
            if part.empty:
                continue
            for verdict in self._verdicts(judged, control=bool(control)):
                summary[f"{group}/{verdict.prediction}_held"] = verdict.share.mean
            for method, rows in part.groupby("method", sort=False):
                for column in (
                    "norm",
                    "turn",
                    "noise",
                    "score_term",
                    "curvature_term",
                    "cosine",
                    "detour",
                    "from_video",
                ):
                    summary[f"{group}/{method}/{column}"] = float(rows[column].mean())
        optimised = table[table["method"] == "optimised"]
        summary["optimised_converged"] = float(optimised["status"].isin(_GOOD).mean())
        shift = scales[scales["lag"] == 0]["distance"]
        if shift.notna().any():
            summary["rounding_shift"] = float(shift.mean())
        video = table[table["method"] == "video"]
        for column in COMPARED:
            sign = -1.0 if column == "cosine" else 1.0
            ours, others = (sign * video[video["control"] == control][column] for control in (0, 1))
            if len(ours) and len(others):
                summary[f"separation/{column}"] = separation(ours.to_numpy(), others.to_numpy())
        return {name: value for name, value in summary.items() if pd.notna(value)}

    def _verdicts(self, judged: pd.DataFrame, *, control: bool) -> list[Verdict]:
        names = [column for column in judged.columns if column not in ("pair", "kind", "control")]
        return verdicts(judged, names, control=control)

    def _log_curves(self, frames: pd.DataFrame) -> None:
        of_shown = frames[frames["method"].isin(self.analyser.shown)]
        for (video, name), rows in of_shown.groupby(["pair", "method"], sort=False):
            self.run.logger.curve(
                f"norm/{file_stem(str(video))}/{file_stem(str(name))}",
                rows["norm"].tolist(),
                against=rows["frame"].astype(float).tolist(),
                axis="frame",
            )

    def _refuse_broken(self, table: pd.DataFrame) -> None:
        broken = table[(table["status"] == Status.NON_FINITE_SCORE.value) | table["norm"].isna()]
        if len(broken):
            named = ", ".join(broken["pair"].unique())
            raise UserError(
                f"The score was not finite on {len(broken)} of {len(table)} paths ({named}): the other results are in "
                f"'{self.run.folder}'; try a larger tau, a smaller alpha, or float32 weights."
            )


_GOOD = [status.value for status in Status if status.ok]
