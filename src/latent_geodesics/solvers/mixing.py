r"""Steps of an accelerated fixed point, from the memory of its last iterates.

A fixed point `x <- x + r(x)` with `r` the preconditioned residual is accelerated per pair in two ways.

Anderson mixing (type II): with the differences `dX`, `dR` of iterates and residuals to the current ones, take the
combination that makes the linearised residual least, `c = argmin |r - dR c|`, and step by `-dX c + (r - dR c)`. It is
fast, and as willing to find a saddle of the length as a minimum.

Saddle-free step: the same differences give the second variation of the length on their span,
`H = dX^T W dF`, with `F` the defect before preconditioning and `W = p^-alpha` the weight of the gradient. Along a
direction of negative curvature the step is reversed, so that it descends. It replaces the Anderson step where there
is one.

References:
    Anderson, Iterative procedures for nonlinear integral equations (1965); Walker and Ni, Anderson acceleration for
    fixed-point iterations (2011); Dauphin et al., Identifying and attacking the saddle point problem in
    high-dimensional non-convex optimization (2014), arXiv 1406.2572.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Memory"]

NEGATIVE_CURVATURE = -0.05
LEAST_CURVATURE = 0.3


@dataclass(frozen=True)
class Memory:
    """The last iterates, newest last, with the two parts of their steps: `R = bend + alpha * force`.

    Attributes:
        knots: iterates.
        bend: the preconditioned bend of each.
        force: the preconditioned force of each.
    """

    knots: Float[Tensor, "m a n d"]
    bend: Float[Tensor, "m a n d"]
    force: Float[Tensor, "m a n d"]

    @staticmethod
    def empty(like: Float[Tensor, "a n d"]) -> "Memory":
        """No iterates yet."""
        nothing = like.new_zeros(0, *like.shape)
        return Memory(knots=nothing, bend=nothing, force=nothing)

    def remember(
        self,
        *,
        size: int,
        knots: Float[Tensor, "a n d"],
        bend: Float[Tensor, "a n d"],
        force: Float[Tensor, "a n d"],
        valid: Bool[Tensor, " a"],
    ) -> "Memory":
        """Add an iterate to the last `size`; where it is not valid, repeat the newest, which adds nothing."""

        def append(past: Tensor, new: Tensor) -> Tensor:
            last = past[-1] if len(past) else torch.zeros_like(new)
            new = torch.where(valid[:, None, None], new, last)
            return torch.cat([past[-size:] if size else past[:0], new[None]])

        return Memory(knots=append(self.knots, knots), bend=append(self.bend, bend), force=append(self.force, force))

    def forget(self, pairs: Bool[Tensor, " a"]) -> "Memory":
        """Of the pairs in the mask keep the newest iterate only: the others become copies of it, which add nothing."""

        def overwrite(past: Tensor) -> Tensor:
            return torch.where(pairs[None, :, None, None], past[-1:], past)

        return Memory(knots=overwrite(self.knots), bend=overwrite(self.bend), force=overwrite(self.force))

    def restrict(self, pairs: Int[Tensor, " m"]) -> "Memory":
        """The memory of the pairs `pairs` alone."""
        return Memory(knots=self.knots[:, pairs], bend=self.bend[:, pairs], force=self.force[:, pairs])

    def residuals(self, alpha: Float[Tensor, " a"]) -> Float[Tensor, "m a n d"]:
        """The preconditioned residual of every iterate for the given alpha."""
        return self.bend + alpha[:, None, None] * self.force

    def anderson_step(self, alpha: Float[Tensor, " a"]) -> Float[Tensor, "a n d"]:
        """The mixed step from the newest iterate."""
        residuals = self.residuals(alpha)
        newest = residuals[-1]
        if len(residuals) == 1:
            return newest
        dx, dr = self.knots[-1] - self.knots[:-1], newest - residuals[:-1]
        gram, target = _inner(dr, dr), _inner(dr, newest[None])
        values, vectors = _whiten(gram, _cutoff(newest.dtype))
        whitened = vectors.mT @ target
        c = (vectors @ (whitened * (values > 0)[..., None]))[..., 0].to(newest)
        return newest - torch.einsum("am,mand->and", c, dx + dr)

    def saddle_free_step(
        self,
        alpha: Float[Tensor, " a"],
        defects: Float[Tensor, "m a n d"],
        weight: Float[Tensor, "a k"],
    ) -> tuple[Float[Tensor, "a n d"], Bool[Tensor, " a"]]:
        """The step that descends along negative curvature too, and whether there is any on the span of the memory.

        Args:
            alpha: the power on the density.
            defects: `bend + alpha * force` before preconditioning, at every iterate.
            weight: `p~^-alpha` at all knots, ends included.
        """
        newest = self.residuals(alpha)[-1]
        if len(defects) == 1:
            return newest, torch.zeros(len(alpha), dtype=torch.bool, device=alpha.device)
        inner = weight[:, 1:-1, None]
        dx, df = self.knots[-1] - self.knots[:-1], defects[:-1] - defects[-1]
        steps, own = _differences(dx), _differences(newest[None])
        cells = (weight[:, 1:] * weight[:, :-1]).sqrt()[..., None] * (weight.shape[-1] - 1)
        values, basis = _whiten(_inner(steps, cells * steps), 1e-6)
        curvature = basis.mT @ _inner(dx, inner * df) @ basis
        curvature, rotation = torch.linalg.eigh((curvature + curvature.mT) / 2)
        basis = basis @ rotation
        slope = basis.mT @ _inner(dx, inner * defects[-1:])
        shadow = basis.mT @ _inner(steps, cells * own)
        along = slope / curvature.abs().clamp(min=LEAST_CURVATURE)[..., None] - shadow
        step = newest + torch.einsum("am,mand->and", (basis @ along)[..., 0].to(newest), dx)
        del values
        return step, curvature[:, 0] < NEGATIVE_CURVATURE


def _inner(a: Float[Tensor, "m a n d"], b: Float[Tensor, "k a n d"]) -> Float[Tensor, "a m k"]:
    """Inner products of all pairs of entries, summed in float64."""
    rows, columns = a.movedim(1, 0).flatten(2).double(), b.movedim(1, 0).flatten(2).double()
    return rows @ columns.mT


def _whiten(gram: Float[Tensor, "a m m"], cutoff: float) -> tuple[Float[Tensor, "a m"], Float[Tensor, "a m m"]]:
    """The eigenvalues, zero where negligible, and the `T` whose `T^T gram T` is one on the rest and zero else."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    values, vectors = torch.linalg.eigh(gram * scale[..., None] * scale[..., None, :])
    values = torch.where(values > cutoff * values[..., -1:], values, 0.0)
    inverse_root = torch.where(values > 0, values, 1.0).rsqrt() * (values > 0)
    return values, scale[..., None] * vectors * inverse_root[..., None, :]


def _differences(knots: Float[Tensor, "m a n d"]) -> Float[Tensor, "m a k d"]:
    """From each knot to the next, both ends, which stay, included."""
    return torch.nn.functional.pad(knots, (0, 0, 1, 1)).diff(dim=2)


def _cutoff(dtype: torch.dtype) -> float:
    return 10 * torch.finfo(dtype).eps
