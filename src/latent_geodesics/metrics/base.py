"""The seam of every metric: what is known of a sequence of images in, named numbers out.

A metric is a `torchmetrics.Metric`: `update` takes what a method made of a batch of pairs, `compute` gives what all
batches amount to, and its states are sums, counts and lists that are joined over processes, so that neither the size of
a batch nor the number of processes changes a result. Two kinds: a `SequenceMetric` also gives a number for each pair,
as rows of a table need them; a `SetMetric` compares all images of a run with others, and has one number a run.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics.measured import MeasuredMorph
from latent_geodesics.metrics.networks import JudgingNetwork, Package
from latent_geodesics.models.weights import Requirement

OF_DENSITY = frozenset({"condition", "model", "score", "tau", "textual_inversion"})
"""The settings that make a density: log-densities compare within them."""

OF_METRIC = OF_DENSITY | {"alpha", "alpha_d", "geometry"}
"""The settings that make a metric of it: lengths and residuals compare within them."""

MOST_MISFIT = 0.5
"""The largest misfit of a number that is ranked, as a share of the gain."""

_FIRST = (
    *("PathQuality", "NoiseNorm", "Ghosting", "Verdict", "PerceptualSmoothness", "TruthError", "Reconstruction"),
    *("OpticalFlow", "Sharpness", "Typicality", "AttributeErrors", "DensityBow"),
)
"""The metrics whose columns stand first in tables; the others follow, module by module."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A number that a metric gives."""

    title: str  # its heading in tables
    # Which way is better; None where neither is, so that no value is marked as the best
    better: Literal["higher", "lower"] | None = None
    shown: bool = True  # whether the tables of a page have it; those in files always do
    # The settings that the number is one of: rows that differ in them are not ranked against one another
    within: frozenset[str] = frozenset()
    # The column that says how far off the number may be, in its unit, because the score is no exact gradient
    bound: str | None = None
    against: str | None = None  # the column of what the number is a gain on; see `closes`

    def closes(self, value: float, bound: float, against: float) -> bool:
        """Whether means over pairs are known well enough to be ranked.

        A path that gains less on the reference than twice its misfit is not: with the density fixed at the other end it
        may gain nothing, and half of the gain is what another method's misfit may take besides. The reference itself
        has no misfit.
        """
        return not bound > MOST_MISFIT * abs(value - against)


def known_columns(needs: str | None = None) -> Mapping[str, Column]:
    """The columns of every metric here, or of those that need this alone; those of a published protocol hold an `@`."""
    package = importlib.import_module("latent_geodesics.metrics")
    modules = [
        importlib.import_module(f"{package.__name__}.{one.name}") for one in pkgutil.iter_modules(package.__path__)
    ]
    classes = [item for module in modules for item in vars(module).values() if isinstance(item, type)]
    found = [item for item in classes if issubclass(item, MorphMetric) and needs in (None, item.needs)]
    found.sort(key=lambda metric: _FIRST.index(metric.__name__) if metric.__name__ in _FIRST else len(_FIRST))
    return {name: column for metric in found for name, column in getattr(metric, "columns", {}).items()}


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What is known of a run before it starts, for a metric to say whether it can be had."""

    pairs: int  # how many pairs of images there are
    with_truth: int  # how many of them have true frames at the positions of the sequences
    frames: int  # images of a sequence
    image_size: tuple[int, int]  # height and width in pixels
    retimed: bool = False  # whether the frames are spaced evenly by perceptual distance
    paths: bool = True  # whether the sequences may have paths in the latent space; those that others made have none
    model: bool = True  # whether a diffusion model is at hand
    images: bool = True  # whether the images that sequences lead between are known otherwise than by their ends


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a number was made of."""

    protocol: str | None = None  # the published protocol that it follows, if any
    network: str | None = None  # the network whose features or distances it uses, if any
    weights: Mapping[str, str] = field(default_factory=dict)  # name -> sha256 of that network's weights
    # What it is a number of: `pairs`, or `generated`, `reference` and `dimensions`
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()  # where it departs from its protocol, and what else to know before quoting it
    over_pairs: Literal["mean", "sum"] = "mean"  # whether it is the mean of what each pair gives, or the sum


class MorphMetric(Metric, ABC):
    """Measures what a method makes of pairs of images."""

    columns: ClassVar[Mapping[str, Column]]
    """Every column that the class can give, by name."""

    needs: ClassVar[Literal["frames", "path", "model"]] = "frames"
    """What it is made of: the frames and images alone, a path in the latent space, or a diffusion model's view."""

    package: ClassVar[Package | None] = None
    """The optional package that it needs, if any."""

    full_state_update = False
    is_differentiable = False

    @property
    def names(self) -> Sequence[str]:
        """The columns that this metric gives: all of its class, unless it says otherwise."""
        return tuple(self.columns)

    @property
    def title(self) -> str:
        """What sentences call it: the heading of its first column, between quotation marks."""
        return f"'{self.columns[self.names[0]].title}'"

    @property
    def networks(self) -> Sequence[JudgingNetwork]:
        """The networks by which it sees images."""
        return ()

    @property
    def requirements(self) -> Sequence[Requirement]:
        """The weight files that it needs: those of its networks."""
        return [needed for network in self.networks for needed in network.requirements]

    @property
    def packages(self) -> Sequence[Package]:
        """The optional packages that it needs."""
        return () if self.package is None else (self.package,)

    @property
    def weights(self) -> Mapping[str, str]:
        """Name -> hash of the networks that the metric uses."""
        return {name: digest for network in self.networks for name, digest in network.weights.items()}

    def check(self, facts: RunFacts) -> None:
        """Refuses, before a run starts, what its data cannot serve: images too small for a network, here."""
        for network in self.networks:
            if min(facts.image_size) < network.least_side:
                height, width = facts.image_size
                raise UserError(
                    f"The metric {self.title} needs images of at least {network.least_side} pixels a side, and those "
                    f"of this run have {width} x {height}: leave it out, or take larger images."
                )

    @abstractmethod
    def update(self, measured: MeasuredMorph) -> None:
        """Takes in what a method made of a batch of pairs."""

    @abstractmethod
    def compute(self) -> Mapping[str, Float[Tensor, ""]]:
        """Column -> what all pairs so far amount to; NaN where nothing could be measured."""

    @abstractmethod
    def provenance(self, column: str, facts: RunFacts) -> Provenance:
        """What a column's number was made of."""

    def standard_errors(self) -> Mapping[str, float]:
        """Column -> standard error over pairs, for numbers that are no means over pairs."""
        return {}

    def clone(self) -> "MorphMetric":
        """A copy with states of its own and the same networks."""
        return deepcopy(self, {id(child): child for child in self.children()})


class SequenceMetric(MorphMetric):
    """Measures sequences one by one; over a run, the mean over the pairs that could be measured."""

    sums: Float[Tensor, " k"]
    counts: Float[Tensor, " k"]

    def __init__(self) -> None:
        super().__init__()
        empty = torch.zeros(len(self.names), dtype=torch.float64)
        self.add_state("sums", empty, dist_reduce_fx="sum")
        self.add_state("counts", empty.clone(), dist_reduce_fx="sum")
        self.latest: Mapping[str, Float[Tensor, " p"]] = {}

    @abstractmethod
    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """Column name -> value of each pair; NaN where the pair cannot be measured (no true frames, say)."""

    def update(self, measured: MeasuredMorph) -> None:
        """Measures a batch; `latest` holds the values of its pairs until the next."""
        failed = measured.failed
        self.latest = {
            name: torch.where(failed, torch.nan, values.detach().cpu())
            for name, values in self.measure(measured).items()
        }
        for index, name in enumerate(self.names):
            if name in self.latest:
                known = self.latest[name].double()
                known = known[~known.isnan()].to(self.sums.device)
                self.sums[index] += known.sum()
                self.counts[index] += len(known)

    def compute(self) -> Mapping[str, Float[Tensor, ""]]:  # noqa: D102
        return dict(zip(self.names, self.sums / self.counts, strict=True))

    def provenance(self, column: str, facts: RunFacts) -> Provenance:
        """How many pairs, and all networks of the metric."""
        return Provenance(weights=self.weights, counts={"pairs": self.count(column)})

    def count(self, column: str) -> int:
        """How many pairs a column is a mean of."""
        return int(self.counts[list(self.names).index(column)])


class FrameMetric(SequenceMetric):
    """Measures every frame by itself; a sequence has the mean over its frames that can be measured."""

    @abstractmethod
    def per_frame(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, "p n"]]:
        """Column name -> value of each frame; NaN where the frame cannot be measured."""

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:  # noqa: D102
        return {name: values.nanmean(-1) for name, values in self.per_frame(measured).items()}


class SetMetric(MorphMetric):
    """Compares all images that a method made in a run with a set of others; it has no value for a single pair."""
