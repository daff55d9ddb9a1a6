"""Score: sequences that others made, measured by every metric and published protocol that needs frames alone."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import in_batches
from latent_geodesics.experiments.score.page import score_page, shown
from latent_geodesics.experiments.score.sequences import GivenFrames, SequenceData
from latent_geodesics.methods import Morph
from latent_geodesics.methods.base import GIVEN
from latent_geodesics.metrics import (
    GivenPairs,
    MeasuredMorph,
    MetricPanel,
    MetricRecord,
    MorphMetric,
    RunFacts,
    check_metrics,
)
from latent_geodesics.models import LatentModel
from latent_geodesics.run.each import Rows
from latent_geodesics.run.files import write_json
from latent_geodesics.run.results import result_row, summarise
from latent_geodesics.run.runner import Run

log = logging.getLogger(__name__)


class Scoring:
    """Creates the experiment of scoring frames.

    Args:
        data: The sequences.
        metrics: Name -> metric; those that these frames cannot serve are left out, with a note.
        model: A diffusion model, for metrics that need one to judge frames; none is loaded if not given.
    """

    shares_work = True

    def __init__(
        self, *, data: SequenceData, metrics: Mapping[str, MorphMetric], model: LatentModel | None = None
    ) -> None:
        if not metrics:
            raise UserError("No metric was chosen: name some, as in metrics=[frames,flip].")
        self.data, self.model = data, model
        self.facts = {name: replace(data.facts(name), model=model is not None) for name in data.methods}
        self.panels: dict[str, MetricPanel] = {}
        notes: dict[str, None] = {}
        for name, facts in self.facts.items():
            served, skipped = check_metrics(metrics, facts)
            if not served:
                raise UserError(f"No metric can be had of these frames: {next(iter(skipped.values()))}")
            self._check_size(served, facts)
            self.panels[name] = MetricPanel(method=name, metrics=served)
            notes |= dict.fromkeys(skipped.values())
        self.notes = [*data.remarks, *notes]

    @property
    def weights(self) -> dict[str, str]:
        """The hashes of all weights that the numbers depend on."""
        found = {} if self.model is None else {"model": self.model.fingerprint}
        for panel in self.panels.values():
            for metric in panel.metrics.values():
                found |= metric.weights
        return found

    def run(self, run: Run) -> Mapping[str, float]:
        """Scores every sequence; returns the means over the pairs, `<method>/<column>` -> number."""
        if run.leads:
            for note in self.notes:
                log.warning("%s", note)
        run.record_environment(weights=self.weights)
        made_with = self.weights | dict(self.data.digests)
        batches = in_batches(self.data.pairs, 1)
        tables = run.each(batches, partial(self.work, run), read=self.data.read, made_with=made_with)
        if not run.leads:
            return {}
        records = self._records(tables.kept("states"), seed=run.seed)
        write_json(run.folder / "metrics.json", {"records": [record.as_dict() for record in records]})
        summary = summarise(tables["results"], records)
        page = score_page(run, self.data, tables, records, notes=self.notes)
        return run.finish(page, tables, summary=summary)

    def work(self, run: Run, given: Sequence[GivenFrames]) -> Rows:
        """A pair: every method's frames through every metric, and a strip of all of them."""
        rows = run.rows()
        rows.kept["states"] = {}
        for one in given:
            panel = self.panels[one.method]
            panel.clear()
            morph = Morph(
                frames=one.frames,
                statuses=(GIVEN,),
                evaluations=torch.full((1,), torch.nan),
                seconds=float("nan"),
            )
            u = torch.linspace(0, 1, one.frames.shape[1], dtype=torch.float64)
            pairs = GivenPairs(batch=one.batch, model=self.model)
            scores = panel.score(MeasuredMorph(pairs=pairs, morph=morph, u=u, curves=None))
            rows.add("results", result_row(one.batch.pairs[0], morph, index=0, method=one.method, scores=scores))
            rows.kept["states"][one.method] = panel.states
        rows.strip(shown(given), given[0].batch.pairs[0].id)
        return rows

    def _check_size(self, metrics: Mapping[str, MorphMetric], facts: RunFacts) -> None:
        """Refuses frames that the model cannot take."""
        needed = any(metric.needs == "model" for metric in metrics.values())
        if self.model is not None and needed and facts.image_size != self.model.image_size:
            (height, width), (own_height, own_width) = facts.image_size, self.model.image_size
            raise UserError(
                f"The frames have {width} x {height} pixels and the model takes {own_width} x {own_height}: set "
                f"size=[{own_height},{own_width}]."
            )

    def _records(
        self, states: Sequence[Mapping[str, Mapping[str, Mapping[str, Any]]]], *, seed: int
    ) -> list[MetricRecord]:
        for panel in self.panels.values():
            panel.clear()
        for of_pair in states:
            for method, state in of_pair.items():
                self.panels[method].add(state)
        return [one for name, panel in self.panels.items() for one in panel.records(self.facts[name], seed=seed)]
