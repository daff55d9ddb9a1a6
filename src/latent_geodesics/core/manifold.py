r"""The spaces that paths live in: flat space, and the sphere on which noisy latents concentrate.

Conventions: points `x` are flat vectors of size `d`; a batch of `p` pairs is the first axis of every tensor. Tangent
vectors are given in the coordinates of the surrounding `R^d`. Lengths are Euclidean, along the last axis, in the unit
of `x`.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def norm(v: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
    """`|v|`, the Euclidean norm."""
    size: Tensor = torch.linalg.vector_norm(v, dim=-1)
    return size


def unit(v: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """`v / |v|`, and zero for zero."""
    size = norm(v).unsqueeze(-1)
    return v / torch.where(size > 0, size, 1.0)


def normal_to(v: Float[Tensor, "*#b d"], a: Float[Tensor, "*#b d"]) -> Float[Tensor, "*#b d"]:
    """`P_v a`, the part of `a` orthogonal to `v`."""
    direction = unit(v)
    return a - direction * (direction * a).sum(-1, keepdim=True)


class Manifold(ABC):
    """A subset of `R^d` with the projections, geodesics and transport that solvers and paths need."""

    @abstractmethod
    def project(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The point of the manifold that is nearest to `x`."""

    @abstractmethod
    def tangent(self, x: Float[Tensor, "*b d"], v: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The orthogonal projection of `v` on the tangent space at `x`."""

    @abstractmethod
    def exp(self, x: Float[Tensor, "*b d"], v: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The end of the geodesic of length `|v|` that leaves `x` with velocity `v`, a tangent vector at `x`."""

    @abstractmethod
    def log(self, x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The tangent vector at `x` whose `exp` is `y`, the shortest one."""

    @abstractmethod
    def transport(
        self, x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"], v: Float[Tensor, "*b d"]
    ) -> Float[Tensor, "*b d"]:
        """The tangent vector at `y` that is `v` at `x`, carried in parallel along the shortest geodesic."""

    @abstractmethod
    def distance(self, x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        """The length of the shortest geodesic from `x` to `y`."""

    @abstractmethod
    def normal_acceleration(self, x: Float[Tensor, "*b d"], v: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The acceleration, normal to the manifold, of every curve in it that passes `x` with velocity `v`."""

    @abstractmethod
    def project_curve(
        self, y: Float[Tensor, "*b d"], dy: Float[Tensor, "*b d"], ddy: Float[Tensor, "*b d"]
    ) -> tuple[Float[Tensor, "*b d"], Float[Tensor, "*b d"], Float[Tensor, "*b d"]]:
        """Point, velocity and acceleration of `project(y(u))`, given those of the curve `y(u)`."""

    @abstractmethod
    def contains(self, x: Float[Tensor, "*b d"], tolerance: float = 1e-3) -> Bool[Tensor, "*b"]:
        """Whether `x` lies on the manifold, within `tolerance` relative to its size."""

    def antipodal(self, x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"]) -> Bool[Tensor, "*b"]:
        """Whether `x` and `y` are so far apart that no single shortest geodesic joins them."""
        return torch.zeros(x.shape[:-1], dtype=torch.bool, device=x.device) & (y[..., 0] == y[..., 0])

    def restrict(self, pairs: Int[Tensor, " m"]) -> "Manifold":
        """The manifolds of the pairs `pairs` of the batch; itself when all pairs share one."""
        del pairs
        return self


class Euclidean(Manifold):
    """Flat space: every operation is the obvious one."""

    def project(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """`x` itself."""
        return x

    def tangent(self, x: Float[Tensor, "*b d"], v: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """`v` itself."""
        return v

    def exp(self, x: Float[Tensor, "*b d"], v: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """`x + v`."""
        return x + v

    def log(self, x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """`y - x`."""
        return y - x

    def transport(
        self, x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"], v: Float[Tensor, "*b d"]
    ) -> Float[Tensor, "*b d"]:
        """`v` itself."""
        return v

    def distance(self, x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        """`|y - x|`."""
        return norm(y - x)

    def normal_acceleration(self, x: Float[Tensor, "*b d"], v: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Zero."""
        return torch.zeros_like(x)

    def project_curve(
        self, y: Float[Tensor, "*b d"], dy: Float[Tensor, "*b d"], ddy: Float[Tensor, "*b d"]
    ) -> tuple[Float[Tensor, "*b d"], Float[Tensor, "*b d"], Float[Tensor, "*b d"]]:
        """The three themselves."""
        return y, dy, ddy

    def contains(self, x: Float[Tensor, "*b d"], tolerance: float = 1e-3) -> Bool[Tensor, "*b"]:
        """True for every finite point."""
        return torch.isfinite(x).all(-1)

    def __repr__(self) -> str:
        return "Euclidean()"


class Sphere(Manifold):
    """The sphere `|x| = radius` around the origin.

    Args:
        radius: `R`, above zero, in the unit of `x`: one number, or one for each pair of the batch.

    Raises:
        ValueError: if a radius is not a positive number.
    """

    def __init__(self, radius: float | Float[Tensor, " p"]) -> None:
        values = torch.as_tensor(radius)
        if values.ndim > 1 or not bool(((values > 0) & torch.isfinite(values)).all()):
            raise ValueError(f"radius must be a positive number, or one for each pair; received {values.tolist()}.")
        self.radius: float | Tensor = radius if values.ndim == 1 else float(radius)

    def project(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """`R x / |x|`; the origin, which has no nearest point, gives NaN."""
        return x * (self._radius(x) / norm(x).unsqueeze(-1))

    def tangent(self, x: Float[Tensor, "*b d"], v: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """`v - x (x . v) / |x|^2`."""
        return v - x * (_dot(x, v) / _dot(x, x))

    def exp(self, x: Float[Tensor, "*b d"], v: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """`cos(|v| / R) x + R sin(|v| / R) v / |v|`."""
        angle = norm(v).unsqueeze(-1) / self._radius(x)
        return self.project(angle.cos() * x + torch.sinc(angle / math.pi) * v)

    def log(self, x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The part of `y` tangent at `x`, with the length of the arc; antipodal points give NaN."""
        angle = self.angle(x, y).unsqueeze(-1)
        across = self.tangent(x, y)
        # Beyond a right angle by the length of the arc itself: the sine of an angle close to pi is rounding.
        far = across * (angle * self._radius(x) / norm(across).unsqueeze(-1))
        found = torch.where(angle > math.pi / 2, far, across / torch.sinc(angle / math.pi))
        undefined = self.antipodal(x, y).unsqueeze(-1)
        return torch.where(undefined, torch.nan, found)

    def transport(
        self, x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"], v: Float[Tensor, "*b d"]
    ) -> Float[Tensor, "*b d"]:
        """`v - (x + y) (y . v) / (R^2 + x . y)`."""
        square = self._radius(x) ** 2
        return v - (x + y) * (_dot(y, v) / (square + _dot(x, y)))

    def distance(self, x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        """`R` times the angle."""
        return self.angle(x, y) * self._radius(x).squeeze(-1)

    def angle(self, x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        """The angle between `x` and `y` in [0, pi] radians, accurate for small and for large ones."""
        a, b = x / norm(x).unsqueeze(-1), y / norm(y).unsqueeze(-1)
        return 2 * torch.atan2(norm(a - b), norm(a + b))

    def normal_acceleration(self, x: Float[Tensor, "*b d"], v: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """`-|v|^2 x / R^2`."""
        return -x * (_dot(v, v) / self._radius(x) ** 2)

    def project_curve(
        self, y: Float[Tensor, "*b d"], dy: Float[Tensor, "*b d"], ddy: Float[Tensor, "*b d"]
    ) -> tuple[Float[Tensor, "*b d"], Float[Tensor, "*b d"], Float[Tensor, "*b d"]]:
        """The chain rule through `R y / |y|`."""
        radius, size = self._radius(y), norm(y).unsqueeze(-1)
        n = y / size
        d_size = _dot(n, dy)
        dd_size = (_dot(dy, dy) - d_size**2) / size + _dot(n, ddy)
        dn = (dy - d_size * n) / size
        ddn = (ddy - dd_size * n - 2 * d_size * dn) / size
        return radius * n, radius * dn, radius * ddn

    def contains(self, x: Float[Tensor, "*b d"], tolerance: float = 1e-3) -> Bool[Tensor, "*b"]:
        """Whether `|x| = R` within `tolerance * R`."""
        radius = self._radius(x).squeeze(-1)
        return (norm(x) - radius).abs() <= tolerance * radius

    def antipodal(self, x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"]) -> Bool[Tensor, "*b"]:
        """Whether the points are opposite but for rounding: closer to it no direction between them is known to 1e-3."""
        a, b = x / norm(x).unsqueeze(-1), y / norm(y).unsqueeze(-1)
        return norm(a + b) < 1024 * torch.finfo(x.dtype).eps

    def restrict(self, pairs: Int[Tensor, " m"]) -> "Sphere":
        """The spheres of the pairs `pairs`."""
        return Sphere(self.radius[pairs.to(self.radius.device)]) if isinstance(self.radius, Tensor) else self

    def _radius(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "..."]:
        """The radius where `x` is and in its dtype, shaped to broadcast against it."""
        if isinstance(self.radius, Tensor):
            return self.radius.to(x).reshape(-1, *[1] * (x.ndim - 1))
        return x.new_full([1] * x.ndim, self.radius)

    def __repr__(self) -> str:
        return f"Sphere(radius={self.radius})"


def _dot(a: Float[Tensor, "*b d"], b: Float[Tensor, "*b d"]) -> Float[Tensor, "*b 1"]:
    return (a * b).sum(-1, keepdim=True)
