r"""Direction and curvature of a path that is known at its frames alone.

A path through points `x_0 ... x_{n-1}` of a sphere has at an inner point a direction `v`, a unit vector, and a
curvature vector `b = P_v P_x g'' / |g'|^2` in 1/[x], which does not depend on how fast the path is run. Both are read
off the points; the two classes do it in different ways.

Symbols: `v` videos, `w` paths of each, `n` frames, `m` inner ones, `d` size of a latent.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.geometry import norm, normal_to, unit
from latent_geodesics.core.manifold import Sphere
from latent_geodesics.core.solvers import ControlPointPath


@dataclass(frozen=True, kw_only=True)
class Bend:
    """How paths bend at their inner points.

    Attributes:
        direction: The unit tangent.
        curvature: The curvature vector, orthogonal to the tangent and to the point, in 1/[x].
        step: The mean length of the arcs on both sides, in [x].
    """

    direction: Float[Tensor, "v w m d"]
    curvature: Float[Tensor, "v w m d"]
    step: Float[Tensor, "v w m"]


class Derivatives(ABC):
    """A way to differentiate a path that is known at its frames."""

    @abstractmethod
    def bend(self, points: Float[Tensor, "v w n d"], sphere: Sphere) -> Bend:
        """Direction, curvature and step at the inner points, `m = n - 2`.

        Args:
            points: Points of the sphere in their order, at least three; neighbours must differ.
            sphere: The sphere, with one radius or one for each video.
        """


class Arcs(Derivatives):
    r"""From the great-circle arcs to both neighbours: a great circle bends by exactly zero, however its points lie.

    With `t-`, `t+` the unit tangents of the arcs that arrive and leave and `h-`, `h+` their lengths, the curvature is
    `2 (t+ - t-) / (h- + h+)` and the tangent has the direction of `t- + t+`. Up to the factor `-2 / (h- + h+)` that
    is the derivative by the point of the length of the polygon of arcs, so it is the gradient of one functional. Only
    the neighbours matter, so a jump does not ring along the path; the error is of second order in the step.

    Deviation: the published analysis differentiates a spline (see `PublishedSpline`).
    """

    def bend(self, points: Float[Tensor, "v w n d"], sphere: Sphere) -> Bend:  # noqa: D102
        before, here, after = points[..., :-2, :], points[..., 1:-1, :], points[..., 2:, :]
        arrive, leave = -sphere.log(here, before), sphere.log(here, after)
        step = (norm(arrive) + norm(leave)) / 2
        arrive, leave = unit(arrive), unit(leave)
        return Bend(direction=unit(arrive + leave), curvature=(leave - arrive) / step[..., None], step=step)


class PublishedSpline(Derivatives):
    r"""As published: frames at even positions, `g'` the mean of both arcs' velocities, `g''` of a natural cubic spline.

    Velocity and acceleration belong to different curves, and the spline couples all frames: a jump rings along it.

    References:
        Yu et al., Probability Density Geodesics in Image Diffusion Latent Space (2025), arXiv 2504.06675, and the code
        published with it.
    """

    def bend(self, points: Float[Tensor, "v w n d"], sphere: Sphere) -> Bend:  # noqa: D102
        v, w, n = points.shape[:3]
        radius = torch.as_tensor(sphere.radius).to(points).expand(v).repeat_interleave(w)
        every = Sphere(radius)
        flat = points.flatten(0, 1)
        path = ControlPointPath(points=flat, manifold=every)
        u = path.breaks[1:-1]
        velocity = path.velocity(u)
        acceleration = every.tangent(flat[:, 1:-1], path.acceleration(u))
        curvature = normal_to(velocity, acceleration / velocity.square().sum(-1, keepdim=True))
        arcs = every.distance(flat[:, :-1], flat[:, 1:])
        return Bend(
            direction=unit(velocity).view(v, w, n - 2, -1),
            curvature=curvature.view(v, w, n - 2, -1),
            step=((arcs[:, :-1] + arcs[:, 1:]) / 2).view(v, w, n - 2),
        )
