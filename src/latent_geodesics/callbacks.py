"""Lightning callbacks: writing a run's folder, pair by pair, while the run goes on."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from threading import Lock

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from latent_geodesics.batch_loop import BatchWriter
from latent_geodesics.batch_store import BatchStore
from latent_geodesics.comparison.report import say, write_protocols, write_tables
from latent_geodesics.comparison.runs import read_run
from latent_geodesics.errors import UserError
from latent_geodesics.figures import Curve, draw_overview, draw_pair
from latent_geodesics.files import write_json, write_text
from latent_geodesics.markup import csv_text
from latent_geodesics.metrics import MetricRecord
from latent_geodesics.models.machine import machine_cores
from latent_geodesics.names import file_stem
from latent_geodesics.report import PairPage, write_report
from latent_geodesics.results import BatchResult, MethodResult, broken_pairs, summarise, unsolved_inversions
from latent_geodesics.runner import Run
from latent_geodesics.strips import save_animation, save_strip

__all__ = ["RunFolder"]

log = logging.getLogger(__name__)

BASELINE = "slerp"
TRUTH, ENDS = "true frames", "the two images"
ROWS = {TRUTH: "true_frames", ENDS: "the_two_images"}


class Turns:
    """A lock that goes to whoever has waited longest: one who lets go of it and asks again does not come first."""

    def __init__(self) -> None:
        self._queue, self._place = Lock(), Lock()

    def __enter__(self) -> None:
        with self._queue:
            self._place.acquire()

    def __exit__(self, *error: object) -> None:
        self._place.release()


class RunFolder(BatchWriter):
    """Writes strips, animations, figures and a line of `results.csv` for each pair as soon as its batch is done.

    It writes in a thread of its own, while the next batch is encoded and measured. Methods are timed, and so they and
    the writing take turns at the `desk`, pair by pair.

    Args:
        run: The run whose folder and logger are written to.
        store: Where each batch's numbers are kept, whichever process did it.
        pairs: How many pairs the run has in all.
    """

    def __init__(self, *, run: Run, store: BatchStore, pairs: int) -> None:
        self.run, self.store, self.expected = run, store, pairs
        self._logged: set[str] = set()
        self._pen = ThreadPoolExecutor(1, thread_name_prefix="run-folder")
        self._writing: Future[None] | None = None
        self.desk = Turns()

    def write(self, result: BatchResult) -> None:
        """Begins to write what a batch gave."""
        self.settle()
        self._writing = self._pen.submit(self._write, result)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Waits for the last batch."""
        self.settle()

    def settle(self) -> None:
        """Waits until what was begun is written; an error in writing it is raised here."""
        if self._writing is None:
            return
        wait([self._writing])  # an interrupt here leaves it to be waited for again
        writing, self._writing = self._writing, None
        writing.result()

    def _write(self, result: BatchResult) -> None:
        """Writes what a batch gave, its record last: from then on it counts as done."""
        pages = []
        for place in range(len(result.pairs.batch)):
            with self.desk:
                pages.append(self._write_pair(result, place))
        self.store.write(
            result.number,
            {
                "rows": [row for page in pages for row in page.rows],
                "pages": [asdict(page) for page in pages],
                "states": result.states,
                "whole": all(method.failure is None for method in result.methods),
            },
            files=[file for page in pages for file in (page.strip, page.figure, *page.animations.values()) if file],
        )
        if self.run.leads:
            write_text(self.run.folder / "results.csv", csv_text(self.table))
            for page in pages:
                with self.desk:
                    self._log_pair(page)

    @property
    def table(self) -> pd.DataFrame:
        """A row for each pair and method so far."""
        return pd.DataFrame([row for content in self.store.read() for row in content["rows"]])

    def finish(self, records: Sequence[MetricRecord] = ()) -> Mapping[str, float]:
        """Writes the overview, the tables and the report; returns the summary.

        Args:
            records: What the metrics amount to over all pairs; `metrics.json` holds them.

        Raises:
            KeyboardInterrupt: when the run was interrupted before its last pair (what was finished is written first).
            UserError: when a method failed on some pair, so that not all of the run worked.
        """
        pages = [PairPage(**page) for content in self.store.read() for page in content["pages"]]
        if not pages:
            raise KeyboardInterrupt
        folder, table = self.run.folder, self.table
        summary = summarise(table) | {
            f"{record.method}/{record.column}": record.value for record in records if np.isfinite(record.value)
        }
        write_text(folder / "results.csv", csv_text(table))
        write_json(folder / "metrics.json", {"records": [record.as_dict() for record in records]})
        own = [replace(read_run(folder), finished=len(pages) == self.expected, pairs=self.expected)]
        baseline = BASELINE if BASELINE in set(table["method"]) else None
        remarks = say(*(write(folder, own, baseline=baseline) for write in (write_tables, write_protocols)))
        if unsolved := unsolved_inversions(table):
            log.warning(unsolved)
            remarks = [*remarks, unsolved]
        draw_overview(folder / "figures" / "overview.png", table)
        write_report(
            folder,
            table=table,
            summary=summary,
            pages=pages,
            expected=self.expected,
            remarks=remarks,
            config=self.run.config,
            records=records,
        )
        for page in pages:
            self._log_pair(page)
        self.run.logger.table("results", list(table.columns), table.to_numpy().tolist())
        if (folder / "figures" / "overview.png").exists():
            self.run.logger.picture("overview", folder / "figures" / "overview.png")
        if len(pages) < self.expected:
            raise KeyboardInterrupt
        broken = broken_pairs(table, folder)
        if broken:
            raise UserError(broken)
        return summary

    def _write_pair(self, result: BatchResult, place: int) -> PairPage:
        batch, folder = result.pairs.batch, self.run.folder
        pair, truth = batch.pairs[place], batch.truth[place]
        of_pair = result.of_pair(place)
        made = [one for one in of_pair if not one.failed]
        rows = {one.method: one.frames for one in made}
        if truth is not None and "true_frames" not in rows:  # which is a method too, of the same name in files
            rows = {TRUTH: truth} | rows
        if not rows:
            rows = {ENDS: torch.stack([batch.images_a[place], batch.images_b[place]])}
        animations = {name: f"images/{file_stem(pair.id, ROWS.get(name, name))}.webp" for name in rows}
        stem = file_stem(pair.id)
        drawn = [one for one in made if one.result.curves is not None and one.result.morph.posed is None]
        curves = [_curve(one.result, one.index) for one in drawn]  # of one density, that of the run
        # Side by side: what takes time is compression, which needs no interpreter.
        with ThreadPoolExecutor(machine_cores()) as pool:
            jobs = [pool.submit(save_strip, folder / "images" / f"{stem}.png", rows)]
            jobs += [pool.submit(save_animation, folder / animations[name], frames) for name, frames in rows.items()]
            if curves:
                draw_pair(folder / "figures" / f"{stem}.png", curves, density=result.pairs.density)
        for job in jobs:
            job.result()
        return PairPage(
            id=pair.id,
            group=pair.group,
            prompt_a=pair.prompt_a,
            prompt_b=pair.prompt_b,
            strip=f"images/{stem}.png",
            animations=animations,
            figure=f"figures/{stem}.png" if curves else None,
            rows=[one.row for one in of_pair],
            courses={curve.method: _course(curve) for curve in curves},
        )

    def _log_pair(self, page: PairPage) -> None:
        """Tells the logger of a pair, once: this process may come to know of it only when the run ends."""
        if page.id in self._logged:
            return
        self._logged.add(page.id)
        folder, logger, stem = self.run.folder, self.run.logger, file_stem(page.id)
        logger.picture(f"strips/{stem}", folder / page.strip)
        if page.figure is not None:
            logger.picture(f"figures/{stem}", folder / page.figure)
        for method, course in page.courses.items():
            name = f"{stem}/{file_stem(method)}"
            logger.curve(f"log_density/{name}", course["log_density"], against=course["u"], axis="u")
            iterations = range(len(course["residual"]))
            logger.curve(f"residual/{name}", course["residual"], against=iterations, axis="iteration")
            logger.curve(f"length/{name}", course["length"], against=iterations, axis="iteration")


def _course(curve: Curve) -> dict[str, list[float]]:
    """What the logger is told of a path."""
    found = {
        "u": curve.u, "log_density": curve.log_density, "residual": curve.residuals, "length": curve.lengths,
    }  # fmt: skip
    return {name: values.tolist() for name, values in found.items()}


def _curve(result: MethodResult, index: int) -> Curve:
    """What the figures draw of one pair."""
    curves, solution = result.curves, result.morph.solution
    assert curves is not None and solution is not None
    trace = solution.trace
    return Curve(
        method=result.method,
        u=_numbers(curves.u),
        log_density=_numbers(curves.log_density[index]),
        speed=_numbers(curves.speed[index] / curves.speed[index].mean().clamp_min(1e-12)),
        evaluations=_numbers(trace.evaluations[:, index]),
        lengths=_numbers(trace.length[:, index]),
        residuals=_numbers(trace.residual[:, index]),
    )


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
