r"""The initial problem with error control: the pair of orders five and four by Dormand and Prince.

Each pair of the batch takes steps of its own, so its result does not depend on the others; one score call serves a
stage of all of them. With the stages `k_i` of a step of width `h`, the step goes on by the method of order five; the
difference to the method of order four, `h sum_i e_i k_i`, measures its error. The last stage is evaluated at the new
knot, after its projection on the manifold, and is the first stage of the next step (first same as last). Between knots
the path is the quintic of their points, velocities and accelerations.

References:
    Dormand and Prince, A family of embedded Runge-Kutta formulae (1980), the table RK5(4)7M; Hairer, Norsett and
    Wanner, Solving Ordinary Differential Equations I (1993), sections II.4 and II.5.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.fields import guarded
from latent_geodesics.core.records import InitialProblem, Solution, Status
from latent_geodesics.core.solvers.course import Course, Knots
from latent_geodesics.core.solvers.initial import (
    InitialSolver,
    Look,
    bend,
    launch,
    look,
    probes,
    resolved_tolerance,
    score_error,
    steer,
)
from latent_geodesics.core.vectors import norm

__all__ = ["ERROR_WEIGHTS", "STAGE_POSITIONS", "STAGE_WEIGHTS", "AdaptiveRungeKutta"]

STAGE_POSITIONS = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGE_WEIGHTS = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR_WEIGHTS = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)

SAFETY = 0.9
LEAST_FACTOR, MOST_FACTOR = 0.2, 5.0
SMALLEST_STEP = 1e-7


class AdaptiveRungeKutta(InitialSolver):
    """Integrates the geodesic equation with the steps that the tolerance allows; six evaluations a step, one at first.

    Three times as many in a geometry that asks for the curvature of the log-density.

    Args:
        tolerance: the error of one step, in its point and its velocity, as a share of the length of the path; in
            float32 it should not be below 1e-6.
        max_evaluations: score evaluations that a pair may cost.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, *, tolerance: float = 1e-5, max_evaluations: int = 4000) -> None:
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1; received {tolerance}.")
        if max_evaluations < 1:
            raise ValueError(f"max_evaluations must be at least 1; received {max_evaluations}.")
        self.tolerance, self.max_evaluations = tolerance, max_evaluations

    def solve(self, problem: InitialProblem) -> Solution:
        """Integrate all pairs together; see `InitialSolver.solve`."""
        run = _Integration(self, problem)
        while run.open:
            run.advance()
        return run.solution()


@dataclass
class _Front:
    """Where the open pairs are, how wide their next step is to be, and the error that it may have."""

    pairs: Int[Tensor, " a"]
    u: Float[Tensor, " a"]
    h: Float[Tensor, " a"]
    x: Float[Tensor, "a d"]
    v: Float[Tensor, "a d"]
    size: Float[Tensor, " a"]
    acceleration: Float[Tensor, "a d"]
    log_density: Float[Tensor, " a"]
    rate: Float[Tensor, " a"]
    tolerance: Float[Tensor, " a"]
    rejected: Bool[Tensor, " a"]

    def restrict(self, rows: Int[Tensor, " m"]) -> "_Front":
        return _Front(**{entry.name: getattr(self, entry.name)[rows] for entry in fields(self)})


class _Integration:
    """The integration of all pairs."""

    def __init__(self, solver: AdaptiveRungeKutta, problem: InitialProblem) -> None:
        self._problem, self._tolerance, self._budget = problem, solver.tolerance, solver.max_evaluations
        self._all_field = guarded(problem.field)
        velocity, moves = launch(problem)
        self._course = Course(problem, moves)
        pairs = self._course.open_pairs()
        x, v = problem.x0[pairs], velocity[pairs]
        start = torch.zeros(len(pairs), dtype=torch.float64, device=x.device)
        self._front = _Front(
            pairs=pairs,
            u=start,
            h=start,
            x=x,
            v=v,
            size=norm(v),
            acceleration=v,
            log_density=norm(v) * 0,
            rate=norm(v) * 0,
            tolerance=torch.full_like(start, self._tolerance),
            rejected=start.bool(),
        )
        self._restrict(torch.arange(len(pairs), device=x.device))
        self._error = score_error(problem.geometry, self._field, x, start.to(x))
        if self.open:
            self._begin()

    @property
    def open(self) -> bool:
        """Whether any pair is still on its way."""
        return bool(len(self._front.pairs))

    def solution(self) -> Solution:
        """The paths as far as they got."""
        return self._course.solution()

    def advance(self) -> None:
        """Try one step of every open pair."""
        cost = 6 * probes(self._problem.geometry)
        self._drop(self._course.evaluations[self._front.pairs] + cost > self._budget, Status.STOPPED_SHORT)
        if not self.open:
            return
        front = self._front
        front.h = torch.minimum(front.h, 1 - front.u)
        h = front.h.to(front.x)[:, None]
        velocities, accelerations, rates = [front.v], [front.acceleration], [front.rate]
        for position, weights in zip(STAGE_POSITIONS[1:], STAGE_WEIGHTS[1:], strict=True):
            x = front.x + h * _combine(weights, velocities)
            v = front.v + h * _combine(weights, accelerations)
            log_density = front.log_density + h[:, 0] * _combine(weights, rates)
            last = len(weights) == len(STAGE_WEIGHTS) - 1
            if last:
                x = self._manifold.project(x)
                v = steer(self._manifold, self._problem.geometry, x, v, front.size)
            acceleration, seen = self._slope(x, v, log_density, front.u + position * front.h)
            velocities.append(v)
            accelerations.append(acceleration)
            rates.append(seen.rate)
        errors = [norm(h * _combine(ERROR_WEIGHTS, parts)) for parts in (velocities, accelerations)]
        error = (torch.maximum(*errors) / front.size).double() / front.tolerance
        finite = torch.isfinite(error) & torch.isfinite(torch.cat([x, v, acceleration], -1)).all(-1)
        self._judge(x, v, acceleration, log_density, seen, error=error, finite=finite)

    def _begin(self) -> None:
        """Evaluate the score at the start, and choose the first step by how fast the path turns there."""
        front = self._front
        acceleration, seen = self._slope(front.x, front.v, front.log_density, front.u)
        score = seen.score
        self._pass(front.u, front.x, front.v, acceleration.nan_to_num(), score.nan_to_num())
        front.acceleration, front.rate = acceleration, seen.rate
        resolution = self._field.resolution(front.x, front.u.to(front.x))
        front.tolerance = resolved_tolerance(
            self._problem, self._tolerance, size=front.size, score=score, resolution=resolution
        )
        self._course.resolve(front.pairs, front.tolerance, resolution)
        turning = (norm(acceleration) / front.size).double()
        front.h = front.tolerance**0.2 / turning.clamp(min=1.0)
        self._drop(~torch.isfinite(acceleration).all(-1), Status.NON_FINITE_SCORE)

    def _judge(
        self,
        x: Float[Tensor, "a d"],
        v: Float[Tensor, "a d"],
        acceleration: Float[Tensor, "a d"],
        log_density: Float[Tensor, " a"],
        seen: Look,
        *,
        error: Float[Tensor, " a"],
        finite: Bool[Tensor, " a"],
    ) -> None:
        """Take the steps that meet the tolerance; choose the next width, and end the pairs that are done or stuck."""
        front = self._front
        self._course.step(front.pairs)
        taken = finite & (error <= 1)
        rest = 1 - front.u - front.h
        u = torch.where(rest > SMALLEST_STEP / 2, front.u + front.h, 1.0)
        rows = taken.nonzero().flatten()
        if len(rows):
            self._pass(u[rows], x[rows], v[rows], acceleration[rows], seen.score[rows], rows)
        on = taken[:, None]
        front.x, front.v = torch.where(on, x, front.x), torch.where(on, v, front.v)
        front.acceleration = torch.where(on, acceleration, front.acceleration)
        front.log_density = torch.where(taken, log_density, front.log_density)
        front.rate = torch.where(taken, seen.rate, front.rate)
        front.u = torch.where(taken, u, front.u)
        most = torch.where(front.rejected, 1.0, MOST_FACTOR)
        factor = (SAFETY * error.clamp(min=1e-10) ** -0.2).clamp(min=LEAST_FACTOR)
        front.h = front.h * torch.where(finite, torch.minimum(factor, most), LEAST_FACTOR)
        front.rejected = ~taken
        stuck = ~taken & (front.h < SMALLEST_STEP)
        going = ((front.u < 1) & ~stuck).nonzero().flatten()
        if len(going) == len(front.pairs):
            return
        for ended, status in (
            (front.u == 1, Status.INTEGRATED),
            (stuck & finite, Status.STEP_TOO_SMALL),
            (stuck & ~finite, Status.NON_FINITE_SCORE),
        ):
            self._course.close(front.pairs[ended], status)
        self._restrict(going)

    def _slope(
        self, x: Float[Tensor, "a d"], v: Float[Tensor, "a d"], log_density: Float[Tensor, " a"], u: Float[Tensor, " a"]
    ) -> tuple[Float[Tensor, "a d"], Look]:
        """The acceleration of the geodesic equation, and what the field says."""
        geometry = self._problem.geometry
        seen = look(geometry, self._manifold, self._field, x, v, u.to(x), error=self._error)
        self._course.call(self._front.pairs, probes(geometry))
        acceleration = bend(
            self._manifold, geometry, x, v, seen.score, curvature=seen.curvature, log_density=log_density
        )
        return acceleration, seen

    def _pass(
        self,
        u: Float[Tensor, " m"],
        x: Float[Tensor, "m d"],
        v: Float[Tensor, "m d"],
        acceleration: Float[Tensor, "m d"],
        score: Float[Tensor, "m d"],
        rows: Int[Tensor, " m"] | slice = slice(None),
    ) -> None:
        knots = Knots(
            u=u[:, None], x=x[:, None], v=v[:, None], acceleration=acceleration[:, None], score=score[:, None]
        )
        self._course.pass_knots(self._front.pairs[rows], knots)

    def _drop(self, ended: Bool[Tensor, " a"], status: Status) -> None:
        """End some pairs where they are."""
        going = (~ended).nonzero().flatten()
        if len(going) < len(self._front.pairs):
            self._course.close(self._front.pairs[ended], status)
            self._restrict(going)

    def _restrict(self, rows: Int[Tensor, " m"]) -> None:
        """Go on with some of the open pairs."""
        self._front = self._front.restrict(rows)
        self._manifold = self._problem.manifold.restrict(self._front.pairs)
        self._field = self._all_field.restrict(self._front.pairs)


def _combine(weights: tuple[float, ...], parts: list[Tensor]) -> Tensor:
    """The sum of `parts`, weighted."""
    total = torch.zeros_like(parts[0])
    for weight, part in zip(weights, parts, strict=True):
        total = total + weight * part
    return total
