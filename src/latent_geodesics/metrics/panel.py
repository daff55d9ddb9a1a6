"""All metrics of one method in a run: measured batch by batch, read at the end, with what each number was made of."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics.base import Column, MorphMetric, Provenance, RunFacts, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph
from latent_geodesics.metrics.networks import require_packages
from latent_geodesics.models.weights import require


@dataclass(frozen=True, kw_only=True)
class MetricRecord(Provenance):
    """A number of a run with all that it depends on besides the run's configuration."""

    method: str  # whose sequences were measured
    column: str  # what was measured
    title: str  # the same in words
    better: str | None  # `higher`, `lower` or None
    value: float  # the number; NaN where nothing could be measured
    standard_error: float | None  # over pairs, where the number is no mean over pairs (those are in `results.csv`)
    seed: int  # the run's
    frames: int  # images of a sequence
    image_size: tuple[int, int]  # height and width in pixels

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file, in which what could not be measured is null."""
        known = {name: getattr(self, name) for name in ("value", "standard_error")}
        return asdict(self) | {name: value if value == value else None for name, value in known.items()}


class MetricPanel:
    """Copies of some metrics, by name, that gather what one method makes."""

    def __init__(self, *, method: str, metrics: Mapping[str, MorphMetric]) -> None:
        self.method = method
        self.metrics = {name: metric.clone() for name, metric in metrics.items()}

    def score(self, measured: MeasuredMorph) -> dict[str, Float[Tensor, " p"]]:
        """Takes in a batch; returns column -> value of each of its pairs."""
        scores: dict[str, Tensor] = {}
        for metric in self.metrics.values():
            metric.update(measured)
            if isinstance(metric, SequenceMetric):
                scores |= metric.latest
        return scores

    @property
    def states(self) -> dict[str, dict[str, Any]]:
        """Metric -> a copy of its states: sums, counts and lists, which `add` takes."""
        return {name: deepcopy(dict(metric.metric_state)) for name, metric in self.metrics.items()}

    def add(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes in what another panel of the same metrics gathered."""
        for name, metric in self.metrics.items():
            metric.merge_state(dict(states[name]))
            metric._update_count += 1  # which the library leaves as it is, and then warns of a metric without data

    def clear(self) -> None:
        """Forgets what was gathered."""
        for metric in self.metrics.values():
            metric.reset()

    def numbers(self) -> list[dict[str, Any]]:
        """What all batches amount to, without what the numbers are made of."""
        return [
            {"method": self.method, "column": column, "value": value, "standard_error": error}
            for _, column, value, error in self._computed()
        ]

    def records(self, facts: RunFacts, *, seed: int) -> list[MetricRecord]:
        """What all batches amount to."""
        found = []
        for metric, column, value, error in self._computed():
            known = metric.columns.get(column) or Column(title=column)
            found.append(
                MetricRecord(
                    method=self.method,
                    column=column,
                    title=known.title,
                    better=known.better,
                    value=value,
                    standard_error=error,
                    seed=seed,
                    frames=facts.frames,
                    image_size=facts.image_size,
                    **vars(metric.provenance(column, facts)),
                )
            )
        return found

    def _computed(self) -> Iterator[tuple[MorphMetric, str, float, float | None]]:
        """Every metric, column, value and standard error."""
        for metric in self.metrics.values():
            if metric.update_called:
                errors = metric.standard_errors()
                for column, value in metric.compute().items():
                    yield metric, column, float(value), errors.get(column)


def check_metrics(metrics: Mapping[str, MorphMetric], facts: RunFacts) -> tuple[dict[str, MorphMetric], dict[str, str]]:
    """Sees, before a run starts, which of its metrics can be had, and why each other one is skipped, in a sentence.

    Raises:
        UserError: where two metrics fill one column, or weight files (all are named) or packages are missing.
    """
    filled: dict[str, str] = {}
    for name, metric in metrics.items():
        for column in metric.names:
            if column in filled:
                raise UserError(
                    f"The metrics {filled[column]} and {name} both fill the column {column}: leave one out."
                )
            filled[column] = name
    served, skipped = {}, {}
    for name, metric in metrics.items():
        try:
            _check_needs(metric, facts)
            metric.check(facts)
            served[name] = metric
        except UserError as error:
            skipped[name] = f"'{name}' is skipped. {error}"
    require_packages((name, package) for name, metric in served.items() for package in metric.packages)
    require(needed for metric in served.values() for needed in metric.requirements)
    return served, skipped


def _check_needs(metric: MorphMetric, facts: RunFacts) -> None:
    lacking = {
        "path": ("a path in the latent space", "leave it out"),
        "model": ("a diffusion model", "leave it out, or set 'task.model=${model}'"),
    }
    has = {"frames": True, "path": facts.paths, "model": facts.model}
    if not has[metric.needs]:
        what, remedy = lacking[metric.needs]
        raise UserError(f"The metric {metric.title} needs {what}, which frames alone do not have: {remedy}.")
