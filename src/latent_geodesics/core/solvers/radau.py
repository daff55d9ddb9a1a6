r"""Collocation at Radau points: integrals over a window from values at a few nodes, the last of them its end.

On [0, 1] the `q` Radau points `c_i` are the zeros of `P_q - P_(q-1)` (Legendre polynomials of `2 c - 1`). Integrating
the polynomial through values at the nodes, `int_0^(c_i) f = sum_j A_ij f_j`, is the implicit Runge-Kutta method Radau
IIA: of order `2 q - 1` at the end of the window and, where the integrand is smooth, of spectral accuracy at all nodes.

References:
    Hairer and Wanner, Solving Ordinary Differential Equations II (1996), section IV.5.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import legendre
from scipy.special import roots_jacobi
from torch import Tensor


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
        # The Legendre polynomials where the windows are, by their recurrence.
        t = 2 * at - 1
        columns = [torch.ones_like(t), t]
        for k in range(1, len(self.nodes) - 1):
            columns.append(((2 * k + 1) * t * columns[k] - k * columns[k - 1]) / (k + 1))
        return torch.stack(columns, -1) @ self.coefficients.to(share.device)


@cache
def radau_rule(q: int) -> RadauRule:
    """The rule with `q` points, at least 3."""
    # All points but the last are the zeros of the Jacobi polynomial P^(1,0).
    t = np.append(roots_jacobi(q - 1, 1, 0)[0], 1.0)
    coefficients = np.linalg.inv(legendre.legvander(t, q - 1))
    # In u = (t + 1) / 2 integrals are half as large and slopes twice.
    integrals = legendre.legint(coefficients, lbnd=-1, axis=0) / 2
    slopes = 2 * legendre.legder(coefficients, axis=0)
    found = {
        "nodes": (t + 1) / 2,
        "integral": legendre.legvander(t, q) @ integrals,
        "coefficients": coefficients,
        "start": legendre.legvander(-1.0, q - 1).ravel() @ coefficients,
        "end_slope": legendre.legvander(1.0, q - 2).ravel() @ slopes,
        "derivative": legendre.legvander(t, q - 2) @ slopes,
    }
    return RadauRule(**{name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in found.items()})
