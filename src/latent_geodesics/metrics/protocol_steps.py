"""PPL and PDV as each published protocol defines them, all from the same perceptual distances."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics.base import Column, Provenance, RunFacts, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph
from latent_geodesics.metrics.networks import NETWORKS, Lpips, PerceptualNetwork, as_network
from latent_geodesics.metrics.protocol import PROTOCOLS, Protocol
from latent_geodesics.metrics.step_statistics import (
    Average,
    Evenness,
    StandardDeviation,
    StepStatistic,
    Total,
    Variance,
)
from latent_geodesics.models.weights import WeightsRegistry


class ProtocolSteps(SequenceMetric):
    """The lengths and spreads of sequences under published protocols.

    Args:
        protocols: Name -> protocol.
        network: The perceptual network for all of them, or the folder of an attribute network; None for each source's
            own.
        weights: Where the sources' own networks take their weights from.
    """

    columns: ClassVar = {
        f"{statistic.symbol}_{network}@{protocol}": Column(
            title=f"{statistic.title} ({network.replace('_', ' ')}, {protocol})", better=statistic.better
        )
        for protocol in PROTOCOLS
        for statistic in (Total, Average, Variance, StandardDeviation, Evenness)
        for network in NETWORKS
    }

    def __init__(
        self,
        *,
        protocols: Mapping[str, Protocol],
        network: str | PerceptualNetwork | None = None,
        weights: WeightsRegistry | None = None,
    ) -> None:
        if not protocols:
            raise UserError("ProtocolSteps needs at least one protocol: name some of conf/protocol.")
        self._made_of: dict[str, tuple[Protocol, PerceptualNetwork, StepStatistic]] = {}
        for protocol in protocols.values():
            chosen = _own(protocol, weights) if network is None else as_network(network)
            for statistic in protocol.statistics:
                name = protocol.column(f"{statistic.symbol}_{chosen.name}")
                self._made_of[name] = (protocol, chosen, statistic)
        super().__init__()

    @property
    def names(self) -> Sequence[str]:
        """By the protocols and networks."""
        return tuple(self._made_of)

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """Each protocol's statistics of each sequence."""
        return {
            name: statistic(measured.distances(network).steps)
            for name, (_, network, statistic) in self._made_of.items()
        }

    def compute(self) -> Mapping[str, Float[Tensor, ""]]:
        """The means over the pairs, or their sums where the source's table has sums."""
        means = super().compute()
        return {
            name: means[name] * self.count(name) if protocol.over_pairs == "sum" else means[name]
            for name, (protocol, _, _) in self._made_of.items()
        }

    @property
    def networks(self) -> Sequence[PerceptualNetwork]:
        """Those of all protocols."""
        return [network for _, network, _ in self._made_of.values()]

    def provenance(self, column: str, facts: RunFacts) -> Provenance:
        """The protocol, its network, and where the run departs from it."""
        protocol, network, _ = self._made_of[column]
        summed = ["sum over the pairs"] if protocol.over_pairs == "sum" else []
        return Provenance(
            protocol=protocol.name,
            network=network.name,
            weights=network.weights,
            counts={"pairs": self.count(column)},
            notes=[*protocol.departures(facts), *protocol.network_departures(network), *summed, *protocol.step_notes],
            over_pairs=protocol.over_pairs,
        )


def _own(protocol: Protocol, weights: WeightsRegistry | None) -> PerceptualNetwork:
    if protocol.network is None or not protocol.network.startswith("lpips_"):
        raise UserError(f"The protocol {protocol.name} names no LPIPS network of its own: give the metric a network.")
    return Lpips(variant=protocol.network.removeprefix("lpips_"), inputs=protocol.inputs, weights=weights)
