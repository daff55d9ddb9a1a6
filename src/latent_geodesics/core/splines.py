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

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline, make_interp_spline
from torch import Tensor


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
        degree = min(5, len(nodes) - 1)
        self._spline = make_interp_spline(nodes.numpy(), np.eye(len(nodes)), k=degree)

    def matrix(self, u: Float[Tensor, " m"], derivative: int = 0) -> Float[Tensor, "m n"]:
        """The rows that give the spline's derivative of that order at each `u`; float64, on the CPU."""
        u = u.detach().to("cpu", torch.float64)
        rows = torch.from_numpy(self._spline(u.numpy(), derivative))
        if derivative == 0:
            hit = u[:, None] == self.nodes
            rows = torch.where(hit.any(1, keepdim=True), hit.to(rows), rows)
        return rows


@cache
def natural_second_derivative(count: int) -> Float[Tensor, "n n"]:
    """The matrix from `count` values, evenly spaced, to the second derivative there of their natural cubic spline."""
    nodes = np.linspace(0, 1, count)
    return torch.from_numpy(CubicSpline(nodes, np.eye(count), bc_type="natural")(nodes, 2))


@cache
def gauss_legendre(order: int) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"]]:
    """Nodes and weights on [0, 1] of the Gauss-Legendre rule with `order` points; float64, on the CPU."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


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
