r"""The weights of an accelerated step, from the inner products of the last iterates: small matrices, on the CPU.

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

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Mixture", "Products", "mixture"]

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
class Mixture:
    """The step `share r + moves dX + rises dR` of each pair; float64, on the CPU."""

    share: Float[Tensor, " a"]
    moves: Float[Tensor, "a m"]
    rises: Float[Tensor, "a m"]

    def where(self, mask: Bool[Tensor, " a"], other: "Mixture") -> "Mixture":
        """This one for the pairs of the mask, the other for the rest."""
        return Mixture(
            share=torch.where(mask, self.share, other.share),
            moves=torch.where(mask[:, None], self.moves, other.moves),
            rises=torch.where(mask[:, None], self.rises, other.rises),
        )


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
    whitening = _whiten(products.rises, 10 * rounding)
    c = (whitening @ (whitening.mT @ products.target))[..., 0]
    return Mixture(share=damping, moves=-c, rises=-damping[:, None] * c)


def _saddle_free(products: Products) -> tuple[Mixture, Bool[Tensor, " a"]]:
    """The step that descends along negative curvature too, and whether there is any on the span of the memory."""
    basis = _whiten(products.metric, 1e-6)
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


def _whiten(gram: Float[Tensor, "a m m"], cutoff: float) -> Float[Tensor, "a m m"]:
    """The `T` whose `T^T gram T` is one, but for zeros in place of eigenvalues that are negligible."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    values, vectors = torch.linalg.eigh(gram * scale[..., None] * scale[..., None, :])
    kept = (values > cutoff * values[..., -1:]) & (values > 0)
    inverse_root = torch.where(kept, values, 1.0).rsqrt() * kept
    whitening: Tensor = scale[..., None] * vectors * inverse_root[..., None, :]
    return whitening
