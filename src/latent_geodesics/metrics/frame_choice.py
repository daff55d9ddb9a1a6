"""Which frames of a sequence are compared with real images: sources differ in it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latent_geodesics.core.errors import UserError


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

    def choose(self, frames: int, *, seed: int, pair: int) -> Sequence[Sequence[int]]:
        """All of them."""
        return [list(range(frames))]


@dataclass(frozen=True)
class InnerFrames(FrameChoice):
    """The frames between the two ends."""

    words = "inner frames"

    def choose(self, frames: int, *, seed: int, pair: int) -> Sequence[Sequence[int]]:
        """All but the first and the last."""
        return [list(range(1, frames - 1))]


@dataclass(frozen=True, kw_only=True)
class RandomFrames(FrameChoice):
    """Some frames of each sequence at random, drawn anew several times.

    Args:
        count: How many of each sequence.
        draws: How many times.
    """

    count: int = 2
    draws: int = 10

    def __post_init__(self) -> None:
        if self.count < 1 or self.draws < 1:
            raise UserError(f"count and draws must be at least 1, got {self.count} and {self.draws}.")

    @property
    def words(self) -> str:  # type: ignore[override]
        """The choice, for a table's note."""
        return f"{self.count} random frames a sequence, mean of {self.draws} draws"

    def choose(self, frames: int, *, seed: int, pair: int) -> Sequence[Sequence[int]]:
        """Without replacement."""
        generator = np.random.default_rng([seed, pair])
        few = min(self.count, frames)
        return [sorted(generator.choice(frames, few, replace=False).tolist()) for _ in range(self.draws)]
