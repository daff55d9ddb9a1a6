r"""Steps of an accelerated fixed point, from the memory of its last iterates.

A fixed point `x <- x + r(x)` with `r` the preconditioned residual is accelerated per pair in two ways, both of which
step along `r` and along the differences `dX`, `dR` of iterates and residuals to the newest ones. What is large stays
where the iterates are; the weights follow from inner products, small matrices on the CPU, so that an iteration reads a
few numbers a pair from the device.

Anderson mixing (type II): take the combination that makes the linearised residual least, `c = argmin |r - dR c|`, and
step by `-dX c + b (r - dR c)`. It is fast, and as willing to find a saddle of the length as a minimum. The damping `b`
is one until a pair stops improving: where the density bends the path more than the preconditioner knows, a whole step
along what the memory cannot explain overshoots.

Saddle-free step: the same differences give the second variation of the length on their span,
`H = dX^T W dF`, with `F` the defect before preconditioning and `W = p^-alpha` the weight of the gradient. Along a
direction of negative curvature the step is reversed, so that it descends. It replaces the Anderson step where such a
direction stands out from the error of the differences.

References:
    Anderson, Iterative procedures for nonlinear integral equations (1965); Walker and Ni, Anderson acceleration for
    fixed-point iterations (2011); Dauphin et al., Identifying and attacking the saddle point problem in
    high-dimensional non-convex optimization (2014), arXiv 1406.2572.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_geodesics.core.geometries import Geometry
from latent_geodesics.core.manifold import normal_to
from latent_geodesics.core.records import Batched

NEGATIVE_CURVATURE = -0.05
LEAST_CURVATURE = 0.3
DOUBT = 0.15


@dataclass(frozen=True, kw_only=True)
class Products:
    """Inner products of the differences `dX`, `dR`, `dF` of the last iterates, for each pair.

    Attributes:
        rises: `dR . dR`.
        target: `dR . r`, `r` the newest preconditioned residual.
        metric: `dX . dX` in the norm of the weighted derivative.
        curvature: `dX . W dF`.
        slope: `dX . W f`, `f` the newest defect.
        shadow: `dX . r` in the norm of the weighted derivative.
    """

    rises: Float[Tensor, "a m m"]
    target: Float[Tensor, "a m 1"]
    metric: Float[Tensor, "a m m"]
    curvature: Float[Tensor, "a m m"]
    slope: Float[Tensor, "a m 1"]
    shadow: Float[Tensor, "a m 1"]


@dataclass(frozen=True, kw_only=True)
class Mixture(Batched):
    """The step `share r + moves dX + rises dR` of each pair; float64, on the CPU."""

    share: Float[Tensor, " a"]
    moves: Float[Tensor, "a m"]
    rises: Float[Tensor, "a m"]


@dataclass(frozen=True)
class Memory(Batched):
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

    axis: ClassVar[int] = 1

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
    ) -> Products:
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

    def step(self, residuals: Float[Tensor, "m a n d"], mixture: Mixture) -> Float[Tensor, "a n d"]:
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


def _inner(a: Float[Tensor, "m a n d"], b: Float[Tensor, "k a n d"]) -> Float[Tensor, "a m k"]:
    """Inner products of all pairs of entries, summed in float64."""
    rows, columns = (part.movedim(1, 0).flatten(2).double() for part in (a, b))
    return rows @ columns.mT


def _between_knots(knots: Float[Tensor, "m a n d"]) -> Float[Tensor, "m a k d"]:
    """From each knot to the next, both ends, which stay, included."""
    return torch.nn.functional.pad(knots, (0, 0, 1, 1)).diff(dim=2)


def mixture(products: Products, *, damping: Float[Tensor, " a"], rounding: float, saddles: bool) -> Mixture:
    """The weights of the next step.

    Args:
        products: of the last iterates; float64, on the CPU.
        damping: the share of what the memory cannot explain that is stepped along, in (0, 1].
        rounding: the relative rounding of the iterates.
        saddles: whether to leave saddles along their negative curvature.
    """
    found = _anderson(products, damping, rounding)
    if not saddles or not products.slope.shape[1]:
        return found
    away, curved = _saddle_free(products)
    return away.where(curved, found)


def _anderson(products: Products, damping: Float[Tensor, " a"], rounding: float) -> Mixture:
    whitening = whiten(products.rises, 10 * rounding)
    c = (whitening @ (whitening.mT @ products.target))[..., 0]
    return Mixture(share=damping, moves=-c, rises=-damping[:, None] * c)


def _saddle_free(products: Products) -> tuple[Mixture, Bool[Tensor, " a"]]:
    """The step that descends along negative curvature too, and whether there is any on the span of the memory."""
    basis = whiten(products.metric, 1e-6)
    curvature = basis.mT @ products.curvature @ basis
    # The second variation is symmetric; what is not is the error of the differences.
    error = (curvature - curvature.mT).square().sum((1, 2)).sqrt() / 2
    curvature, rotation = torch.linalg.eigh((curvature + curvature.mT) / 2)
    basis = basis @ rotation
    slope, shadow = basis.mT @ products.slope, basis.mT @ products.shadow
    along = slope / curvature.abs().clamp(min=LEAST_CURVATURE)[..., None] - shadow
    moves = (basis @ along)[..., 0]
    step = Mixture(share=torch.ones_like(moves[:, 0]), moves=moves, rises=torch.zeros_like(moves))
    return step, curvature[:, 0] < NEGATIVE_CURVATURE - DOUBT * error


def whiten(gram: Float[Tensor, "*a m m"], cutoff: float) -> Float[Tensor, "*a m m"]:
    """The `T` whose `T^T gram T` is one, but for zeros in place of eigenvalues that are negligible."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    values, vectors = torch.linalg.eigh(gram * scale[..., None] * scale[..., None, :])
    kept = (values > cutoff * values[..., -1:]) & (values > 0)
    inverse_root = torch.where(kept, values, 1.0).rsqrt() * kept
    whitening: Tensor = scale[..., None] * vectors * inverse_root[..., None, :]
    return whitening
