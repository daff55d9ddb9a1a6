"""Lightning callback: writes a run against the truth, pair by pair, while the run goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.experiments.truth.errors import ERRORS, OF_PATHS, compare_methods, inner_means, method_means
from latent_geodesics.experiments.truth.figures import draw_along, draw_groups, draw_tracks
from latent_geodesics.experiments.truth.floor import FloorError, Track, track, travelled
from latent_geodesics.experiments.truth.page import write_truth_page
from latent_geodesics.metrics import FrameMetric, MeasuredMorph, NoiseNorm, PathQuality
from latent_geodesics.metrics.measured import true_frames
from latent_geodesics.models.stopwatch import METRICS, Stopwatch
from latent_geodesics.run.batch_loop import BatchWriter
from latent_geodesics.run.batch_store import BatchStore
from latent_geodesics.run.files import write_text
from latent_geodesics.run.markup import csv_text
from latent_geodesics.run.names import file_stem
from latent_geodesics.run.results import BatchResult, MethodResult, PairResult, broken_pairs
from latent_geodesics.run.runner import Run
from latent_geodesics.run.strips import save_animation, save_strip

__all__ = ["TruthFolder"]

LEAST_WAY = 0.5
"""World units: a motion whose object goes further over the floor is drawn as a track."""

TRUTH = "true frames"


class TruthFolder(BatchWriter):
    """Measures every frame of a batch and writes what it found.

    Args:
        run: The run whose folder and logger are written to.
        store: Where each batch's numbers are kept, whichever process did it.
        pairs: How many pairs the run has in all.
        metrics: Name -> metric of a frame.
        references: The methods that are none.
        draws: Bootstrap resamples.
    """

    def __init__(
        self,
        *,
        run: Run,
        store: BatchStore,
        pairs: int,
        metrics: Mapping[str, FrameMetric],
        references: Sequence[str],
        draws: int,
    ) -> None:
        self.run, self.store, self.expected, self.metrics = run, store, pairs, metrics
        self.references, self.draws = references, draws

    def write(self, result: BatchResult) -> None:
        """Measures and writes a batch."""
        costs, frames = [], []
        for method in result.methods:
            of_method = self._measure(result, method)
            costs += of_method[0]
            frames += of_method[1]
        tracks, pictures = {}, []
        for row, pair in enumerate(result.pairs.batch.pairs):
            pictures += self._write_pictures(result, row, pair.id)
            tracks[pair.id] = self._find_tracks(result, row, pair.id)
        self.store.write(
            result.number,
            {
                "costs": costs,
                "frames": frames,
                "tracks": tracks,
                "whole": all(method.failure is None for method in result.methods),
            },
            files=pictures,
        )
        if self.run.leads:
            self._write_tables()

    @property
    def frames(self) -> pd.DataFrame:
        """A row a pair, method and frame: what `frames.csv` holds."""
        return self._gathered("frames")

    @property
    def table(self) -> pd.DataFrame:
        """A row a pair and method: what `results.csv` holds."""
        return self._gathered("costs").merge(inner_means(self.frames), on=["pair", "group", "method"])

    def _gathered(self, name: str) -> pd.DataFrame:
        return pd.DataFrame([row for content in self.store.read() for row in content[name]])

    def finish(self) -> Mapping[str, float]:
        """Writes figures and report; returns the summary.

        Raises:
            KeyboardInterrupt: when the run was interrupted before its last pair (what was finished is written first).
            UserError: when a method failed on some pair.
        """
        if not self.store.read():
            raise KeyboardInterrupt
        self._write_tables()
        folder, table, frames = self.run.folder, self.table, self.frames
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
        draw_tracks(folder / "figures" / "tracks.png", self._tracks(), references=self.references)
        for name, content in (("means.csv", means), ("gains.csv", gains)):
            if len(content):
                write_text(folder / name, csv_text(content))
        write_truth_page(
            self.run, table=table, means=means, gains=gains, references=self.references, expected=self.expected
        )
        self.run.logger.table("results", list(table.columns), table.to_numpy().tolist())
        for file in sorted((folder / "figures").glob("*.png")):
            self.run.logger.picture(file.stem, file)
        if table["pair"].nunique() < self.expected:
            raise KeyboardInterrupt
        broken = broken_pairs(table, folder)
        if broken:
            raise UserError(broken)
        return _summary(table, means, gains)

    def _tracks(self) -> dict[str, dict[str, list[Track]]]:
        """Pair -> method -> the courses of its objects, for the pairs in which one goes far."""
        return {
            pair: {method: [Track(**course) for course in courses] for method, courses in of_pair.items()}
            for content in self.store.read()
            for pair, of_pair in content["tracks"].items()
            if of_pair
        }

    def _measure(self, result: BatchResult, method: MethodResult) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """A row for each pair, and one for each of its frames."""
        watch = Stopwatch(method.pairs.model.device)
        measured = MeasuredMorph(pairs=method.pairs, morph=method.morph, u=result.u, curves=method.curves)
        found: dict[str, Tensor] = {}
        for metric in self.metrics.values():
            found |= metric.per_frame(measured)
        of_path = {**PathQuality().measure(measured), **NoiseNorm().measure(measured)}
        watch.lap(METRICS)
        spent = method.seconds_metrics + watch.seconds[METRICS] / len(method.pairs.batch)
        method = replace(method, seconds_metrics=spent)
        costs: list[dict[str, Any]] = []
        frames: list[dict[str, Any]] = []
        for row, pair in enumerate(method.pairs.batch.pairs):
            named = {"pair": pair.id, "group": pair.group, "method": method.method}
            cost = {"status": method.morph.statuses[row], "seconds": method.morph.seconds}
            cost |= method.stages
            cost |= {} if method.failure is None else {"failure": method.failure}
            cost |= {name: float(of_path[name][row]) for name in OF_PATHS if name in of_path}
            cost |= {"cluster": pair.cluster or pair.id, "evaluations": int(method.morph.evaluations[row])}
            costs.append(named | cost)
            frames += [
                named
                | {"frame": number, "u": position}
                | {name: float(found[name][row, number]) for name in ERRORS if name in found}
                for number, position in enumerate(result.u.tolist())
            ]
        return costs, frames

    def _write_tables(self) -> None:
        write_text(self.run.folder / "frames.csv", csv_text(self.frames))
        write_text(self.run.folder / "results.csv", csv_text(self.table))

    def _write_pictures(self, result: BatchResult, row: int, pair: str) -> list[str]:
        """Writes a pair's strip and animations; returns their names in the run's folder."""
        folder = self.run.folder
        truth = true_frames(result.pairs.batch.truth[row], len(result.u))
        assert truth is not None
        made = _made(result, row)
        rows = {TRUTH: truth} | {one.method: one.frames for one in made if one.method != "true_frames"}
        stem = file_stem(pair)
        strip = f"images/{stem}.png"
        animations = {name: f"images/{file_stem(pair, 'true_frames' if name == TRUTH else name)}.webp" for name in rows}
        save_strip(folder / strip, rows)
        for name, frames in rows.items():
            save_animation(folder / animations[name], frames)
        self.run.logger.picture(f"strips/{stem}", folder / strip)
        return [strip, *animations.values()]

    def _find_tracks(self, result: BatchResult, row: int, pair: str) -> dict[str, list[dict[str, Tensor]]]:
        """The tracks of a pair that are worth drawing, as mappings."""
        floors = [metric for metric in self.metrics.values() if isinstance(metric, FloorError)]
        if not floors or pair not in floors[0].scenes or travelled(floors[0].scenes[pair]) <= LEAST_WAY:
            return {}
        network, scenes = floors[0].network, floors[0].scenes[pair]
        courses = {one.method: track(network, one.frames, scenes, result.u) for one in _made(result, row)}
        return {method: [asdict(course) for course in found] for method, found in courses.items()}


def _made(result: BatchResult, row: int) -> list[PairResult]:
    """What the methods that did not fail made of a pair."""
    return [one for one in result.of_pair(row) if not one.failed]


def _summary(table: pd.DataFrame, means: pd.DataFrame, gains: pd.DataFrame) -> dict[str, float]:
    summary = {"pairs": float(table["pair"].nunique())}
    for _, row in means.iterrows():
        summary[f"{row['method']}/{row['error']}"] = float(row["mean"])
    for _, row in gains.iterrows():
        name = f"geodesic/{row['error']}_better_than_{row['other']}"
        summary[name] = float(row["wins"]) / float(row["pairs"])
    return summary
