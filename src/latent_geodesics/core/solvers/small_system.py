r"""The equation of a step across a path on a few directions of space: small matrices, in float64, on the CPU.

Twice the same operator `-(w d')' / w + C` is made: by splines, exact to a high order, for the step; and by differences
between neighbours, which are symmetric once scaled by the root of the weight, for its least eigenvalue. Displacements
along the path are ruled out by making them stiff.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eig_banded
from torch import Tensor

__all__ = ["SmallSystem"]

LARGEST_EXPONENT = 30.0


@dataclass(frozen=True, kw_only=True)
class SmallSystem:
    """The equation of each pair.

    Attributes:
        first: from values at all knots to slopes there.
        second: from values at all knots to second derivatives there.
        stretch: the logarithm of the weight `w` at all knots.
        content: `C` at the interior knots.
        direction: that of the path, of unit size or less; zero where displacements along it count as others do.
        defect: what the step has to remove.
        turned: what the curvature of the manifold takes from the operator.
    """

    first: Float[Tensor, "k k"]
    second: Float[Tensor, "k k"]
    stretch: Float[Tensor, "a k"]
    content: Float[Tensor, "a n q q"]
    direction: Float[Tensor, "a n q"]
    defect: Float[Tensor, "a n q"]
    turned: Float[Tensor, " a"]

    def least(self) -> tuple[Float[Tensor, " a"], Float[Tensor, "a n q"]]:
        """The least eigenvalue and its displacement, of unit size."""
        inner, square = self.stretch[:, 1:-1], (len(self.first) - 1) ** 2
        after, before = (
            ((other - inner) / 2).clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()
            for other in (self.stretch[:, 2:], self.stretch[:, :-2])
        )
        across, own = self._across_and_own()
        size = own.shape[-1]
        own = own + (square * (after + before) - self.turned[:, None])[..., None, None] * across
        beside = -square * across[:, 1:] @ across[:, :-1]
        level = ((inner.amin(-1, keepdim=True) - inner) / 2).clamp(min=-LARGEST_EXPONENT).exp()
        values, modes = [], []
        for row in range(len(own)):
            value, vector = eig_banded(
                _banded(own[row].numpy(), beside[row].numpy()), lower=True, select="i", select_range=(0, 0)
            )
            values.append(float(value[0]))
            modes.append(torch.from_numpy(vector[:, 0]).reshape(-1, size))
        mode = torch.stack(modes) * level[..., None]
        return torch.tensor(values, dtype=torch.float64), mode / mode.square().sum((1, 2), keepdim=True).sqrt()

    def solve(self, shift: Float[Tensor, " a"]) -> Float[Tensor, "a n q"]:
        """The displacement that removes the defect, with a shift added to the operator; zero where there is none."""
        drift = (self.stretch @ self.first.T)[:, 1:-1, None]
        whole = self._blocks(-(self.second[1:-1, 1:-1] + drift * self.first[1:-1, 1:-1]))
        whole = whole + shift[:, None, None] * torch.eye(whole.shape[-1]).to(whole)
        found = torch.zeros_like(self.defect)
        # One after another, by numpy: torch's batched one fails in MKL where several threads share many matrices.
        for row, (matrix, defect) in enumerate(zip(whole.numpy(), self.defect.flatten(1).numpy(), strict=True)):
            try:
                found[row] = torch.from_numpy(np.linalg.solve(matrix, defect)).reshape(found.shape[1:])
            except np.linalg.LinAlgError:
                continue
        return found

    def _across_and_own(self) -> tuple[Float[Tensor, "a n q q"], Float[Tensor, "a n q q"]]:
        """What projects across the path at each knot, and `C` there, with what is along the path made stiff."""
        along = self.direction[..., :, None] * self.direction[..., None, :]
        across = torch.eye(along.shape[-1]).to(along) - along
        stiff = (math.pi * along.shape[1]) ** 2 * along
        return across, across @ ((self.content + self.content.mT) / 2) @ across + stiff

    def _blocks(self, operator: Float[Tensor, "a n n"]) -> Float[Tensor, "a m m"]:
        """The matrix over all knots and directions."""
        pairs, count, size = self.direction.shape
        across, own = self._across_and_own()
        operator = operator - self.turned[:, None, None] * torch.eye(count).to(own)
        whole = torch.einsum("aij,aikm,ajml->aikjl", operator, across, across)
        index = torch.arange(count)
        whole[:, index, :, index, :] += own.movedim(1, 0)
        return whole.reshape(pairs, count * size, count * size)


def _banded(own: "np.ndarray[Any, Any]", beside: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """A symmetric matrix of blocks on its diagonal and below it, as scipy keeps its lower bands."""
    count, size = own.shape[:2]
    bands = np.zeros((2 * size, count * size))
    for i in range(size):
        for j in range(size):
            if i >= j:
                bands[i - j, j::size] = own[:, i, j]
            bands[size + i - j, j : (count - 1) * size : size] = beside[:, i, j]
    return bands
