"""Interpolation: every method on every pair of images, measured by every metric."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import PairBatch, PairData, in_batches
from latent_geodesics.data.starts import pairs_named
from latent_geodesics.experiments.interpolation.report import InterpolationReport, PairPage, log_courses, show_pair
from latent_geodesics.run.canvas import draw_grid, frames_on_disk, shown_positions
from latent_geodesics.run.each import Rows
from latent_geodesics.run.files import title_of, write_json
from latent_geodesics.run.morphs import Morphs
from latent_geodesics.run.results import broken_pairs, summarise
from latent_geodesics.run.runner import Run


class PairInterpolation:
    """Creates the experiment of interpolating pairs of images.

    Args:
        morphs: The methods and the metrics.
        data: The pairs.
        grid_pairs: Ids of the pairs in the figure for a paper; the first three if not given.
        grid_columns: Frames of a sequence that it shows, at least 2.
    """

    shares_work = True

    def __init__(
        self, *, morphs: Morphs, data: PairData, grid_pairs: Sequence[str] | None = None, grid_columns: int = 7
    ) -> None:
        if grid_columns < 2:
            raise UserError(f"task.grid_columns must be at least 2 (both ends), got {grid_columns}.")
        self.morphs, self.data, self.facts = morphs, data, morphs.facts(data.pairs)
        chosen = data.pairs[:3] if grid_pairs is None else pairs_named(data.pairs, grid_pairs)
        self.grid_pairs, self.grid_columns = [pair.id for pair in chosen], grid_columns

    def run(self, run: Run) -> Mapping[str, float]:
        """Interpolates every pair; returns the means over the pairs, `<method>/<column>` -> number."""
        morphs, batches = self.morphs, in_batches(self.data.pairs, self.data.batch_size)
        run.record_environment(weights=morphs.weights, machinery=morphs.model.machinery)
        tables = run.each(batches, partial(self.work, run), read=morphs.read, made_with=morphs.weights)
        if not run.leads:
            return {}
        records = morphs.records(tables.kept("states"), self.facts, seed=run.seed)
        write_json(
            run.folder / "metrics.json",
            {"records": [record.as_dict() for record in records], "skipped": morphs.skipped},
        )
        pages = [PairPage(**page) for of_batch in tables.kept("pages") for page in of_batch]
        log_courses(run.logger, pages)
        at = shown_positions(morphs.frames, self.grid_columns)
        grid = {
            pair: {
                title_of(name): frames_on_disk(run.folder, pair, name, at=at)
                for name in ("true_frames", *morphs.methods)
            }
            for pair in self.grid_pairs
        }
        draw_grid(run.folder / "figures" / "grid", grid, at=at)
        results = tables["results"]
        summary = summarise(results, records)
        report = InterpolationReport(
            table=results, summary=summary, pages=pages, config=run.config, expected=len(self.data), records=records,
            skipped=list(morphs.skipped.values()),
        )  # fmt: skip
        return run.finish(report, tables, summary=summary, broken=broken_pairs(results, run.folder))

    def work(self, run: Run, batch: PairBatch) -> Rows:
        """A batch of pairs through every method and metric, its pictures written."""
        result, rows = self.morphs(batch, seed=run.seed), run.rows()
        rows.whole = result.whole
        pages = [show_pair(rows, result, place) for place in range(len(batch))]
        rows.add("results", *(row for page in pages for row in page.rows))
        rows.kept = {"pages": [asdict(page) for page in pages], "states": result.states}
        return rows
