r"""How well scores are resolved: no equation can be solved for less than the rounding of what it is made of.

A score that is computed in float16 or bfloat16 is wrong by a share of itself, whatever the point. A solver that asks
for a residual below that share goes round in the rounding; one that knows the share stops there and says so.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

MARGIN = 2.0
"""What a residual may be above the rounding of the scores: two of them, of two iterates, and what mixing adds."""

_LEAST_VALUES = 8


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """The rounding of a field's scores.

    Attributes:
        error: the relative error `|s~ - s| / |s|` of a score as it is computed, a mean over points.
        precision: what makes it, for a person: `float16`, say.
    """

    error: float
    precision: str

    def floor(self, size: Float[Tensor, " a"], strength: Float[Tensor, " a"]) -> Float[Tensor, " a"]:
        """The relative residual of a path that the rounding of its scores leaves.

        Args:
            size: the mean of `|s|` along each path.
            strength: the mean of its tangential part, which residuals are a share of.
        """
        return MARGIN * self.error * size / strength.clamp(min=torch.finfo(strength.dtype).tiny)


def rounded_resolution(scores: Float[Tensor, "*b d"]) -> Resolution | None:
    """What scores that are all numbers of float16 or bfloat16 give away of the arithmetic that they come from.

    None where they are not, or where they are too few different numbers to tell. The error is the largest that
    rounding to nearest makes, half the spacing of the format at one.
    """
    if scores.dtype in (torch.float16, torch.bfloat16) or len(torch.unique(scores)) < _LEAST_VALUES:
        return None
    for precision in (torch.bfloat16, torch.float16):
        if bool((scores.to(precision).to(scores.dtype) == scores).all()):
            name = str(precision).removeprefix("torch.")
            return Resolution(error=torch.finfo(precision).eps / 2, precision=name)
    return None
