"""What each source means by PPL, PDV and FID, so that its numbers can be told apart from another's.

Published figures of these names do not compare: they differ in whether steps are summed or averaged, in variance or
standard deviation, in scale, in the number of frames, in the perceptual network and the range of its input, in which
images are compared with which, and in whether frames were spaced evenly first. A `Protocol` holds all of these;
`conf/protocol/` has one file for each source. A column that follows one is named after it:
`ppl_lpips_alex@diffmorpher`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics.base import RunFacts
from latent_geodesics.metrics.frame_choice import FrameChoice, InnerFrames
from latent_geodesics.metrics.inputs import InputRange, SignedRange
from latent_geodesics.metrics.networks import NETWORKS, PerceptualNetwork
from latent_geodesics.metrics.step_statistics import StepStatistic, Total, Variance

PROTOCOLS = ("raw", "diffmorpher", "freemorph", "tangential", "aid", "paper")
"""The names that columns carry after the `@`."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One source's definitions.

    Attributes:
        name: What columns carry.
        source: Where the definitions stand; None for those that are no source's.
        length: What its PPL makes of the perceptual steps.
        spread: What its PDV makes of them; None where it has none.
        over_pairs: Whether its table gives the mean over the pairs or their sum.
        frames: Images of a sequence, both ends included; None for any number.
        network: The perceptual network, by the name that columns carry; None for any.
        inputs: The range in which that network is given images.
        generated: Which frames its FID compares; the others are always the pairs' own images.
        kernel: Whether the kernel distance is wanted besides its FID.
        retimed: Whether its frames are spaced evenly by perceptual distance; None where that is not known.
        step_notes: What else to know before comparing a PPL or PDV with the source's, above all what it does not say.
        set_notes: The same of an FID.
    """

    name: str
    source: str | None
    length: StepStatistic = Total()
    spread: StepStatistic | None = Variance()
    over_pairs: Literal["mean", "sum"] = "mean"
    frames: int | None = None
    network: str | None = None
    inputs: InputRange = SignedRange()
    generated: FrameChoice = InnerFrames()
    kernel: bool = False
    retimed: bool | None = None
    step_notes: Sequence[str] = ()
    set_notes: Sequence[str] = ()

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

    def departures(self, facts: RunFacts) -> list[str]:
        """In what a run's sequences are not the source's."""
        found = []
        if self.frames is not None and facts.frames != self.frames:
            found.append(f"{facts.frames} frames, the source has {self.frames}")
        if self.retimed is not None and self.retimed != facts.retimed:
            found.append("the source re-times its frames" if self.retimed else "re-timed, the source's are not")
        return found

    def network_departures(self, network: PerceptualNetwork) -> list[str]:
        """In what a perceptual network is not the source's."""
        if self.network in (None, network.name):
            return []
        return [f"by {network.name}, the source has {self.network} on {self.inputs.words}"]
