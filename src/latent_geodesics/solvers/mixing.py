r"""Steps of an accelerated fixed point, from the memory of its last iterates.

A fixed point `x <- x + r(x)` with `r` the preconditioned residual is accelerated per pair in two ways.

Anderson mixing (type II): with the differences `dX`, `dR` of iterates and residuals to the current ones, take the
combination that makes the linearised residual least, `c = argmin |r - dR c|`, and step by `-dX c + b (r - dR c)`. It is
fast, and as willing to find a saddle of the length as a minimum. The damping `b` is one until a pair stops improving:
where the density bends the path more than the preconditioner knows, a whole step along what the memory cannot explain
overshoots.

Saddle-free step: the same differences give the second variation of the length on their span,
`H = dX^T W dF`, with `F` the defect before preconditioning and `W = p^-alpha` the weight of the gradient. Along a
direction of negative curvature the step is reversed, so that it descends. It replaces the Anderson step where such a
direction stands out from the error of the differences.

References:
    Anderson, Iterative procedures for nonlinear integral equations (1965); Walker and Ni, Anderson acceleration for
    fixed-point iterations (2011); Dauphin et al., Identifying and attacking the saddle point problem in
    high-dimensional non-convex optimization (2014), arXiv 1406.2572.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.geometry import normal_to

__all__ = ["Memory"]

NEGATIVE_CURVATURE = -0.05
LEAST_CURVATURE = 0.3
DOUBT = 0.15


@dataclass(frozen=True)
class Memory:
    """The last iterates of each pair, newest last, with what the score said of them.

    Attributes:
        knots: iterates.
        bend: the tangential acceleration at each.
        force: `|g'|^2 P_v s` at each, so that `bend + alpha * force` is the defect of the geodesic equation.
        pull: the tangential score at each.
        score: the score at each.
        counts: which of them a pair has; the others stand in for none and say nothing.
    """

    knots: Float[Tensor, "m a n d"]
    bend: Float[Tensor, "m a n d"]
    force: Float[Tensor, "m a n d"]
    pull: Float[Tensor, "m a n d"]
    score: Float[Tensor, "m a n d"]
    counts: Bool[Tensor, "m a"]

    @staticmethod
    def empty(like: Float[Tensor, "a n d"]) -> "Memory":
        """No iterates yet."""
        nothing = like.new_zeros(0, *like.shape)
        none = torch.zeros(0, like.shape[0], dtype=torch.bool, device=like.device)
        return Memory(knots=nothing, bend=nothing, force=nothing, pull=nothing, score=nothing, counts=none)

    def remember(self, *, size: int, valid: Bool[Tensor, " a"], **parts: Float[Tensor, "a n d"]) -> "Memory":
        """Add an iterate to the last `size`; where it is not valid, the newest stands in for it and counts for nothing.

        Args:
            size: how many earlier iterates to keep.
            valid: the pairs for which the iterate counts.
            parts: the iterate and what the score said of it, under the names of the attributes.
        """

        def append(past: Tensor, new: Tensor) -> Tensor:
            last = past[-1] if len(past) else torch.zeros_like(new)
            new = torch.where(valid[:, None, None], new, last)
            return torch.cat([past[-size:] if size else past[:0], new[None]])

        counts = torch.cat([self.counts[-size:] if size else self.counts[:0], valid[None]])
        return Memory(**{name: append(getattr(self, name), part) for name, part in parts.items()}, counts=counts)

    def restrict(self, pairs: Int[Tensor, " m"]) -> "Memory":
        """The memory of the pairs `pairs` alone."""
        return self._map(lambda past: past[:, pairs])

    def stretch(self, size: int) -> "Memory":
        """The same memory with room for `size` iterates, the oldest of which count for nothing."""
        return self._map(lambda past: torch.cat([past.new_zeros(size - len(past), *past.shape[1:]), past]))

    @staticmethod
    def join(parts: Sequence["Memory"]) -> "Memory":
        """The memories of some pairs after those of others; all have room for equally many iterates."""
        return Memory(
            **{entry.name: torch.cat([getattr(part, entry.name) for part in parts], 1) for entry in fields(Memory)}
        )

    def defects(self, alpha: Float[Tensor, " a"]) -> Float[Tensor, "m a n d"]:
        """The defect of the geodesic equation at every iterate, for the given alpha."""
        return self.bend + alpha[:, None, None] * self.force

    def confinement(self, v: Float[Tensor, "a n d"]) -> Float[Tensor, " a"]:
        """How strongly the density confines each path: minus the second derivative of its logarithm, at least zero.

        The mean over the knots, and over the directions normal to `v` that each has moved in, from differences of the
        score.
        """
        dx, ds = (normal_to(v, self._differences(part)) for part in (self.knots, self.pull))
        moved = (dx * dx).sum((0, -1))
        return (-(dx * ds).sum((0, -1)) / torch.where(moved > 0, moved, 1.0)).clamp(min=0).mean(-1)

    def anderson_step(
        self, residuals: Float[Tensor, "m a n d"], damping: Float[Tensor, " a"]
    ) -> Float[Tensor, "a n d"]:
        """The mixed step from the newest iterate.

        Args:
            residuals: the preconditioned defect at every iterate.
            damping: the share of what the memory cannot explain that is stepped along, in (0, 1].
        """
        newest, share = residuals[-1], damping[:, None, None]
        if len(residuals) == 1:
            return share * newest
        dx, dr = self._differences(self.knots), self._differences(residuals)
        gram, target = _inner(dr, dr), _inner(dr, newest[None])
        whitening = _whiten(gram, 10 * torch.finfo(newest.dtype).eps)
        c = (whitening @ (whitening.mT @ target))[..., 0].to(newest)
        return share * newest - torch.einsum("am,mand->and", c, dx + share * dr)

    def saddle_free_step(
        self,
        defects: Float[Tensor, "m a n d"],
        newest: Float[Tensor, "a n d"],
        weight: Float[Tensor, "a k"],
    ) -> tuple[Float[Tensor, "a n d"], Bool[Tensor, " a"]]:
        """The step that descends along negative curvature too, and whether there is any on the span of the memory.

        Args:
            defects: the defect of the geodesic equation at every iterate.
            newest: the preconditioned defect at the newest.
            weight: `p~^-alpha` at all knots, ends included.
        """
        if len(defects) == 1:
            return newest, torch.zeros(newest.shape[0], dtype=torch.bool, device=newest.device)
        inner = weight[:, 1:-1, None]
        dx, df = self._differences(self.knots), -self._differences(defects)
        steps, own = _between_knots(dx), _between_knots(newest[None])
        cells = (weight[:, 1:] * weight[:, :-1]).sqrt()[..., None] * (weight.shape[-1] - 1)
        basis = _whiten(_inner(steps, cells * steps), 1e-6)
        curvature = basis.mT @ _inner(dx, inner * df) @ basis
        # The second variation is symmetric; what is not is the error of the differences.
        error = (curvature - curvature.mT).square().sum((1, 2)).sqrt() / 2
        curvature, rotation = torch.linalg.eigh((curvature + curvature.mT) / 2)
        basis = basis @ rotation
        slope = basis.mT @ _inner(dx, inner * defects[-1:])
        shadow = basis.mT @ _inner(steps, cells * own)
        along = slope / curvature.abs().clamp(min=LEAST_CURVATURE)[..., None] - shadow
        step = newest + torch.einsum("am,mand->and", (basis @ along)[..., 0].to(newest), dx)
        return step, curvature[:, 0] < NEGATIVE_CURVATURE - DOUBT * error

    def _differences(self, part: Float[Tensor, "m a n d"]) -> Float[Tensor, "k a n d"]:
        """From each iterate but the newest to the newest; zero for what stands in for none."""
        return (part[-1] - part[:-1]) * self.counts[:-1, :, None, None]

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Memory":
        return Memory(**{entry.name: change(getattr(self, entry.name)) for entry in fields(self)})


def _inner(a: Float[Tensor, "m a n d"], b: Float[Tensor, "k a n d"]) -> Float[Tensor, "a m k"]:
    """Inner products of all pairs of entries, summed in float64."""
    rows, columns = a.movedim(1, 0).flatten(2).double(), b.movedim(1, 0).flatten(2).double()
    return rows @ columns.mT


def _whiten(gram: Float[Tensor, "a m m"], cutoff: float) -> Float[Tensor, "a m m"]:
    """The `T` whose `T^T gram T` is one, but for zeros in place of eigenvalues that are negligible."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    values, vectors = torch.linalg.eigh(gram * scale[..., None] * scale[..., None, :])
    kept = (values > cutoff * values[..., -1:]) & (values > 0)
    inverse_root = torch.where(kept, values, 1.0).rsqrt() * kept
    whitening: Tensor = scale[..., None] * vectors * inverse_root[..., None, :]
    return whitening


def _between_knots(knots: Float[Tensor, "m a n d"]) -> Float[Tensor, "m a k d"]:
    """From each knot to the next, both ends, which stay, included."""
    return torch.nn.functional.pad(knots, (0, 0, 1, 1)).diff(dim=2)
