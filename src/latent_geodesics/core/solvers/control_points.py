r"""The path of the published descent: position, velocity and acceleration each from a curve of its own.

Position is the piecewise great circle (in flat space the polygon) through control points at even positions; velocity is
its derivative, at a control point the mean of those on its two sides; acceleration is the second derivative of the
natural cubic spline through the same points in the surrounding space. The three do not belong to one curve.

References:
    Yu et al., Probability Density Geodesics in Image Diffusion Latent Space (2025), arXiv 2504.06675.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.manifold import Manifold, Sphere
from latent_geodesics.core.path import Path, natural_second_derivative


class ControlPointPath(Path):
    """The path through evenly spaced control points, ends included.

    Args:
        points: the control points; the first and last are the ends.
        manifold: the space that they lie in.
        bends: the acceleration at the points, linear in between; that of the natural cubic spline if not given.
    """

    def __init__(
        self,
        *,
        points: Float[Tensor, "p k d"],
        manifold: Manifold,
        bends: Float[Tensor, "p k d"] | None = None,
    ) -> None:
        if points.ndim != 3 or points.shape[1] < 2:
            raise ValueError(f"points must have the shape [p k d], k at least 2; received {tuple(points.shape)}.")
        if bends is None:
            bends = natural_second_derivative(points.shape[1]).to(points) @ points
        self.points, self.manifold, self.bends = points, manifold, bends

    @property
    def pairs(self) -> int:
        """`p`, how many pairs."""
        return len(self.points)

    @property
    def breaks(self) -> Float[Tensor, " m"]:
        """The positions of the control points."""
        return torch.linspace(0, 1, self.points.shape[1], dtype=torch.float64)

    def point(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """The piecewise great circle."""
        piece, inside = self._locate(u)
        near, far = self.points[:, piece], self.points[:, piece + 1]
        angle, inside = self._angle(near, far), inside[:, None]
        scale = torch.sinc(angle / math.pi)
        rest = 1 - inside
        arc = rest * torch.sinc(rest * angle / math.pi) * near + inside * torch.sinc(inside * angle / math.pi) * far
        return torch.where(inside == 0, near, torch.where(inside == 1, far, arc / scale))

    def velocity(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """The derivative of the piecewise great circle; at a control point the mean of its two sides."""
        piece, inside = self._locate(u)
        here = self._derivative(piece, inside)
        left = self._derivative((piece - 1).clamp(min=0), torch.ones_like(inside))
        at_knot = ((inside == 0) & (piece > 0))[:, None]
        return torch.where(at_knot, (here + left) / 2, here)

    def acceleration(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """The second derivative of the natural cubic spline, linear between the control points."""
        piece, inside = self._locate(u)
        return torch.lerp(self.bends[:, piece], self.bends[:, piece + 1], inside[:, None])

    def refine(self, intervals: int) -> "ControlPointPath":
        """The same curves with control points inserted on them, `intervals` being a multiple of the present number."""
        u = torch.linspace(0, 1, intervals + 1, dtype=torch.float64)
        return ControlPointPath(points=self.point(u), manifold=self.manifold, bends=self.acceleration(u))

    def restrict(self, pairs: Int[Tensor, " m"]) -> "ControlPointPath":
        """The paths of the pairs `pairs` alone."""
        manifold = self.manifold.restrict(pairs)
        return ControlPointPath(points=self.points[pairs], manifold=manifold, bends=self.bends[pairs])

    def reversed(self) -> "ControlPointPath":
        """From the last control point to the first."""
        points, bends = self.points.flip(1), self.bends.flip(1)
        return ControlPointPath(points=points, manifold=self.manifold, bends=bends)

    def _derivative(self, piece: Int[Tensor, " n"], inside: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        near, far = self.points[:, piece], self.points[:, piece + 1]
        angle, inside = self._angle(near, far), inside[:, None]
        turned = (inside * angle).cos() * far - ((1 - inside) * angle).cos() * near
        return turned / torch.sinc(angle / math.pi) * (self.points.shape[1] - 1)

    def _angle(self, near: Float[Tensor, "p n d"], far: Float[Tensor, "p n d"]) -> Float[Tensor, "p n 1"]:
        if isinstance(self.manifold, Sphere):
            return self.manifold.angle(near, far).unsqueeze(-1)
        return torch.zeros_like(near[..., :1])

    def _locate(self, u: Float[Tensor, " n"]) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """The piece that each position falls in, and how far along it, in [0, 1]; both where the points are."""
        scaled = u.detach().to("cpu", torch.float64) * (self.points.shape[1] - 1)
        piece = scaled.floor().long().clamp(0, self.points.shape[1] - 2)
        return piece.to(self.points.device), (scaled - piece).to(self.points)
