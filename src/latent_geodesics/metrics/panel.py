"""All metrics of one method in a run: measured batch by batch, read at the end, with what each number was made of."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics.base import MorphMetric, Provenance, RunFacts, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph
from latent_geodesics.metrics.networks import require_packages
from latent_geodesics.models.weights import require


@dataclass(frozen=True, kw_only=True)
class MetricRecord(Provenance):
    """A number of a run with all that it depends on besides the run's configuration.

    Attributes:
        method: Whose sequences were measured.
        column: What was measured.
        title: The same in words.
        better: `higher`, `lower` or None.
        value: The number; NaN where nothing could be measured.
        standard_error: Over pairs, where the number is no mean over pairs (those are in `results.csv`).
        seed: The run's.
        frames: Images of a sequence.
        image_size: Height and width in pixels.
    """

    method: str
    column: str
    title: str
    better: str | None
    value: float
    standard_error: float | None
    seed: int
    frames: int
    image_size: tuple[int, int]

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file, in which what could not be measured is null."""
        known = {name: getattr(self, name) for name in ("value", "standard_error")}
        return asdict(self) | {name: value if value == value else None for name, value in known.items()}


class MetricPanel:
    """Copies of some metrics that gather what one method makes.

    Args:
        method: The method's name.
        metrics: Name -> metric.
    """

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
        return [self._record(*computed, facts, seed) for computed in self._computed()]

    def _computed(self) -> Iterator[tuple[MorphMetric, str, float, float | None]]:
        """Every metric, column, value and standard error."""
        for metric in self.metrics.values():
            if metric.update_called:
                errors = metric.standard_errors()
                for column, value in metric.compute().items():
                    yield metric, column, float(value), errors.get(column)

    def _record(
        self, metric: MorphMetric, column: str, value: float, error: float | None, facts: RunFacts, seed: int
    ) -> MetricRecord:
        known, origin = metric.columns.get(column), metric.provenance(column, facts)
        return MetricRecord(
            method=self.method,
            column=column,
            title=known.title if known else column,
            better=known.better if known else None,
            value=value,
            standard_error=error,
            seed=seed,
            frames=facts.frames,
            image_size=facts.image_size,
            **vars(origin),
        )


def check_metrics(metrics: Mapping[str, MorphMetric], facts: RunFacts) -> tuple[dict[str, MorphMetric], dict[str, str]]:
    """Sees, before a run starts, which of its metrics can be had.

    Returns:
        The metrics that the data can serve, and of each other one why it is skipped, in a sentence.

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
    lacking = {"path": "a path in the latent space", "model": "a diffusion model"}
    has = {"frames": True, "path": facts.paths, "model": facts.model}
    if not has[metric.needs]:
        raise UserError(
            f"The metric {type(metric).__name__} needs {lacking[metric.needs]}, which frames alone do not have."
        )
