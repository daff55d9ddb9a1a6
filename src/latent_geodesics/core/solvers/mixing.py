r"""Steps of an accelerated fixed point, from the memory of its last iterates.

A fixed point `x <- x + r(x)` with `r` the preconditioned residual is accelerated per pair in two ways, both of which
step along `r` and along the differences `dX`, `dR` of earlier iterates and residuals to the newest ones. The memory
gives their inner products, from which `mixture` chooses the weights: so a solver reads a few numbers a pair from the
device, once an iteration, and no large tensor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.geometries import Geometry
from latent_geodesics.core.solvers.mixture import Mixture, Products
from latent_geodesics.core.vectors import normal_to

__all__ = ["Memory"]


@dataclass(frozen=True)
class Memory:
    """The last iterates of each pair, newest last, with what the score said of them.

    Attributes:
        knots: iterates.
        bend: the tangential acceleration at each.
        force: `|g'|^2 f` at each, so that `bend + weight * force` is the defect of the geodesic equation.
        gauge: what the weight depends on beside the strength of the geometry, at each knot.
        pull: the tangential score at each.
        score: the score at each.
        counts: which of them a pair has; the others stand in for none and say nothing.
    """

    knots: Float[Tensor, "m a n d"]
    bend: Float[Tensor, "m a n d"]
    force: Float[Tensor, "m a n d"]
    gauge: Float[Tensor, "m a n"]
    pull: Float[Tensor, "m a n d"]
    score: Float[Tensor, "m a n d"]
    counts: Bool[Tensor, "m a"]

    @staticmethod
    def empty(like: Float[Tensor, "a n d"]) -> "Memory":
        """No iterates yet."""
        nothing = like.new_zeros(0, *like.shape)
        none = torch.zeros(0, like.shape[0], dtype=torch.bool, device=like.device)
        return Memory(
            knots=nothing, bend=nothing, force=nothing, gauge=nothing[..., 0], pull=nothing, score=nothing, counts=none
        )

    def remember(self, *, size: int, valid: Bool[Tensor, " a"], **parts: Float[Tensor, "a n ..."]) -> "Memory":
        """Add an iterate to the last `size`; where it is not valid, the newest stands in for it and counts for nothing.

        Args:
            size: how many earlier iterates to keep.
            valid: the pairs for which the iterate counts.
            parts: the iterate and what the score said of it, under the names of the attributes.
        """

        def append(past: Tensor, new: Tensor) -> Tensor:
            last = past[-1] if len(past) else torch.zeros_like(new)
            new = torch.where(valid.reshape(-1, *[1] * (new.ndim - 1)), new, last)
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

    def defects(self, geometry: Geometry, strength: Float[Tensor, " a"]) -> Float[Tensor, "m a n d"]:
        """The defect of the geodesic equation at every iterate, for the given strength of the geometry."""
        return self.bend + geometry.weight(strength[:, None], self.gauge)[..., None] * self.force

    def confinement(self, v: Float[Tensor, "a n d"]) -> Float[Tensor, " a"]:
        """How strongly the density confines each path: minus the second derivative of its logarithm, at least zero.

        The mean over the knots, and over the directions normal to `v` that each has moved in, from differences of the
        score.
        """
        dx, ds = (normal_to(v, self._differences(part)) for part in (self.knots, self.pull))
        moved = (dx * dx).sum((0, -1))
        return (-(dx * ds).sum((0, -1)) / torch.where(moved > 0, moved, 1.0)).clamp(min=0).mean(-1)

    def products(
        self,
        residuals: Float[Tensor, "m a n d"],
        defects: Float[Tensor, "m a n d"],
        weight: Float[Tensor, "a k"],
    ) -> "Products":
        """The inner products that both kinds of step are chosen by; they stay on the device of the iterates.

        Args:
            residuals: the preconditioned defect at every iterate.
            defects: the defect of the geodesic equation at every iterate.
            weight: the factor on Euclidean lengths, `p~^-alpha` say, at all knots, ends included.
        """
        dx, dr, df = (self._differences(part) for part in (self.knots, residuals, -defects))
        inner = weight[:, 1:-1, None]
        steps, own = _between_knots(dx), _between_knots(residuals[-1:])
        cells = (weight[:, 1:] * weight[:, :-1]).sqrt()[..., None] * (weight.shape[-1] - 1)
        return Products(
            rises=_inner(dr, dr),
            target=_inner(dr, residuals[-1:]),
            metric=_inner(steps, cells * steps),
            curvature=_inner(dx, inner * df),
            slope=_inner(dx, inner * defects[-1:]),
            shadow=_inner(steps, cells * own),
        )

    def step(self, residuals: Float[Tensor, "m a n d"], mixture: "Mixture") -> Float[Tensor, "a n d"]:
        """The step from the newest iterate that a mixture describes; one upload where the iterates are on a device."""
        newest = residuals[-1]
        weights = torch.cat([mixture.share[:, None], mixture.moves, mixture.rises], 1).to(newest)
        count = mixture.moves.shape[1]
        moves, rises = weights[:, 1 : 1 + count], weights[:, 1 + count :]
        step: Tensor = weights[:, :1, None] * newest
        if count:
            step = step + torch.einsum("am,mand->and", moves, self._differences(self.knots))
            step = step + torch.einsum("am,mand->and", rises, self._differences(residuals))
        return step

    def _differences(self, part: Float[Tensor, "m a n d"]) -> Float[Tensor, "k a n d"]:
        """From each iterate but the newest to the newest; zero for what stands in for none."""
        return (part[-1] - part[:-1]) * self.counts[:-1, :, None, None]

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Memory":
        return Memory(**{entry.name: change(getattr(self, entry.name)) for entry in fields(self)})


def _inner(a: Float[Tensor, "m a n d"], b: Float[Tensor, "k a n d"]) -> Float[Tensor, "a m k"]:
    """Inner products of all pairs of entries, summed in float64."""
    rows, columns = (part.movedim(1, 0).flatten(2).double() for part in (a, b))
    return rows @ columns.mT


def _between_knots(knots: Float[Tensor, "m a n d"]) -> Float[Tensor, "m a k d"]:
    """From each knot to the next, both ends, which stay, included."""
    return torch.nn.functional.pad(knots, (0, 0, 1, 1)).diff(dim=2)
