"""What each source means by PPL, PDV and FID, so that its numbers can be told apart from another's.

Published figures of these names do not compare: they differ in whether steps are summed or averaged, in variance or
standard deviation, in scale, in the number of frames, in the perceptual network and the range of its input, in which
images are compared with which, and in whether frames were spaced evenly first. A `Protocol` holds all of these;
`conf/protocol/` has one file for each source. A column that follows one is named after it:
`ppl_lpips_alex@diffmorpher`. PPL and PDV are statistics of the perceptual distances d_1 .. d_m of consecutive frames.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics.base import Column, Provenance, RunFacts, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph
from latent_geodesics.metrics.networks import NETWORKS, InputRange, Lpips, PerceptualNetwork, SignedRange, as_network
from latent_geodesics.models.weights import WeightsRegistry

PROTOCOLS = ("raw", "diffmorpher", "freemorph", "tangential", "aid", "paper")
"""The names that columns carry after the `@`."""

Steps = Float[Tensor, "p m"]
OfPairs = Float[Tensor, " p"]


@dataclass(frozen=True, kw_only=True)
class StepStatistic(ABC):
    """A number of a sequence, from its steps: how long it is, or how unevenly its change is spread."""

    symbol: ClassVar[str]
    """The beginning of the column's name."""

    title: ClassVar[str]
    better: ClassVar[Literal["higher", "lower"]] = "lower"

    scale: float = 1.0  # what the number is multiplied by

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UserError(f"The scale of a metric must be positive, got {self.scale}.")

    def __call__(self, steps: Steps) -> OfPairs:
        """The number of each sequence."""
        return self.scale * self._of(steps.double())

    @abstractmethod
    def _of(self, steps: Steps) -> OfPairs:
        """Before it is scaled."""


class Total(StepStatistic):
    """sum_k d_k, the perceptual path length of a sequence."""

    symbol, title = "ppl", "PPL, sum"

    def _of(self, steps: Steps) -> OfPairs:
        return steps.sum(-1)


class Average(StepStatistic):
    """The mean step."""

    symbol, title = "ppl_mean", "PPL, mean"

    def _of(self, steps: Steps) -> OfPairs:
        return steps.mean(-1)


@dataclass(frozen=True, kw_only=True)
class Variance(StepStatistic):
    """The variance of the steps, over m - correction."""

    symbol: ClassVar[str] = "pdv"
    title: ClassVar[str] = "PDV, variance"

    correction: int = 0

    def _of(self, steps: Steps) -> OfPairs:
        return steps.var(-1, correction=self.correction)


class StandardDeviation(Variance):
    """The standard deviation of the steps, over m - correction."""

    symbol: ClassVar[str] = "pdv_std"
    title: ClassVar[str] = "PDV, standard deviation"

    def _of(self, steps: Steps) -> OfPairs:
        return steps.std(-1, correction=self.correction)


class Evenness(StepStatistic):
    """1 - G with Gini's coefficient G = sum_ij |d_i - d_j| / (2 m^2 mean d): 1 where all steps are equal."""

    symbol, title, better = "evenness", "evenness, 1 - Gini", "higher"

    def _of(self, steps: Steps) -> OfPairs:
        differences = (steps[:, :, None] - steps[:, None, :]).abs().mean(dim=(1, 2))
        gini: Tensor = differences / (2 * steps.mean(-1))
        return torch.where(steps.mean(-1) > 0, 1 - gini, torch.nan)


class FrameChoice(ABC):
    """Chooses frames of each sequence, once or in several draws over which a result is averaged."""

    words: str
    """The choice, for a table's note."""

    @abstractmethod
    def choose(self, frames: int, *, seed: int, pair: int) -> Sequence[Sequence[int]]:
        """The numbers of the chosen frames, a list for each draw.

        Args:
            frames: How many frames the sequence has, both ends included.
            seed: The run's seed.
            pair: A number of the pair, so that its draws do not depend on the pairs around it.
        """


@dataclass(frozen=True)
class AllFrames(FrameChoice):
    """Every frame, the two ends among them."""

    words = "all frames"

    def choose(self, frames: int, *, seed: int, pair: int) -> Sequence[Sequence[int]]:  # noqa: D102
        return [list(range(frames))]


@dataclass(frozen=True)
class InnerFrames(FrameChoice):
    """The frames between the two ends."""

    words = "inner frames"

    def choose(self, frames: int, *, seed: int, pair: int) -> Sequence[Sequence[int]]:  # noqa: D102
        return [list(range(1, frames - 1))]


@dataclass(frozen=True, kw_only=True)
class RandomFrames(FrameChoice):
    """Some frames of each sequence at random, without replacement, drawn anew several times."""

    count: int = 2  # how many of each sequence
    draws: int = 10  # how many times

    def __post_init__(self) -> None:
        if self.count < 1 or self.draws < 1:
            raise UserError(f"count and draws must be at least 1, got {self.count} and {self.draws}.")

    @property
    def words(self) -> str:  # type: ignore[override]
        """The choice, for a table's note."""
        return f"{self.count} random frames a sequence, mean of {self.draws} draws"

    def choose(self, frames: int, *, seed: int, pair: int) -> Sequence[Sequence[int]]:  # noqa: D102
        generator, few = np.random.default_rng([seed, pair]), min(self.count, frames)
        return [sorted(generator.choice(frames, few, replace=False).tolist()) for _ in range(self.draws)]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One source's definitions."""

    name: str  # what columns carry
    source: str | None  # where the definitions stand; None for those that are no source's
    length: StepStatistic = Total()  # what its PPL makes of the perceptual steps
    spread: StepStatistic | None = Variance()  # what its PDV makes of them; None where it has none
    over_pairs: Literal["mean", "sum"] = "mean"  # whether its table gives the mean over the pairs or their sum
    frames: int | None = None  # images of a sequence, both ends included; None for any number
    network: str | None = None  # the perceptual network, by the name that columns carry; None for any
    inputs: InputRange = SignedRange()  # the range in which that network is given images
    generated: FrameChoice = InnerFrames()  # which frames its FID compares; the others are always the pairs' own images
    kernel: bool = False  # whether the kernel distance is wanted besides its FID
    # Whether its frames are spaced evenly by perceptual distance; None where that is not known
    retimed: bool | None = None
    # What else to know before comparing a PPL or PDV with the source's, above all what it does not say
    step_notes: Sequence[str] = ()
    set_notes: Sequence[str] = ()  # the same of an FID

    def __post_init__(self) -> None:
        if self.network is not None and self.network not in NETWORKS:
            raise UserError(f"A protocol's network is one of {', '.join(NETWORKS)}; {self.name} has {self.network!r}.")
        if self.over_pairs not in ("mean", "sum"):
            raise UserError(f"A protocol's over_pairs is mean or sum; {self.name} has {self.over_pairs!r}.")

    @property
    def statistics(self) -> Sequence[StepStatistic]:
        """PPL, and PDV where the source has it."""
        return (self.length,) if self.spread is None else (self.length, self.spread)

    def column(self, stem: str) -> str:
        """The name of a column that follows it."""
        return f"{stem}@{self.name}"

    def departures(self, facts: RunFacts, network: PerceptualNetwork | None = None) -> list[str]:
        """In what a run's sequences, and a perceptual network, are not the source's."""
        found = []
        if self.frames is not None and facts.frames != self.frames:
            found.append(f"{facts.frames} frames, the source has {self.frames}")
        if self.retimed is not None and self.retimed != facts.retimed:
            found.append("the source re-times its frames" if self.retimed else "re-timed, the source's are not")
        if network is not None and self.network not in (None, network.name):
            found.append(f"by {network.name}, the source has {self.network} on {self.inputs.words}")
        return found


class ProtocolSteps(SequenceMetric):
    """The lengths and spreads of sequences under published protocols."""

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
        protocols: Mapping[str, Protocol],  # Name -> protocol
        # The perceptual network for all of them, or the folder of an attribute network; None for each source's own
        network: str | PerceptualNetwork | None = None,
        weights: WeightsRegistry | None = None,  # Where the sources' own networks take their weights from
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
    def names(self) -> Sequence[str]:  # noqa: D102
        return tuple(self._made_of)

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:  # noqa: D102
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
    def networks(self) -> Sequence[PerceptualNetwork]:  # noqa: D102
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
            notes=[*protocol.departures(facts, network), *summed, *protocol.step_notes],
            over_pairs=protocol.over_pairs,
        )


def _own(protocol: Protocol, weights: WeightsRegistry | None) -> PerceptualNetwork:
    if protocol.network is None or not protocol.network.startswith("lpips_"):
        raise UserError(f"The protocol {protocol.name} names no LPIPS network of its own: give the metric a network.")
    return Lpips(variant=protocol.network.removeprefix("lpips_"), inputs=protocol.inputs, weights=weights)
