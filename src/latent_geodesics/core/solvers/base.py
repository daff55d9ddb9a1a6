"""What every solver of a boundary problem is."""

from abc import ABC, abstractmethod

from latent_geodesics.core.records import BoundaryProblem, Solution


class BoundarySolver(ABC):
    """Finds the geodesic between two given ends, for a batch of pairs."""

    @abstractmethod
    def solve(self, problem: BoundaryProblem) -> Solution:
        """Solve all pairs of `problem` together.

        Not to converge is a `Status` of the pair, never an exception. No input is changed.
        """
