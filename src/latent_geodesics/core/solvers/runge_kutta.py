r"""The initial problem by the classical Runge-Kutta method of order four, as the paper has it.

`x' = v`, `v' = -alpha |v|^2 P_v P_x s(x) - |v|^2 x / R^2` (the last term on a sphere of radius R only); after each
step x is projected on the manifold and v on its tangent space, with the length that it had at the start, since a
geodesic of `p^alpha` has constant Euclidean speed. Other geometries have their own weight and force.

References:
    Yu et al., Probability Density Geodesics in Image Diffusion Latent Space (2025), arXiv 2504.06675, and the code
    published with it.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.fields import guarded
from latent_geodesics.core.records import InitialProblem, Solution, Status
from latent_geodesics.core.solvers.course import Course, Knots
from latent_geodesics.core.solvers.initial import InitialSolver, Look, bend, launch, look, probes, score_error, steer
from latent_geodesics.core.vectors import norm

__all__ = ["RungeKutta4"]


class RungeKutta4(InitialSolver):
    """Integrates the geodesic equation with steps of equal length; four evaluations a step, one more at the end.

    Three times as many in a geometry that asks for the curvature of the log-density.

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
    """The integration of all pairs: where those that are still open are now."""

    def __init__(self, solver: RungeKutta4, problem: InitialProblem) -> None:
        self._problem, self._steps, self._normal_term = problem, solver.steps, solver.normal_term
        velocity, moves = launch(problem)
        self._course = Course(problem, moves)
        self._pairs = self._course.open_pairs()
        self._all_field = guarded(problem.field)
        self._manifold, self._field = problem.manifold.restrict(self._pairs), self._all_field.restrict(self._pairs)
        self._x, self._v = problem.x0[self._pairs], velocity[self._pairs]
        self._size = norm(self._v)
        self._log_density = torch.zeros_like(self._size)
        self._error = score_error(problem.geometry, self._field, self._x, torch.zeros_like(self._size))

    def advance(self, step: int) -> None:
        """One step of the method, and the projection after it."""
        h, u = 1 / self._steps, step / self._steps
        if not self._note(u):
            return
        x, v, level, a1, r1 = self._x, self._v, self._log_density, self._acceleration, self._rate
        v2 = v + h / 2 * a1
        a2, seen2 = self._slope(x + h / 2 * v, v2, level + h / 2 * r1, u + h / 2)
        v3 = v + h / 2 * a2
        a3, seen3 = self._slope(x + h / 2 * v2, v3, level + h / 2 * seen2.rate, u + h / 2)
        v4 = v + h * a3
        a4, seen4 = self._slope(x + h * v3, v4, level + h * seen3.rate, u + h)
        self._x = self._manifold.project(x + h / 6 * (v + 2 * v2 + 2 * v3 + v4))
        turned = v + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
        self._v = steer(self._manifold, self._problem.geometry, self._x, turned, self._size)
        self._log_density = level + h / 6 * (r1 + 2 * seen2.rate + 2 * seen3.rate + seen4.rate)
        self._drop(torch.isfinite(torch.cat([self._x, self._v], -1)).all(-1))
        self._course.step(self._pairs)

    def finish(self) -> Solution:
        """The paths through all knots; the score at the last gives its acceleration."""
        self._note(1.0)
        return self._course.solution()

    def _note(self, u: float) -> bool:
        """Pass the present knot, where the score is finite there; says whether any pair is left."""
        if len(self._pairs):
            self._acceleration, seen = self._slope(self._x, self._v, self._log_density, u)
            self._score, self._rate = seen.score, seen.rate
            self._drop(torch.isfinite(self._score).all(-1))
            at = torch.full_like(self._x[:, :1], u, dtype=torch.float64)
            columns = (part[:, None] for part in (self._x, self._v, self._acceleration, self._score))
            x, v, acceleration, score = columns
            self._course.pass_knots(self._pairs, Knots(u=at, x=x, v=v, acceleration=acceleration, score=score))
        return bool(len(self._pairs))

    def _slope(
        self, x: Float[Tensor, "a d"], v: Float[Tensor, "a d"], log_density: Float[Tensor, " a"], u: float
    ) -> tuple[Float[Tensor, "a d"], Look]:
        """The acceleration of the geodesic equation, and what the field says."""
        geometry = self._problem.geometry
        seen = look(geometry, self._manifold, self._field, x, v, torch.full_like(x[:, 0], u), error=self._error)
        self._course.call(self._pairs, probes(geometry))
        acceleration = bend(
            self._manifold,
            geometry,
            x,
            v,
            seen.score,
            curvature=seen.curvature,
            log_density=log_density,
            normal=self._normal_term,
        )
        return acceleration, seen

    def _drop(self, finite: Bool[Tensor, " a"]) -> None:
        """End the pairs that are not finite at their last knot."""
        rows: Int[Tensor, " m"] = finite.nonzero().flatten()
        if len(rows) == len(finite):
            return
        self._course.close(self._pairs[~finite], Status.NON_FINITE_SCORE)
        self._pairs, self._size = self._pairs[rows], self._size[rows]
        self._x, self._v = self._x[rows], self._v[rows]
        self._acceleration, self._score = self._acceleration[rows], self._score[rows]
        self._rate, self._log_density = self._rate[rows], self._log_density[rows]
        self._manifold = self._problem.manifold.restrict(self._pairs)
        self._field = self._all_field.restrict(self._pairs)
