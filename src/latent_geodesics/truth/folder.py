"""Lightning callback: writes a run against the truth, pair by pair, while the run goes on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from torch import Tensor

from latent_geodesics.errors import UserError
from latent_geodesics.files import write_text
from latent_geodesics.metrics import FrameMetric, MeasuredMorph
from latent_geodesics.metrics.measured import true_frames
from latent_geodesics.results import BatchResult, MethodResult, broken_pairs
from latent_geodesics.runner import Run
from latent_geodesics.strips import save_animation, save_strip
from latent_geodesics.truth.errors import ERRORS, compare_methods, inner_means, method_means
from latent_geodesics.truth.figures import draw_along, draw_groups, draw_tracks
from latent_geodesics.truth.floor import FloorError, Track, track, travelled
from latent_geodesics.truth.page import write_truth_page

__all__ = ["TruthFolder"]

LEAST_WAY = 0.5
"""World units: a motion whose object goes further over the floor is drawn as a track."""


class TruthFolder(pl.Callback):
    """Measures every frame of a batch and writes what it found.

    Args:
        run: The run whose folder and logger are written to.
        pairs: How many pairs the run has in all.
        metrics: Name -> metric of a frame.
        references: The methods that are none.
        draws: Bootstrap resamples.
    """

    def __init__(
        self, *, run: Run, pairs: int, metrics: Mapping[str, FrameMetric], references: Sequence[str], draws: int
    ) -> None:
        self.run, self.expected, self.metrics = run, pairs, metrics
        self.references, self.draws = references, draws
        self.frames: list[dict[str, Any]] = []
        self.costs: list[dict[str, Any]] = []
        self.tracks: dict[str, dict[str, list[Track]]] = {}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measures and writes a batch."""
        result: BatchResult = outputs["result"]
        for method in result.methods:
            self._measure(result, method)
        self._write_tables()
        for row, pair in enumerate(result.pairs.batch.pairs):
            self._write_pictures(result, row, pair.id)

    @property
    def table(self) -> pd.DataFrame:
        """A row a pair and method: what `results.csv` holds."""
        return pd.DataFrame(self.costs).merge(inner_means(pd.DataFrame(self.frames)), on=["pair", "group", "method"])

    def finish(self) -> Mapping[str, float]:
        """Writes figures and report; returns the summary.

        Raises:
            KeyboardInterrupt: when the run was interrupted before its last pair (what was finished is written first).
            UserError: when a method failed on some pair.
        """
        if not self.frames:
            raise KeyboardInterrupt
        folder, table, frames = self.run.folder, self.table, pd.DataFrame(self.frames)
        methods = list(dict.fromkeys(table["method"]))
        generator = np.random.default_rng([self.run.seed, 2])
        means = method_means(table, draws=self.draws, generator=generator)
        rivals = [name for name in methods if name not in self.references and name != "geodesic"]
        gains = (
            compare_methods(table, method="geodesic", others=rivals, draws=self.draws, generator=generator)
            if "geodesic" in methods
            else pd.DataFrame()
        )
        draw_along(folder / "figures" / "along.png", frames, references=self.references)
        draw_groups(folder / "figures" / "groups.png", table, references=self.references)
        draw_tracks(folder / "figures" / "tracks.png", self.tracks, references=self.references)
        for name, content in (("means.csv", means), ("gains.csv", gains)):
            if len(content):
                write_text(folder / name, content.to_csv(index=False))
        write_truth_page(self.run, table=table, means=means, gains=gains, references=self.references)
        self.run.logger.table("results", list(table.columns), table.to_numpy().tolist())
        for file in sorted((folder / "figures").glob("*.png")):
            self.run.logger.picture(file.stem, file)
        if table["pair"].nunique() < self.expected:
            raise KeyboardInterrupt
        broken = broken_pairs(table, folder)
        if broken:
            raise UserError(broken)
        return _summary(table, means, gains)

    def _measure(self, result: BatchResult, method: MethodResult) -> None:
        measured = MeasuredMorph(pairs=method.pairs, morph=method.morph, u=result.u, curves=method.curves)
        found: dict[str, Tensor] = {}
        for metric in self.metrics.values():
            found |= metric.per_frame(measured)
        for row, pair in enumerate(method.pairs.batch.pairs):
            named = {"pair": pair.id, "group": pair.group, "method": method.method}
            cost = {"status": method.morph.statuses[row], "seconds": method.morph.seconds}
            cost |= {} if method.failure is None else {"failure": method.failure}
            self.costs.append(named | cost | {"evaluations": int(method.morph.evaluations[row])})
            self.frames += [
                named
                | {"frame": number, "u": position}
                | {name: float(found[name][row, number]) for name in ERRORS if name in found}
                for number, position in enumerate(result.u.tolist())
            ]

    def _write_tables(self) -> None:
        write_text(self.run.folder / "frames.csv", pd.DataFrame(self.frames).to_csv(index=False))
        write_text(self.run.folder / "results.csv", self.table.to_csv(index=False))

    def _write_pictures(self, result: BatchResult, row: int, pair: str) -> None:
        folder = self.run.folder / "images"
        truth = true_frames(result.pairs.batch.truth[row], len(result.u))
        assert truth is not None
        made = [one for one in result.of_pair(row) if not one.failed]
        rows = {"true frames": truth} | {one.method: one.frames for one in made if one.method != "true_frames"}
        save_strip(folder / f"{pair}.png", rows)
        for name, frames in rows.items():
            save_animation(folder / f"{pair}_{name.replace(' ', '_')}.gif", frames)
        self.run.logger.picture(f"strips/{pair}", folder / f"{pair}.png")
        floors = [metric for metric in self.metrics.values() if isinstance(metric, FloorError)]
        if floors and pair in floors[0].scenes and travelled(floors[0].scenes[pair]) > LEAST_WAY:
            self.tracks[pair] = {
                one.method: track(floors[0].network, one.frames, floors[0].scenes[pair], result.u) for one in made
            }


def _summary(table: pd.DataFrame, means: pd.DataFrame, gains: pd.DataFrame) -> dict[str, float]:
    summary = {"pairs": float(table["pair"].nunique())}
    for _, row in means.iterrows():
        summary[f"{row['method']}/{row['error']}"] = float(row["mean"])
    for _, row in gains.iterrows():
        name = f"geodesic/{row['error']}_better_than_{row['other']}"
        summary[name] = float(row["wins"]) / float(row["pairs"])
    return summary
