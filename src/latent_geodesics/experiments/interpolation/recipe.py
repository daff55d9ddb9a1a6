"""Interpolation: every method on every pair, under Lightning's test loop.

`InterpolationModule` does a batch of pairs; the callback `RunFolder` writes what it gives, pair by pair, so that an
interrupted run keeps what was finished.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import Batches, ImagePair, NumberedBatch, PairBatch, PairData, in_batches, read_batch
from latent_geodesics.experiments.interpolation.writer import RunFolder
from latent_geodesics.methods import Attempt, EncodedPairs, Method, Morph, PairEncoder, Retimed, attempt
from latent_geodesics.methods.conditions import PathCondition
from latent_geodesics.methods.power import GeometryChoice
from latent_geodesics.metrics import (
    MeasuredMorph,
    Memory,
    MetricPanel,
    MetricRecord,
    MorphMetric,
    PathCurves,
    RunFacts,
    check_metrics,
    path_curves,
    reference_curves,
)
from latent_geodesics.models import LatentModel
from latent_geodesics.models.stopwatch import METRICS, Stopwatch
from latent_geodesics.run.batch_loop import BatchModule, run_batches
from latent_geodesics.run.batch_store import BatchStore
from latent_geodesics.run.results import BatchResult, MethodResult
from latent_geodesics.run.runner import Run

__all__ = ["Interpolation", "InterpolationModule"]


class InterpolationModule(BatchModule):
    """Encodes a batch of pairs and hands it to every method, then measures what each made of it.

    Attributes:
        alone: A context in which methods run and nothing else does, since they are timed.
    """

    def __init__(
        self,
        *,
        encoder: PairEncoder,
        methods: Mapping[str, Method],
        metrics: Mapping[str, MorphMetric],
        frames: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.methods = methods
        self.panels = {name: MetricPanel(method=name, metrics=metrics) for name in methods}
        self.u = torch.linspace(0, 1, frames, dtype=torch.float64)
        self.alone: AbstractContextManager[None] = nullcontext()

    def work(self, batch: NumberedBatch[PairBatch]) -> BatchResult:
        """One batch of pairs through every method and metric."""
        for panel in self.panels.values():
            panel.clear()
        pairs = self.encoder.encode(batch.content)
        results, shared = [], Memory()
        for name, method in self.methods.items():
            with self.alone:
                attempts = attempt(name, method, pairs, self.u)
            for part in attempts:
                results.append(self._measure(name, part, shared if part.pairs is pairs else Memory()))
        states = {name: panel.states for name, panel in self.panels.items()}
        return BatchResult(number=batch.number, pairs=pairs, u=self.u, methods=tuple(results), states=states)

    def _measure(self, name: str, part: Attempt, shared: Memory) -> MethodResult:
        """What a method made of some pairs, with its scores; `shared` is what metrics need not compute again."""
        watch = Stopwatch(part.pairs.model.device)
        measured = MeasuredMorph(
            pairs=part.pairs,
            morph=part.morph,
            u=self.u,
            curves=self._curves(part.pairs, part.morph, shared),
            shared=shared,
        )
        scores = self.panels[name].score(measured)
        watch.lap(METRICS)
        return MethodResult(
            method=name,
            pairs=part.pairs,
            morph=part.morph,
            curves=measured.curves,
            scores=scores,
            failure=part.failure,
            seconds_metrics=watch.seconds[METRICS] / len(part.pairs.batch),
        )

    def records(
        self, states: Iterable[Mapping[str, Mapping[str, Mapping[str, Any]]]], facts: RunFacts, *, seed: int
    ) -> list[MetricRecord]:
        """What batches amount to together, method by method; `states` are those of each batch."""
        for panel in self.panels.values():
            panel.clear()
        for of_batch in states:
            for name, panel in self.panels.items():
                panel.add(of_batch[name])
        found = []
        for name, panel in self.panels.items():
            of_method = replace(facts, retimed=isinstance(self.methods[name], Retimed))
            found += panel.records(of_method, seed=seed)
        return found

    def _curves(self, pairs: EncodedPairs, morph: Morph, shared: Memory) -> PathCurves | None:
        problem = (morph.posed or pairs).problem
        if morph.solution is None or morph.manifold is None:
            return None
        known = shared if morph.posed is None else Memory()
        reference = known.recall("reference curves", lambda: reference_curves(problem))
        return path_curves(morph.solution.path, problem.field, morph.manifold, problem.geometry, reference=reference)


class Interpolation:
    """Creates the task of interpolating pairs of images.

    Args:
        model: The diffusion model.
        data: The pairs.
        score: The score that makes the geometry.
        methods: Name -> method; a row of each strip, a line of each curve.
        metrics: Name -> metric.
        tau: Noise level of the latents, in (0, 1).
        alpha_d: Power of the density times the dimension of a latent, at least 0; see `methods.power`.
        alpha: The power itself, in its place; None for none.
        geometry: What paths are measured by, and geodesics of; that of p^alpha if not given.
        frames: Images of a sequence, both ends included.
        guidance: Classifier-free guidance at decoding.
        condition: What the density is conditioned on; see `PairEncoder`.
        textual_inversion: See `PairEncoder`.
    """

    shares_work = True

    def __init__(
        self,
        *,
        model: LatentModel,
        data: PairData,
        score: Any,
        methods: Mapping[str, Method],
        metrics: Mapping[str, MorphMetric],
        tau: float,
        alpha_d: float,
        frames: int,
        guidance: float,
        condition: PathCondition,
        textual_inversion: Mapping[str, Any],
        geometry: GeometryChoice = None,
        alpha: float | None = None,
    ) -> None:
        if frames < 3:
            raise UserError(f"frames must be at least 3 (two ends and one between), got {frames}.")
        if not methods:
            raise UserError("No method was chosen: name some, as in method=[geodesic,slerp].")
        self.model = model
        self.data = data
        self.methods = methods
        self.metrics = metrics
        self.frames = frames
        self._encoder = partial(
            PairEncoder,
            model=model,
            score=score,
            tau=tau,
            alpha_d=alpha_d,
            alpha=alpha,
            guidance=guidance,
            condition=condition,
            textual_inversion=textual_inversion,
            geometry=geometry,
        )
        self._facts = RunFacts(
            pairs=len(data),
            with_truth=sum(bool(pair.frames) and not (len(pair.frames) - 1) % (frames - 1) for pair in data.pairs),
            frames=frames,
            image_size=model.image_size,
        )
        check_metrics(metrics, self._facts)
        self._encoder(seed=0)  # so that a tau or alpha out of range is refused before anything starts

    def run(self, run: Run) -> Mapping[str, float]:
        """Interpolates every pair; returns the means over the pairs, `<method>/<column>` -> number."""
        weights = {"model": self.model.fingerprint}
        for metric in self.metrics.values():
            weights |= metric.weights
        run.record_environment(weights=weights, machinery=self.model.machinery)
        module = self._module(run, self.metrics)
        batches = self._batches(self.data.pairs)
        store = BatchStore(folder=run.folder, made_with=weights, expected=batches.ids)
        folder = RunFolder(run=run, store=store, pairs=len(self.data))
        module.alone = folder.desk
        run_batches(run, module, batches, store, folder)
        folder.settle()  # what an interrupt found in writing belongs to the table and to the metrics alike
        if not run.leads:
            return {}
        states = [content["states"] for content in store.read()]
        return folder.finish(module.records(states, self._facts, seed=run.seed))

    def _module(self, run: Run, metrics: Mapping[str, MorphMetric]) -> InterpolationModule:
        return InterpolationModule(
            encoder=self._encoder(seed=run.seed), methods=self.methods, metrics=metrics, frames=self.frames
        )

    def _batches(self, pairs: Sequence[ImagePair]) -> Batches[ImagePair, PairBatch]:
        read = partial(read_batch, size=self.model.image_size)
        return Batches(batches=in_batches(pairs, self.data.batch_size), read=read)
