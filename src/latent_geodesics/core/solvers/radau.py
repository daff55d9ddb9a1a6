r"""Collocation at Radau points: integrals over a window from values at a few nodes, the last of them its end.

On [0, 1] the `q` Radau points `c_i` are the zeros of `P_q - P_(q-1)` (Legendre polynomials of `2 c - 1`). Integrating
the polynomial through values at the nodes, `int_0^(c_i) f = sum_j A_ij f_j`, is the implicit Runge-Kutta method Radau
IIA: of order `2 q - 1` at the end of the window and, where the integrand is smooth, of spectral accuracy at all nodes.

References:
    Hairer and Wanner, Solving Ordinary Differential Equations II (1996), section IV.5.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["RadauRule", "radau_rule"]


@dataclass(frozen=True, kw_only=True)
class RadauRule:
    """The matrices of `q` Radau points on [0, 1]; float64, on the CPU.

    Attributes:
        nodes: the points, increasing, the last of them 1.
        integral: `A`, from values at the nodes to the integrals from 0 to each node.
        coefficients: from values at the nodes to the Legendre coefficients of the polynomial through them.
        start: from values at the nodes to the value of that polynomial at 0.
        end_slope: from values at the nodes to its derivative at 1.
        derivative: from values at the nodes to its derivative at each of them.
    """

    nodes: Float[Tensor, " q"]
    integral: Float[Tensor, "q q"]
    coefficients: Float[Tensor, "q q"]
    start: Float[Tensor, " q"]
    end_slope: Float[Tensor, " q"]
    derivative: Float[Tensor, "q q"]

    def resample(self, share: Float[Tensor, " a"]) -> Float[Tensor, "a q q"]:
        """From values at the nodes to those of their polynomial at the nodes of a window that is `share` as wide."""
        at = share.double()[:, None] * self.nodes.to(share.device)
        return _legendre(at, len(self.nodes)) @ self.coefficients.to(share.device)


@cache
def radau_rule(q: int) -> RadauRule:
    """The rule with `q` points, at least 3."""
    # All points but the last are the zeros of the Jacobi polynomial P^(1,0), eigenvalues of its recurrence.
    k = torch.arange(q - 1, dtype=torch.float64)
    off = (k * (k + 1)).sqrt()[1:] / (2 * k + 1)[1:]
    diagonal = -1 / ((2 * k + 1) * (2 * k + 3))
    zeros = torch.linalg.eigvalsh(torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1))
    nodes = torch.cat([(1 + zeros) / 2, torch.ones(1, dtype=torch.float64)])
    coefficients = torch.linalg.inv(_legendre(nodes, q))
    more = _legendre(nodes, q + 1)
    degree = torch.arange(1, q, dtype=torch.float64)
    # int_0^c P_k(2 t - 1) dt = (P_(k+1) - P_(k-1)) / (2 (2 k + 1)), zero at c = 0.
    integrals = torch.cat([nodes[:, None], (more[:, 2:] - more[:, :-2]) / (2 * (2 * degree + 1))], 1)
    sign = (-1.0) ** torch.arange(q, dtype=torch.float64)
    slopes = torch.arange(q, dtype=torch.float64) * (torch.arange(q, dtype=torch.float64) + 1)
    return RadauRule(
        nodes=nodes,
        integral=integrals @ coefficients,
        coefficients=coefficients,
        start=sign @ coefficients,
        end_slope=slopes @ coefficients,
        derivative=_legendre_slopes(nodes, q) @ coefficients,
    )


def _legendre(u: Float[Tensor, "*b"], count: int) -> Float[Tensor, "*b count"]:
    """The first `count` Legendre polynomials of `2 u - 1`."""
    t = 2 * u - 1
    columns = [torch.ones_like(t), t]
    for k in range(1, count - 1):
        columns.append(((2 * k + 1) * t * columns[k] - k * columns[k - 1]) / (k + 1))
    return torch.stack(columns[:count], -1)


def _legendre_slopes(u: Float[Tensor, "*b"], count: int) -> Float[Tensor, "*b count"]:
    """Their derivatives with respect to `u`: `P_k' = (2 k - 1) P_(k-1) + P_(k-2)'`, twice as steep in `u`."""
    values = _legendre(u, count)
    columns = [torch.zeros_like(u), 2 * torch.ones_like(u)]
    for k in range(2, count):
        columns.append(2 * (2 * k - 1) * values[..., k - 1] + columns[k - 2])
    return torch.stack(columns[:count], -1)
