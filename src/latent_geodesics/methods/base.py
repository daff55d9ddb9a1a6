"""The seam of every method: encoded pairs in, sequences of images out, with what they cost."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.manifold import Manifold
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.records import BoundaryProblem, Solution

__all__ = ["Method", "Morph", "PathMethod"]


@dataclass(frozen=True, kw_only=True)
class Morph:
    """What a method made of a batch of pairs.

    Attributes:
        frames: The sequences, images in [0, 1].
        statuses: One per pair, for the person who reads the table.
        evaluations: Points at which the score was evaluated to find the sequence, per pair.
        seconds: Time to find the sequence and to decode it, per pair (the batch's time over its size).
        solution: The path in the latent space, for the methods that have one.
        manifold: What that path lies on.
    """

    frames: Float[Tensor, "p n 3 h w"]
    statuses: tuple[str, ...]
    evaluations: Float[Tensor, " p"]
    seconds: float
    solution: Solution | None = None
    manifold: Manifold | None = None


class Method(ABC):
    """Turns pairs of images into sequences of images."""

    @abstractmethod
    def morph(self, pairs: EncodedPairs, u: Float[Tensor, " n"]) -> Morph:
        """The sequences at the positions u in [0, 1], both ends included."""


class PathMethod(Method):
    """A method that draws a path in the latent space and decodes it: a subclass says which path."""

    @abstractmethod
    def solve(self, problem: BoundaryProblem) -> Solution:
        """The path between the two ends of each pair."""

    def manifold(self, problem: BoundaryProblem) -> Manifold:
        """What the path lies on: the problem's own manifold unless the method leaves it."""
        return problem.manifold

    def statuses(self, solution: Solution) -> tuple[str, ...]:
        """How each pair ended, as the table says it."""
        return tuple(status.value for status in solution.status)

    def morph(self, pairs: EncodedPairs, u: Float[Tensor, " n"]) -> Morph:
        """Solves and decodes."""
        started = time.perf_counter()
        solution = self.solve(pairs.problem)
        frames = pairs.decode(solution.path, u)
        return Morph(
            frames=frames,
            statuses=self.statuses(solution),
            evaluations=solution.stats["evaluations"],
            seconds=(time.perf_counter() - started) / len(pairs.batch),
            solution=solution,
            manifold=self.manifold(pairs.problem),
        )
