"""Writing a video analysis into the run's folder: tables after every batch, the figures and the page at the end."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.errors import UserError
from latent_geodesics.files import write_text
from latent_geodesics.frame_paths.analysis import Analyser, BatchMeasures
from latent_geodesics.frame_paths.figures import draw_balance, draw_kinds, draw_norms, draw_scale, draw_sweeps
from latent_geodesics.frame_paths.page import Findings, write_findings
from latent_geodesics.frame_paths.pictures import save_side_by_side
from latent_geodesics.frame_paths.statistics import separation
from latent_geodesics.frame_paths.tables import frame_rows, path_rows, stride_rows, sweep_rows, with_floors
from latent_geodesics.frame_paths.verdicts import Verdict, judge, verdicts
from latent_geodesics.records import Status
from latent_geodesics.runner import Run
from latent_geodesics.strips import save_strip

__all__ = ["AnalysisFolder"]

COMPARED = ("norm", "turn", "cosine", "detour")


class AnalysisFolder:
    """Gathers what the batches measure and writes it.

    Args:
        run: The run whose folder and logger are written to.
        videos: How many videos the run has in all.
        density: The density that the geometry is made of, in words.
        analyser: What measures the videos.
    """

    def __init__(self, *, run: Run, videos: int, density: str, analyser: Analyser) -> None:
        self.run, self.expected, self.density, self.analyser = run, videos, density, analyser
        self._rows: dict[str, list[dict[str, Any]]] = {"results": [], "norms": [], "scales": [], "alphas": []}
        self._shown_videos: list[str] = []

    def add(
        self,
        measures: BatchMeasures,
        *,
        encoding_seconds: float,
        pictures: Mapping[int, Mapping[str, Float[Tensor, "k 3 h w"]]],
    ) -> None:
        """Writes what a batch gave: the tables so far, then the pictures of the videos that are shown.

        Args:
            measures: Of the batch.
            encoding_seconds: Time to encode a video of it.
            pictures: Number of a video in the batch -> its paths' names -> their images.
        """
        self._rows["results"] += path_rows(measures, encoding_seconds=encoding_seconds)
        self._rows["norms"] += frame_rows(measures)
        self._rows["scales"] += stride_rows(measures)
        self._rows["alphas"] += sweep_rows(measures, tuple(self.analyser.alphas))
        for name, rows in self._rows.items():
            write_text(self.run.folder / f"{name}.csv", pd.DataFrame(rows).to_csv(index=False))
        for index, paths in pictures.items():
            self._show(measures.encoded.batch.videos[index].id, paths)
        self._log_curves(measures)

    def finish(self) -> Mapping[str, float]:
        """Writes figures, tables and the report; returns the summary.

        Raises:
            KeyboardInterrupt: when there is nothing to write.
            UserError: when the score of some video was not finite, so that not all of the run worked.
        """
        table, frames, scales, alphas = (pd.DataFrame(rows) for rows in self._rows.values())
        if table.empty:
            raise KeyboardInterrupt
        folder = self.run.folder
        judged = judge(table, frames)
        write_text(folder / "verdicts.csv", judged.to_csv(index=False))
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
            pictures=self._shown_videos,
            shown=self.analyser.shown,
        )
        write_findings(
            folder,
            findings,
            density=self.density,
            config=self.run.config,
            finished=table["pair"].nunique() == self.expected,
        )
        for file in sorted(figures.glob("*.png")):
            self.run.logger.picture(file.stem, file)
        self.run.logger.table("results", list(table.columns), table.to_numpy().tolist())
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

    def _show(self, name: str, paths: Mapping[str, Float[Tensor, "k 3 h w"]]) -> None:
        images = self.run.folder / "images"
        save_strip(images / f"{name}.png", dict(paths))
        save_side_by_side(images / f"{name}.webp", paths)
        self._shown_videos.append(name)
        self.run.logger.picture(f"strips/{name}", images / f"{name}.png")

    def _log_curves(self, measures: BatchMeasures) -> None:
        for name in self.analyser.shown:
            path = measures.path(name)
            for index, video in enumerate(measures.encoded.batch.videos):
                values = path.norm[index].tolist()
                frames = [float(frame) for frame in range(1, len(values) + 1)]
                self.run.logger.curve(f"norm/{video.id}/{name}", values, against=frames, axis="frame")

    def _refuse_broken(self, table: pd.DataFrame) -> None:
        broken = table[(table["status"] == Status.NON_FINITE_SCORE.value) | table["norm"].isna()]
        if len(broken):
            named = ", ".join(broken["pair"].unique())
            raise UserError(
                f"The score was not finite on {len(broken)} of {len(table)} paths ({named}): the other results are in "
                f"'{self.run.folder}'; try a larger tau, a smaller alpha, or float32 weights."
            )


_GOOD = [status.value for status in Status if status.ok]
