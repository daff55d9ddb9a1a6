"""Every method on pairs of images, measured: what interpolation, truth and the benches have in common."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.progress import advance, tell, telling
from latent_geodesics.data import ImagePair, PairBatch, read_batch
from latent_geodesics.data.pairs import has_positions
from latent_geodesics.methods import Attempt, EncodedPairs, Method, Morph, PairEncoder, Retimed, attempt
from latent_geodesics.methods.conditions import GeometryChoice, PathCondition
from latent_geodesics.metrics import (
    MeasuredMorph,
    MetricMemory,
    MetricPanel,
    MetricRecord,
    MorphMetric,
    PathCurves,
    RunFacts,
    check_metrics,
    in_eight_bits,
    path_curves,
    reference_curves,
)
from latent_geodesics.models import LatentModel
from latent_geodesics.models.accelerator import METRICS, Stopwatch
from latent_geodesics.run.results import BatchResult, MethodResult, unknown_images

log = logging.getLogger(__name__)


class Morphs:
    """Encodes a batch of pairs, hands it to every method, and measures what each made of it.

    Args:
        model: The diffusion model.
        score: The score that makes the geometry.
        methods: Name -> method; a row of each strip, a line of each curve.
        metrics: Name -> metric.
        tau: Noise level of the latents, in (0, 1).
        alpha_d: Power of the density times the dimension of a latent, at least 0; see `methods.conditions`.
        alpha: The power itself, in its place; None for none.
        geometry: What paths are measured by, and geodesics of; that of p^alpha if not given.
        frames: Images of a sequence, both ends included; at least 3.
        guidance: Classifier-free guidance at decoding.
        condition: What the density is conditioned on; see `PairEncoder`.
        textual_inversion: See `PairEncoder`.
    """

    def __init__(
        self,
        *,
        model: LatentModel,
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
        self.model, self.methods, self.metrics, self.frames = model, methods, metrics, frames
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
        self._encoder(seed=0)  # so that a tau or alpha out of range is refused before anything starts
        self._panels = {name: MetricPanel(method=name, metrics=metrics) for name in methods}
        self.skipped: dict[str, str] = {}
        self.u = torch.linspace(0, 1, frames, dtype=torch.float64)

    @property
    def weights(self) -> dict[str, str]:
        """The hashes of all weights that the numbers depend on."""
        found = {"model": self.model.fingerprint}
        for metric in self.metrics.values():
            found |= metric.weights
        return found

    @property
    def read(self) -> Callable[[Sequence[ImagePair]], PairBatch]:
        """What reads pairs in the model's size."""
        return partial(read_batch, size=self.model.image_size)

    def has_truth(self, pair: ImagePair) -> bool:
        """Whether true frames of a pair are known at the positions of the sequences."""
        return has_positions(len(pair.frames), self.frames)

    def facts(self, pairs: Sequence[ImagePair]) -> RunFacts:
        """What metrics need to know of a run; those that its pairs cannot serve are `skipped` from here on.

        Raises:
            UserError: when two metrics fill one column, or weights are missing.
        """
        facts = RunFacts(
            pairs=len(pairs),
            with_truth=sum(map(self.has_truth, pairs)),
            frames=self.frames,
            image_size=self.model.image_size,
        )
        self.metrics, self.skipped = check_metrics(self.metrics, facts)
        self._panels = {name: MetricPanel(method=name, metrics=self.metrics) for name in self.methods}
        for reason in self.skipped.values():
            log.warning("%s", reason)
        return facts

    def __call__(self, batch: PairBatch, *, seed: int) -> BatchResult:
        """A batch of pairs through every method and metric; the log is told of images that the model does not know."""
        tell("encoding")
        pairs = self._encoder(seed=seed).encode(batch)
        for id, decibels in zip(batch.ids, pairs.given_back.amin(1).tolist(), strict=True):
            if said := unknown_images(f"pair '{id}'", decibels):
                log.warning("%s", said)
        return self.of(pairs)

    def encode(self, batch: PairBatch, *, seed: int) -> EncodedPairs:
        """A batch of pairs as the problem that every method is given."""
        tell("encoding")
        return self._encoder(seed=seed).encode(batch)

    def of(self, pairs: EncodedPairs) -> BatchResult:
        """What methods and metrics make of pairs that are encoded."""
        for panel in self._panels.values():
            panel.clear()
        results, shared = [], MetricMemory()
        for name, method in self.methods.items():
            with telling(f"{name}: "):
                parts = attempt(name, method, pairs, self.u)
            for part in parts:
                memory = shared if part.pairs is pairs else MetricMemory()
                results.append(self._measure(self._panels[name], part, memory))
            advance(1 / len(self.methods))
        states = {name: panel.states for name, panel in self._panels.items()}
        return BatchResult(pairs=pairs, u=self.u, methods=tuple(results), states=states)

    def records(
        self, states: Iterable[Mapping[str, Mapping[str, Mapping[str, Any]]]], facts: RunFacts, *, seed: int
    ) -> list[MetricRecord]:
        """What batches amount to together, method by method; `states` are those of each batch."""
        for panel in self._panels.values():
            panel.clear()
        for of_batch in states:
            for name, panel in self._panels.items():
                panel.add(of_batch[name])
        found = []
        for name, panel in self._panels.items():
            of_method = replace(facts, retimed=isinstance(self.methods[name], Retimed))
            found += panel.records(of_method, seed=seed)
        return found

    def _measure(self, panel: MetricPanel, part: Attempt, shared: MetricMemory) -> MethodResult:
        """What a method made of some pairs, with its scores; `shared` is what metrics need not compute again.

        Frames are measured as their files hold them, so that whoever reads those finds the same numbers.
        """
        tell(f"{panel.method}: measuring")
        morph = replace(part.morph, frames=in_eight_bits(part.morph.frames))
        watch = Stopwatch(part.pairs.model.device)
        measured = MeasuredMorph(
            pairs=part.pairs,
            morph=morph,
            u=self.u,
            curves=self._curves(part.pairs, morph, shared),
            shared=shared,
        )
        scores = panel.score(measured)
        watch.lap(METRICS)
        return MethodResult(
            method=panel.method,
            pairs=part.pairs,
            morph=morph,
            curves=measured.curves,
            scores=scores,
            failure=part.failure,
            seconds_metrics=watch.seconds[METRICS] / len(part.pairs.batch),
        )

    def _curves(self, pairs: EncodedPairs, morph: Morph, shared: MetricMemory) -> PathCurves | None:
        problem = (morph.posed or pairs).problem
        if morph.solution is None or morph.manifold is None:
            return None
        known = shared if morph.posed is None else MetricMemory()
        reference = known.recall("reference curves", lambda: reference_curves(problem))
        return path_curves(morph.solution.path, problem.field, morph.manifold, problem.geometry, reference=reference)
