"""Any method, with its frames at equal perceptual steps instead of equal steps of the path."""

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.methods.base import Method, Morph, TimedMethod
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.methods.timing import Timing

__all__ = ["Retimed"]


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
