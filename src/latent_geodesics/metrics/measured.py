"""What a metric is given: a method's sequences with what several metrics need of them, each thing found once."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import PairBatch
from latent_geodesics.methods import EncodedPairs, Morph
from latent_geodesics.metrics.curves import PathCurves
from latent_geodesics.metrics.networks import PerceptualNetwork
from latent_geodesics.models.latent_model import LatentModel

T = TypeVar("T")

_FRAMES = 4


class MetricMemory:
    """What several metrics need of the same images, found once."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}

    def recall(self, key: Hashable, find: Callable[[], T]) -> T:
        """What was found under a key before, or else is found now."""
        if key not in self._found:
            self._found[key] = find()
        found: T = self._found[key]
        return found


@dataclass(frozen=True, kw_only=True)
class FrameDistances:
    """Perceptual distances of sequences, from one pass over their frames.

    Attributes:
        steps: D(x_k, x_{k+1}).
        truth: D(x_k, y_k) to the true frames y; NaN for pairs that have none.
    """

    steps: Float[Tensor, "*p m"]
    truth: Float[Tensor, "*p n"]


@dataclass(frozen=True, kw_only=True)
class GivenPairs:
    """Pairs between which others made sequences: images and true frames, and no latents.

    Attributes:
        batch: The images.
        model: A diffusion model, for the metrics that need one to judge frames.
    """

    batch: PairBatch
    model: LatentModel | None = None


@dataclass(frozen=True, kw_only=True)
class MeasuredMorph:
    """A method's sequences with what metrics may need of them.

    Attributes:
        pairs: The pairs, their true frames among them.
        morph: What the method made.
        u: The positions of its frames in [0, 1].
        curves: Density, speed and residual along its path, for the methods that have a path.
        own: Found once for these sequences.
        shared: Found once for these pairs, whatever the method.

    Raises:
        UserError: when the frames are of another size than the images.
    """

    pairs: EncodedPairs | GivenPairs
    morph: Morph
    u: Float[Tensor, " n"]
    curves: PathCurves | None
    own: MetricMemory = field(default_factory=MetricMemory, repr=False, compare=False)
    shared: MetricMemory = field(default_factory=MetricMemory, repr=False, compare=False)

    def __post_init__(self) -> None:
        height, width = self.morph.frames.shape[-2:]
        wanted = tuple(self.pairs.batch.images_a.shape[-2:])
        if (height, width) != wanted:
            raise UserError(
                f"The frames of a sequence have {width} x {height} pixels and its images {wanted[1]} x {wanted[0]}: "
                "metrics compare images of one size, so the method must give frames of the size of the images."
            )

    @property
    def posed(self) -> EncodedPairs:
        """The problem that the path belongs to: the run's, unless the method has one of its own."""
        found = self.pairs if self.morph.posed is None else self.morph.posed
        if isinstance(found, GivenPairs):
            raise TypeError("frames that were given belong to no problem: only metrics of frames measure them")
        return found

    @property
    def model(self) -> LatentModel:
        """The diffusion model; metrics that ask for it say so in their `needs`."""
        if self.pairs.model is None:
            raise TypeError("frames that were given have no model: only metrics of frames measure them")
        return self.pairs.model

    @property
    def failed(self) -> Bool[Tensor, " p"]:
        """Which sequences are none, because their frames are not all numbers."""
        return ~self.morph.frames.isfinite().flatten(1).all(-1).cpu()

    def truth(self, row: int) -> Float[Tensor, "n 3 h w"] | None:
        """The true frames of a pair at the positions of the sequence; None where it has none there."""
        return self.pairs.batch.true_frames(row, len(self.u))

    def distances(self, network: PerceptualNetwork) -> FrameDistances:
        """The distances that sequence metrics are made of; each frame goes through the network once."""
        return self.own.recall(("distances", network.key), lambda: self._distances(network))

    def truth_distances(self, network: PerceptualNetwork, row: int) -> Float[Tensor, "n n"] | None:
        """The distance of each frame of a sequence from each true frame; None where there are no true frames."""
        truth = self.truth(row)
        if truth is None:
            return None
        frames = self.morph.frames[row]
        found: Tensor = self.own.recall(("against truth", network.key, row), lambda: _across(network, frames, truth))
        return found

    def _distances(self, network: PerceptualNetwork) -> FrameDistances:
        found = [_distances(network, frames, self.truth(row)) for row, frames in enumerate(self.morph.frames)]
        return FrameDistances(
            steps=torch.stack([one.steps for one in found]), truth=torch.stack([one.truth for one in found])
        )


def _distances(
    network: PerceptualNetwork, frames: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"] | None
) -> FrameDistances:
    """Of one sequence: what a network finds in a pair must not depend, by rounding, on the pairs beside it.

    A few frames at a time: the features of a whole sequence would not fit at 512 pixels.
    """
    steps, errors, last = [], [], None
    for start in range(0, len(frames), _FRAMES):
        part = slice(start, start + _FRAMES)
        here = network.embed(frames[part])
        joined = here if last is None else [torch.cat(layers) for layers in zip(last, here, strict=True)]
        steps.append(network.compare([layer[:-1] for layer in joined], [layer[1:] for layer in joined]))
        if truth is not None:
            errors.append(network.compare(here, network.embed(truth[part].to(frames))))
        last = [layer[-1:] for layer in here]
    return FrameDistances(
        steps=torch.cat(steps), truth=torch.cat(errors) if errors else torch.full((len(frames),), torch.nan)
    )


def _across(
    network: PerceptualNetwork, frames: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "n n"]:
    """Every frame against every true one, a few of either at a time."""
    columns = []
    for true in torch.split(truth.to(frames), _FRAMES):
        theirs, rows = network.embed(true), []
        for some in torch.split(frames, _FRAMES):
            ours, count = network.embed(some), len(some)
            left = [layer.repeat_interleave(len(true), dim=0) for layer in ours]
            right = [layer.repeat(count, 1, 1, 1) for layer in theirs]
            rows.append(network.compare(left, right).view(count, len(true)))
        columns.append(torch.cat(rows))
    return torch.cat(columns, dim=1)


def in_eight_bits(frames: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 3 h w"]:
    """Frames as their picture files hold them, 256 levels a channel: what is measured is what is kept. NaN stays."""
    return frames.clamp(0, 1).mul(255).round() / 255
