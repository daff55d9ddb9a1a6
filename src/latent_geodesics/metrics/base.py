"""The seam of every metric of a sequence: what is known of it in, named numbers per pair out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.methods import EncodedPairs, Morph
from latent_geodesics.metrics.curves import PathCurves

__all__ = ["MeasuredMorph", "SequenceMetric"]


@dataclass(frozen=True, kw_only=True)
class MeasuredMorph:
    """A method's sequences with what metrics may need of them.

    Attributes:
        pairs: The pairs, their true frames among them.
        morph: What the method made.
        u: The positions of its frames in [0, 1].
        curves: Density, speed and residual along its path, for the methods that have a path.
    """

    pairs: EncodedPairs
    morph: Morph
    u: Float[Tensor, " n"]
    curves: PathCurves | None


class SequenceMetric(ABC):
    """Measures sequences of images; each number is per pair, and its name says what it is made of."""

    @abstractmethod
    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """Column name -> value of each pair; NaN where the pair cannot be measured (no true frames, say)."""

    @property
    def weights(self) -> Mapping[str, str]:
        """Name -> hash of the networks that the metric uses."""
        return {}
