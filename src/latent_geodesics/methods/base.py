"""The seam of every method: encoded pairs in, sequences of images out, with what they cost and how they came to be.

The cost is measured alike for every method:

- seconds of wall-clock time, solving and decoding apart: *solving* is all that comes before the frames are drawn (the
  path, a method's own training and encoding, the trial drawings of a timing), *decoding* is drawing them;
- U-Net calls: how many latents went through the U-Net, forwards, for whatever purpose; a guided step counts twice, a
  training step once for each row of its batch. `Denoiser.evaluations` is the one counter;
- peak memory in MB (10^6 bytes): on a GPU the most that tensors held at once, elsewhere the process's largest resident
  set. NaN where the system does not tell.

The encoding that all methods share is not in it, what a method encodes for itself is.

Tables say how a sequence came to be: by a solver's `Status`, or by one of the words below. A pair on which a method
fails costs no other pair its sequence (`attempt`).
"""

import logging
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.manifold import Euclidean, Manifold
from latent_geodesics.core.records import BoundaryProblem, Solution, Status
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.methods.timing import Draw, Timing
from latent_geodesics.models.accelerator import DECODING, SOLVING, Stopwatch, peak_memory_mb, reset_peak
from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.models.store import content_key

SAMPLED = "sampled"
TRAINED = "trained"
FAILED = "failed"
UNINVERTED = "inversion_failed"
LOST = (FAILED, UNINVERTED, Status.NON_FINITE_SCORE.value)
"""Of sequences that are none."""
GIVEN = "given"
UNSOLVED = (SAMPLED, TRAINED, GIVEN, Status.CLOSED_FORM.value)
"""Of sequences for which nothing was solved."""

_SENTENCES = {
    SAMPLED: "The frames were sampled by the network, steered on the way; there is no path to measure.",
    TRAINED: "The network was trained on the two images, then the frames were sampled; there is no path to measure.",
    GIVEN: "The frames were given, and measured as they are; how they were made is not known here.",
    FAILED: "The method raised an error on this pair, which results.csv has in its column failure; the other pairs "
    "went on.",
    UNINVERTED: "The noisy latents of the two images were not found, in a step that results.csv has in its column "
    "failure, and nothing was made of them: raise model.refinements or model.steps, or lower tau or guidance.",
}

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"

log = logging.getLogger(__name__)


def status_sentence(status: str) -> str:
    """What a status of a table means and what to do, for a person."""
    return _SENTENCES.get(status) or Status(status).sentence


@dataclass(frozen=True, kw_only=True)
class Morph:
    """What a method made of a batch of pairs.

    Attributes:
        frames: The sequences, images in [0, 1].
        statuses: One per pair, for the person who reads the table.
        evaluations: Points at which the score was evaluated to find the sequence, per pair; 0 for a method that asks
            for no score.
        seconds: Time to find the sequence and to decode it, per pair (the batch's time over its size).
        seconds_solving: The part of it before the frames were drawn; see `latent_geodesics.methods.base`. NaN if the
            method does not tell.
        solution: The path in the latent space, for the methods that have one.
        manifold: What that path lies on.
        posed: The problem that the path belongs to, where it is another than the run's.
        unet_calls: Latents sent through the U-Net to find the sequence and to decode it, per pair; NaN if not counted.
        peak_memory_mb: The most memory that was held meanwhile; see `latent_geodesics.methods.base`.
    """

    frames: Float[Tensor, "p n 3 h w"]
    statuses: tuple[str, ...]
    evaluations: Float[Tensor, " p"]
    seconds: float
    solution: Solution | None = None
    manifold: Manifold | None = None
    posed: EncodedPairs | None = None
    unet_calls: float = float("nan")
    peak_memory_mb: float = float("nan")
    seconds_solving: float = float("nan")

    @property
    def seconds_decoding(self) -> float:
        """The rest of the time: drawing the frames."""
        return self.seconds - self.seconds_solving


class Method(ABC):
    """Turns pairs of images into sequences of images."""

    @abstractmethod
    def morph(self, pairs: EncodedPairs, u: Float[Tensor, " n"]) -> Morph:
        """The sequences at the positions u in [0, 1], both ends included."""


class TimedMethod(Method):
    """A method that can draw its sequence at any positions, so that a `Timing` may choose them."""

    def morph(self, pairs: EncodedPairs, u: Float[Tensor, " n"]) -> Morph:
        """The sequences at the positions u."""
        return self.timed_morph(pairs, u, None)

    @abstractmethod
    def timed_morph(self, pairs: EncodedPairs, u: Float[Tensor, " n"], timing: Timing | None) -> Morph:
        """The sequences at the positions that a timing chooses for u, pair by pair; None keeps u."""


class Meter:
    """Starts measuring when it is made, with solving.

    Args:
        model: The model that the method uses.
    """

    def __init__(self, model: LatentModel) -> None:
        self._model = model
        self._calls = model.network_evaluations
        self._resettable = self._reset_peak()
        self._watch = Stopwatch(model.device)

    def solved(self) -> None:
        """What went before was solving."""
        self._watch.lap(SOLVING)

    def decoded(self) -> None:
        """What went before was decoding."""
        self._watch.lap(DECODING)

    def cost(self, pairs: int) -> dict[str, Any]:
        """What was spent since, spread evenly over so many pairs, as a `Morph` has it; it ends with decoding."""
        self.decoded()
        return {
            "seconds": sum(self._watch.seconds.values()) / pairs,
            "seconds_solving": self._watch.seconds.get(SOLVING, 0.0) / pairs,
            "unet_calls": (self._model.network_evaluations - self._calls) / pairs,
            "peak_memory_mb": self._peak() if self._resettable else float("nan"),
        }

    def _reset_peak(self) -> bool:
        if self._model.device.type != "cpu":
            return reset_peak(self._model.device)
        try:
            _CLEAR.write_text(_RESET_PEAK)
        except OSError:
            return False
        return True

    def _peak(self) -> float:
        if self._model.device.type != "cpu":
            return peak_memory_mb(self._model.device)
        lines = [line.split() for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
        return float(lines[0][1]) * 1024 / 1e6 if lines else float("nan")


class CurveMethod(TimedMethod):
    """A method that draws a path in the latent space and decodes it: a subclass says which path.

    Attributes:
        flat: Whether the path leaves the sphere for the flat space around it.
    """

    flat: bool = False

    @abstractmethod
    def solution(self, pairs: EncodedPairs) -> Solution:
        """The path between the two ends of each pair."""

    def manifold(self, problem: BoundaryProblem) -> Manifold:
        """What the path lies on: the problem's own manifold, or the flat space around it."""
        return Euclidean() if self.flat else problem.manifold

    def timed_morph(self, pairs: EncodedPairs, u: Float[Tensor, " n"], timing: Timing | None) -> Morph:
        """Solves and decodes."""
        meter = Meter(pairs.model)
        solution = self.solution(pairs)
        meter.solved()
        if timing is None:
            frames = pairs.decode(solution.path, u)
        else:
            rows = range(len(pairs.batch))
            frames = torch.stack([_timed(pairs, solution, row, u, timing, meter) for row in rows])
        cost = meter.cost(len(pairs.batch))
        return Morph(
            frames=frames,
            statuses=solution.status_names,
            evaluations=solution.stats["evaluations"],
            solution=solution,
            manifold=self.manifold(pairs.problem),
            **cost,
        )


class PathMethod(CurveMethod):
    """A method whose path needs to know of the boundary value problem alone."""

    @abstractmethod
    def solve(self, problem: BoundaryProblem) -> Solution:
        """The path between the two ends of each pair."""

    def solution(self, pairs: EncodedPairs) -> Solution:
        """The path of the pairs' problem."""
        return self.solve(pairs.problem)


class PairMethod(TimedMethod):
    """A method that works on one pair at a time: it may train on the pair, and steer the network as it samples.

    Whatever it changes in the model it changes back before the context of its `sequence` ends.

    Attributes:
        status: What the table says of a pair.
    """

    status: ClassVar[str] = SAMPLED

    @abstractmethod
    def sequence(self, pair: EncodedPairs) -> AbstractContextManager[Draw]:
        """What draws the frames of a single pair, once all that comes before drawing is done."""

    def timed_morph(self, pairs: EncodedPairs, u: Float[Tensor, " n"], timing: Timing | None) -> Morph:
        """Draws pair after pair."""
        meter, count = Meter(pairs.model), len(pairs.batch)
        frames = []
        for row in tqdm(range(count), desc=type(self).__name__, unit="pair", disable=None, leave=False):
            with self.sequence(pairs.restrict([row])) as draw:
                positions = u if timing is None else timing.positions(draw, u)
                meter.solved()
                frames.append(draw(positions))
                meter.decoded()
        return Morph(
            frames=torch.stack(frames),
            statuses=(self.status,) * count,
            evaluations=torch.zeros(count),
            **meter.cost(count),
        )


def pair_seed(pair: EncodedPairs, seed: int) -> int:
    """The seed of a single pair's random numbers: of the run's seed and of its images, whatever the batch."""
    return int(content_key(pair.batch.images_a, pair.batch.images_b, seed)[:15], 16)


def _timed(
    pairs: EncodedPairs, solution: Solution, row: int, u: Float[Tensor, " n"], timing: Timing, meter: Meter
) -> Float[Tensor, "n 3 h w"]:
    pair, path = pairs.restrict([row]), solution.path.restrict(torch.tensor([row]))

    def draw(positions: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
        return pair.decode(path, positions)[0]

    positions = timing.positions(draw, u)
    meter.solved()
    frames = draw(positions)
    meter.decoded()
    return frames


class Retimed(Method):
    """Creates a method that draws another one's sequence at positions chosen by a timing.

    What comes before drawing (a path, a training) is done once; the trial sequences count in the cost.

    Args:
        method: The method; it must be able to draw its sequence at any positions.
        timing: What chooses them.
    """

    def __init__(self, *, method: Method, timing: Timing) -> None:
        if not isinstance(method, TimedMethod):
            raise UserError(
                f"{type(method).__name__} cannot be drawn at positions of one's choice: re-time one of the methods "
                "that derive from TimedMethod."
            )
        self.method, self.timing = method, timing

    def morph(self, pairs: EncodedPairs, u: Float[Tensor, " n"]) -> Morph:
        """The method's sequences at the positions that the timing chooses."""
        return self.method.timed_morph(pairs, u, self.timing)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What came of a method on some pairs: sequences, or frames that are all NaN and what was raised, in words."""

    pairs: EncodedPairs
    morph: Morph
    failure: str | None = None


def attempt(name: str, method: Method, pairs: EncodedPairs, u: Float[Tensor, " n"]) -> list[Attempt]:
    """Runs a method on a batch, and where that fails on each of its pairs alone.

    Args:
        name: The method's name, for the log.
        method: The method.
        pairs: The batch.
        u: The positions of the frames.

    Returns:
        Attempts that hold every pair once, in the batch's order.
    """
    alone = len(pairs.batch) == 1
    fault = pairs.fault(0) if alone and pairs.lost else None
    if fault is not None:
        return [Attempt(pairs=pairs, morph=_nothing(pairs, u, UNINVERTED), failure=fault.sentence)]
    if not pairs.lost:
        try:
            return [Attempt(pairs=pairs, morph=_whole(method.morph(pairs, u)))]
        except Exception as error:  # whatever a method raises is that method's, and the run goes on
            if alone:
                log.debug("%s on %s", name, pairs.batch.ids[0], exc_info=error)
                failure = failed(name, pairs.batch.ids[0], error)
                return [Attempt(pairs=pairs, morph=_nothing(pairs, u, FAILED), failure=failure)]
    return [part for row in range(len(pairs.batch)) for part in attempt(name, method, pairs.restrict([row]), u)]


def failed(name: str, item: str, error: Exception) -> str:
    """What a method raised on an item of a run, in words; the log is told."""
    failure = " ".join(f"{type(error).__name__}: {error}".split())
    log.warning("%s failed on %s; the run goes on. %s", name, item, failure)
    return failure


def _whole(morph: Morph) -> Morph:
    """What a method made, of which every frame is a picture, unless its status says already that none is.

    Raises:
        UserError: where one is not.
    """
    for status, frames in zip(morph.statuses, morph.frames, strict=True):
        holes = int((~torch.isfinite(frames).flatten(1).all(-1)).sum())
        if holes and status != Status.NON_FINITE_SCORE.value:
            raise UserError(
                f"{holes} of {len(frames)} frames came out of the network and the autoencoder with pixels that are not "
                "finite numbers; lower tau or guidance, or choose model.dtype=float32"
            )
    return morph


def _nothing(pairs: EncodedPairs, u: Float[Tensor, " n"], status: str) -> Morph:
    """No sequences: NaN in every pixel."""
    images = pairs.batch.images_a
    return Morph(
        frames=torch.full((len(images), len(u), *images.shape[1:]), torch.nan),
        statuses=(status,) * len(images),
        evaluations=torch.zeros(len(images)),
        seconds=float("nan"),
    )
