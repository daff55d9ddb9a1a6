"""What sources make of the perceptual steps of a sequence: how long it is, and how unevenly its change is spread.

Let d_1 .. d_m be the distances of consecutive frames.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class StepStatistic(ABC):
    """A number of a sequence, from its steps.

    Args:
        scale: What the number is multiplied by.
    """

    symbol: ClassVar[str]
    """The beginning of the column's name."""

    title: ClassVar[str]
    better: ClassVar[Literal["higher", "lower"]] = "lower"

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UserError(f"The scale of a metric must be positive, got {self.scale}.")

    def __call__(self, steps: Float[Tensor, "p m"]) -> Float[Tensor, " p"]:
        """The number of each sequence."""
        return self.scale * self._of(steps.double())

    @abstractmethod
    def _of(self, steps: Float[Tensor, "p m"]) -> Float[Tensor, " p"]:
        """Before it is scaled."""


class Total(StepStatistic):
    """sum_k d_k, the perceptual path length of a sequence."""

    symbol, title = "ppl", "PPL, sum"

    def _of(self, steps: Float[Tensor, "p m"]) -> Float[Tensor, " p"]:
        return steps.sum(-1)


class Average(StepStatistic):
    """The mean step."""

    symbol, title = "ppl_mean", "PPL, mean"

    def _of(self, steps: Float[Tensor, "p m"]) -> Float[Tensor, " p"]:
        return steps.mean(-1)


@dataclass(frozen=True, kw_only=True)
class Variance(StepStatistic):
    """The variance of the steps, over m - correction."""

    symbol: ClassVar[str] = "pdv"
    title: ClassVar[str] = "PDV, variance"

    correction: int = 0

    def _of(self, steps: Float[Tensor, "p m"]) -> Float[Tensor, " p"]:
        return steps.var(-1, correction=self.correction)


@dataclass(frozen=True, kw_only=True)
class StandardDeviation(StepStatistic):
    """The standard deviation of the steps, over m - correction."""

    symbol: ClassVar[str] = "pdv_std"
    title: ClassVar[str] = "PDV, standard deviation"

    correction: int = 0

    def _of(self, steps: Float[Tensor, "p m"]) -> Float[Tensor, " p"]:
        return steps.std(-1, correction=self.correction)


class Evenness(StepStatistic):
    """1 - G with Gini's coefficient G = sum_ij |d_i - d_j| / (2 m^2 mean d): 1 where all steps are equal."""

    symbol, title, better = "evenness", "evenness, 1 - Gini", "higher"

    def _of(self, steps: Float[Tensor, "p m"]) -> Float[Tensor, " p"]:
        differences = (steps[:, :, None] - steps[:, None, :]).abs().mean(dim=(1, 2))
        gini: Tensor = differences / (2 * steps.mean(-1))
        return torch.where(steps.mean(-1) > 0, 1 - gini, torch.nan)
