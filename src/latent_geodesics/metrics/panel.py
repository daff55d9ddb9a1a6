"""All metrics of one method in a run: measured batch by batch, read at the end, with what each number was made of."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.errors import UserError
from latent_geodesics.metrics.base import MeasuredMorph, MorphMetric, RunFacts, SequenceMetric
from latent_geodesics.models.weights import require

__all__ = ["MetricPanel", "MetricRecord", "check_metrics"]


@dataclass(frozen=True, kw_only=True)
class MetricRecord:
    """A number of a run with all that it depends on besides the run's configuration.

    Attributes:
        method: Whose sequences were measured.
        column: What was measured.
        title: The same in words.
        better: `higher`, `lower` or None.
        value: The number; NaN where nothing could be measured.
        protocol: The published protocol that it follows, if any.
        network: Whose features or distances it uses, if any's.
        weights: Name -> sha256 of that network's weights.
        counts: Of how many pairs, or of how many images on either side and in how many dimensions.
        notes: Where it departs from its protocol, and what else to know before quoting it.
        seed: The run's.
        frames: Images of a sequence.
        image_size: Height and width in pixels.
    """

    method: str
    column: str
    title: str
    better: str | None
    value: float
    protocol: str | None
    network: str | None
    weights: Mapping[str, str]
    counts: Mapping[str, int]
    notes: Sequence[str]
    seed: int
    frames: int
    image_size: tuple[int, int]

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file, in which what could not be measured is null."""
        return asdict(self) | {"value": self.value if self.value == self.value else None}


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

    def records(self, facts: RunFacts, *, seed: int) -> list[MetricRecord]:
        """What all batches amount to."""
        return [
            self._record(metric, column, float(value), facts, seed)
            for metric in self.metrics.values()
            if metric.update_called
            for column, value in metric.compute().items()
        ]

    def _record(self, metric: MorphMetric, column: str, value: float, facts: RunFacts, seed: int) -> MetricRecord:
        known, origin = metric.columns.get(column), metric.provenance(column, facts)
        return MetricRecord(
            method=self.method,
            column=column,
            title=known.title if known else column,
            better=known.better if known else None,
            value=value,
            protocol=origin.protocol,
            network=origin.network,
            weights=dict(origin.weights),
            counts=dict(origin.counts),
            notes=list(origin.notes),
            seed=seed,
            frames=facts.frames,
            image_size=facts.image_size,
        )


def check_metrics(metrics: Mapping[str, MorphMetric], facts: RunFacts) -> None:
    """Sees, before a run starts, whether its metrics can be had.

    Raises:
        UserError: where two metrics fill one column, weight files are missing (all are named), or the data cannot serve
            a metric.
    """
    filled: dict[str, str] = {}
    for name, metric in metrics.items():
        for column in metric.names:
            if column in filled:
                raise UserError(
                    f"The metrics {filled[column]} and {name} both fill the column {column}: leave one out."
                )
            filled[column] = name
    for metric in metrics.values():
        metric.check(facts)
    require(needed for metric in metrics.values() for needed in metric.requirements)
