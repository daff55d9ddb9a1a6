r"""Splines through knots, as matrices.

A spline through values `f_0 ... f_N` at nodes `u_0 ... u_N` in [0, 1] depends linearly on them, so its value or
derivative at `u` is one row of a matrix times the values. The matrices are made once in float64 and shared by all
pairs and dimensions. The splines here have degree 5 and the not-a-knot ends, so their second derivative is itself a
cubic spline: fourth-order accurate, and with no condition imposed at the ends.

References:
    de Boor, A Practical Guide to Splines (1978), chapters IX and XIII.
    Kronrod, Nodes and Weights of Quadrature Formulas (1965).
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Spline", "gauss_kronrod", "gauss_legendre", "natural_second_derivative"]


class Spline:
    """The interpolating spline of degree 5 through values at given nodes; a polynomial where there are fewer than 6.

    Args:
        nodes: at least two positions, increasing from 0 to 1.

    Raises:
        ValueError: if the nodes do not increase from 0 to 1.
    """

    def __init__(self, nodes: Float[Tensor, " n"]) -> None:
        nodes = nodes.detach().to("cpu", torch.float64)
        if nodes.ndim != 1 or len(nodes) < 2 or not bool((nodes.diff() > 0).all()):
            raise ValueError(f"nodes must be two or more positions that increase; received {nodes.tolist()}.")
        if nodes[0] != 0 or nodes[-1] != 1:
            raise ValueError(f"nodes must begin at 0 and end at 1; received {float(nodes[0])} to {float(nodes[-1])}.")
        self.nodes = nodes
        self._degree = min(5, len(nodes) - 1)
        skipped = self._degree // 2 + 1
        inner = nodes[skipped:-skipped] if self._degree == 5 else nodes[:0]
        ends = torch.ones(self._degree + 1, dtype=torch.float64)
        self._knots = torch.cat([0 * ends, inner, ends])
        self._coefficients = torch.linalg.inv(self._b_splines(nodes, 0))

    def matrix(self, u: Float[Tensor, " m"], derivative: int = 0) -> Float[Tensor, "m n"]:
        """The rows that give the spline's derivative of that order at each `u`; float64, on the CPU."""
        u = u.detach().to("cpu", torch.float64)
        rows: Tensor = self._b_splines(u, derivative) @ self._coefficients
        if derivative == 0:
            hit = u[:, None] == self.nodes
            rows = torch.where(hit.any(1, keepdim=True), hit.to(rows), rows)
        return rows

    def _b_splines(self, u: Float[Tensor, " m"], derivative: int) -> Float[Tensor, "m n"]:
        """All B-splines, or their derivatives, at `u`, by the recursion of Cox and de Boor."""
        t, k = self._knots, self._degree
        last = len(t) - k - 2
        span = (torch.searchsorted(t, u, right=True) - 1).clamp(k, last)
        basis = torch.nn.functional.one_hot(span, len(t) - 1).to(torch.float64)
        for degree in range(1, k + 1):
            n = len(t) - 1 - degree
            left, right = t[degree : degree + n] - t[:n], t[degree + 1 :][:n] - t[1 : n + 1]
            left, right = torch.where(left > 0, 1 / left, 0.0), torch.where(right > 0, 1 / right, 0.0)
            if degree > k - derivative:
                basis = degree * (basis[:, :n] * left - basis[:, 1 : n + 1] * right)
            else:
                rise, fall = (u[:, None] - t[:n]) * left, (t[degree + 1 :][:n] - u[:, None]) * right
                basis = rise * basis[:, :n] + fall * basis[:, 1 : n + 1]
        return basis


@cache
def natural_second_derivative(count: int) -> Float[Tensor, "n n"]:
    """The matrix from `count` values, evenly spaced, to the second derivative there of their natural cubic spline."""
    h = 1 / (count - 1)
    ones = torch.ones(count, dtype=torch.float64)
    neighbours = torch.diag(ones[1:], 1) + torch.diag(ones[1:], -1)
    moments, differences = 4 * torch.diag(ones) + neighbours, (neighbours - 2 * torch.diag(ones)) * 6 / h**2
    for end in (0, -1):
        moments[end], differences[end] = torch.eye(count, dtype=torch.float64)[end], 0 * ones
    matrix: Tensor = torch.linalg.solve(moments, differences)
    return matrix


@cache
def gauss_legendre(order: int) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"]]:
    """Nodes and weights on [0, 1] of the Gauss-Legendre rule with `order` points; float64, on the CPU."""
    i = torch.arange(1, order, dtype=torch.float64)
    beta = i / (4 * i**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return (nodes + 1) / 2, vectors[0] ** 2


@cache
def gauss_kronrod() -> tuple[Float[Tensor, " 5"], Float[Tensor, " 5"], Float[Tensor, " 5"]]:
    """Two rules on the same five nodes of [0, 1]: nodes, weights exact to degree 7, weights exact to degree 3.

    The second is the Gauss rule of two points, zero elsewhere, which the first extends (Kronrod 1965), so that their
    difference estimates the error of an integral at no further evaluation; float64, on the CPU.
    """
    outer, inner = (6 / 7) ** 0.5, (1 / 3) ** 0.5
    nodes = torch.tensor([-outer, -inner, 0.0, inner, outer], dtype=torch.float64)
    weights = torch.tensor([98 / 495, 27 / 55, 28 / 45, 27 / 55, 98 / 495], dtype=torch.float64)
    gauss = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    return (nodes + 1) / 2, weights / 2, gauss / 2
