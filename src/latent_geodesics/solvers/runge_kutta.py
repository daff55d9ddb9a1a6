r"""The initial problem: follow a geodesic from a point and a velocity.

`x' = v`, `v' = -alpha |v|^2 P_v P_x s(x) - |v|^2 x / R^2` (the last term on a sphere of radius R only), by the
classical Runge-Kutta method of order four; after each step x is projected on the manifold and v on its tangent space,
with the length that it had at the start, since a geodesic has constant Euclidean speed.

References:
    Yu et al., Probability Density Geodesics in Image Diffusion Latent Space (2025), arXiv 2504.06675, and the code
    published with it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.geometry import norm, normal_to, unit
from latent_geodesics.hermite import HermitePath
from latent_geodesics.records import InitialProblem, Solution, Status, Trace

__all__ = ["RungeKutta4"]


class RungeKutta4:
    """Integrates the geodesic equation with steps of equal length; four evaluations a step, one more at the end.

    Deviation: the code published with the paper leaves the normal term out and relies on the projection after each
    step, which makes it a method of order two on a sphere; `normal_term=False` does the same.

    Args:
        steps: the number of steps from `u = 0` to `u = 1`.
        normal_term: whether the stages follow the curvature of the sphere.

    Raises:
        ValueError: if `steps` is below one.
    """

    def __init__(self, *, steps: int = 100, normal_term: bool = True) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1; received {steps}.")
        self.steps, self.normal_term = steps, normal_term

    def solve(self, problem: InitialProblem) -> Solution:
        """Integrate all pairs together; a pair whose score is not finite stays where it got to."""
        run = _Integration(self, problem)
        for step in range(self.steps):
            run.advance(step)
        return run.finish()


class _Integration:
    """The integration of all pairs: where they are now, and every knot so far."""

    def __init__(self, solver: RungeKutta4, problem: InitialProblem) -> None:
        self._solver, self._problem, self._manifold = solver, problem, problem.manifold
        self._width = 1 / solver.steps
        self._x = problem.x0
        self._size = norm(problem.v0).unsqueeze(-1)
        self._v = unit(problem.manifold.tangent(problem.x0, problem.v0)) * self._size
        self._alive = torch.ones(len(problem.x0), dtype=torch.bool, device=problem.x0.device)
        self._evaluations = torch.zeros_like(self._alive, dtype=torch.long)
        self._iterations = torch.zeros_like(self._evaluations)
        self._knots: list[_Knot] = []

    def advance(self, step: int) -> None:
        """One step of the method, and the projection after it."""
        x, v, h, u = self._x, self._v, self._width, step * self._width
        a1 = self._note(u)
        v2 = v + h / 2 * a1
        a2, _ = self._slope(x + h / 2 * v, v2, u + h / 2)
        v3 = v + h / 2 * a2
        a3, _ = self._slope(x + h / 2 * v2, v3, u + h / 2)
        v4 = v + h * a3
        a4, _ = self._slope(x + h * v3, v4, u + h)
        new_x = self._manifold.project(x + h / 6 * (v + 2 * v2 + 2 * v3 + v4))
        new_v = self._manifold.tangent(new_x, v + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4))
        self._settle(new_x, unit(new_v) * self._size)
        self._iterations += self._alive.long()

    def finish(self) -> Solution:
        """The path through all knots; the score at the last gives its acceleration."""
        self._note(1.0)
        self._settle(self._x, self._v)
        x, v, a, score = (torch.stack(column, 1) for column in zip(*self._knots, strict=True))
        return Solution(
            path=HermitePath(knots=x, velocities=v, accelerations=a, manifold=self._manifold),
            status=tuple(Status.INTEGRATED if ok else Status.NON_FINITE_SCORE for ok in self._alive.tolist()),
            stats={
                "evaluations": self._evaluations,
                "iterations": self._iterations,
                "residual": self._residual(x, v, score),
            },
            trace=self._trace(v, score),
        )

    def _note(self, u: float) -> Float[Tensor, "p d"]:
        """Keep the present knot; returns the acceleration there."""
        acceleration, score = self._slope(self._x, self._v, u)
        self._knots.append(_Knot(self._x, self._v, acceleration, score))
        return acceleration

    def _settle(self, x: Float[Tensor, "p d"], v: Float[Tensor, "p d"]) -> None:
        """Go on from new positions and velocities; a pair where they are not finite stays at its last knot for good."""
        last = self._knots[-1]
        finite = torch.isfinite(torch.cat([x, v, last.acceleration], -1)).all(-1)
        self._alive = self._alive & finite
        on = self._alive[:, None]
        self._x, self._v = torch.where(on, x, self._x), torch.where(on, v, 0.0)
        still = [torch.where(on, part, 0.0) for part in (last.v, last.acceleration, last.score)]
        self._knots[-1] = _Knot(last.x, *still)

    def _slope(
        self, x: Float[Tensor, "p d"], v: Float[Tensor, "p d"], u: float
    ) -> tuple[Float[Tensor, "p d"], Float[Tensor, "p d"]]:
        """The acceleration of the geodesic equation, and the score; zero for pairs that have ended."""
        pairs = self._alive.nonzero().flatten()
        acceleration, score = torch.zeros_like(x), torch.zeros_like(x)
        if not len(pairs):
            return acceleration, score
        manifold, x, v = self._manifold.restrict(pairs), x[pairs], v[pairs]
        s = self._problem.field.restrict(pairs).score(x, torch.full_like(x[:, 0], u))
        self._evaluations[pairs] += 1
        pull = manifold.tangent(x, normal_to(v, manifold.tangent(x, s)))
        bend = -self._problem.alpha * v.square().sum(-1, keepdim=True) * pull
        if self._solver.normal_term:
            bend = bend + manifold.normal_acceleration(x, v)
        acceleration[pairs], score[pairs] = bend, s
        return acceleration, score

    def _residual(
        self, x: Float[Tensor, "p k d"], v: Float[Tensor, "p k d"], score: Float[Tensor, "p k d"]
    ) -> Float[Tensor, " p"]:
        """Mean of `|P_v (alpha s + g'' / |g'|^2)|` over the inner knots, with second differences for `g''`."""
        inner = slice(1, -1)
        second = (x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]) / self._width**2
        speed = v[:, inner].square().sum(-1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
        gradient = self._manifold.tangent(x[:, inner], self._problem.alpha * score[:, inner] + second / speed)
        return norm(normal_to(v[:, inner], gradient)).mean(-1)

    def _trace(self, v: Float[Tensor, "p k d"], score: Float[Tensor, "p k d"]) -> Trace:
        """A row a step: the length so far, relative to the start point, by the trapezoidal rule."""
        rate, speed = (v * score).sum(-1), norm(v)
        rises = (rate[:, 1:] + rate[:, :-1]) / 2 * self._width
        log_density = torch.nn.functional.pad(rises.cumsum(-1), (1, 0))
        cost = (-self._problem.alpha * log_density.double()).exp() * speed
        length = torch.cumulative_trapezoid(cost, dx=self._width, dim=-1).to(v).T
        steps = torch.arange(1, len(length) + 1, device=v.device)[:, None]
        return Trace(
            evaluations=torch.minimum(4 * steps, self._evaluations),
            residual=torch.full_like(length, torch.nan),
            length=length,
            step=torch.full_like(length, self._width),
            alpha=torch.full_like(length, self._problem.alpha),
        )


class _Knot(NamedTuple):
    """Position, velocity, acceleration and score at one position."""

    x: Float[Tensor, "p d"]
    v: Float[Tensor, "p d"]
    acceleration: Float[Tensor, "p d"]
    score: Float[Tensor, "p d"]
