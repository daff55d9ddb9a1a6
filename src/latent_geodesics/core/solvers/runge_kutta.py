r"""The initial problem by explicit Runge-Kutta methods: the classical one of the paper, and one with error control.

Each pair of the batch takes steps of its own, so its result does not depend on the others; one score call serves a
stage of all of them. The last stage of a step is evaluated at the new knot, after its projection on the manifold, and
is the first stage of the next one. With the stages `k_i` of a step of width `h`, the pair of Dormand and Prince goes on
by its method of order five; the difference to that of order four, `h sum_i e_i k_i`, measures its error. Between knots
a path is the quintic of their points, velocities and accelerations.

References:
    Yu et al., Probability Density Geodesics in Image Diffusion Latent Space (2025), arXiv 2504.06675, and the code
    published with it; Dormand and Prince, A family of embedded Runge-Kutta formulae (1980), the table RK5(4)7M; Hairer,
    Norsett and Wanner, Solving Ordinary Differential Equations I (1993), sections II.4 and II.5.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.integrate import RK45
from torch import Tensor

from latent_geodesics.core.fields import guarded
from latent_geodesics.core.manifold import norm
from latent_geodesics.core.records import Batched, InitialProblem, Solution, Status
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
from latent_geodesics.core.solvers.trajectory import Knots, Trajectory

SAFETY = 0.9
LEAST_FACTOR, MOST_FACTOR = 0.2, 5.0
SMALLEST_STEP = 1e-7


@dataclass(frozen=True)
class _Tableau:
    """The coefficients of a method, of which the last stage is the next knot.

    Attributes:
        positions: where in a step each stage is evaluated.
        stages: the weights of the stages before it, for each.
        errors: the weights of all stages in the error; none without an estimate.
    """

    positions: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    errors: tuple[float, ...] = ()

    @property
    def cost(self) -> int:
        """Evaluations of a step."""
        return len(self.stages) - 1


_CLASSICAL = _Tableau(
    (0.0, 0.5, 0.5, 1.0, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
)
_DORMAND_PRINCE = _Tableau(
    (*RK45.C.tolist(), 1.0),
    (*(tuple(row[:stage].tolist()) for stage, row in enumerate(RK45.A)), tuple(RK45.B.tolist())),
    tuple(RK45.E.tolist()),
)


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
        return _Integration(problem, _CLASSICAL, steps=self.steps, normal_term=self.normal_term).run()


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
        return _Integration(problem, _DORMAND_PRINCE, tolerance=self.tolerance, budget=self.max_evaluations).run()


@dataclass
class _Front(Batched):
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


class _Integration:
    """The integration of all pairs."""

    def __init__(
        self,
        problem: InitialProblem,
        tableau: _Tableau,
        *,
        tolerance: float = 0.0,
        budget: int | None = None,
        steps: int | None = None,
        normal_term: bool = True,
    ) -> None:
        """Steps of an error below the tolerance, or so many of equal width."""
        self._problem, self._tableau, self._tolerance, self._budget = problem, tableau, tolerance, budget
        self._steps, self._normal_term = steps, normal_term
        self._all_field = guarded(problem.field)
        velocity, moves = launch(problem)
        self._trajectory = Trajectory(problem, moves)
        pairs = self._trajectory.open_pairs()
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
        if len(pairs):
            self._begin()

    def run(self) -> Solution:
        """The paths as far as they get."""
        while len(self._front.pairs):
            self.advance()
        return self._trajectory.solution()

    def advance(self) -> None:
        """Try one step of every open pair."""
        if self._budget is not None:
            cost = self._tableau.cost * probes(self._problem.geometry)
            self._drop(self._trajectory.evaluations[self._front.pairs] + cost > self._budget, Status.STOPPED_SHORT)
            if not len(self._front.pairs):
                return
        front = self._front
        front.h = torch.minimum(front.h, 1 - front.u)
        h = front.h.to(front.x)[:, None]
        velocities, accelerations, rates = [front.v], [front.acceleration], [front.rate]
        for position, weights in zip(self._tableau.positions[1:], self._tableau.stages[1:], strict=True):
            x = front.x + h * _combine(weights, velocities)
            v = front.v + h * _combine(weights, accelerations)
            log_density = front.log_density + h[:, 0] * _combine(weights, rates)
            if len(weights) == self._tableau.cost:
                x = self._manifold.project(x)
                v = steer(self._manifold, self._problem.geometry, x, v, front.size)
            acceleration, seen = self._slope(x, v, log_density, front.u + position * front.h)
            velocities.append(v)
            accelerations.append(acceleration)
            rates.append(seen.rate)
        error = torch.zeros_like(front.u)
        if self._tableau.errors:
            errors = [norm(h * _combine(self._tableau.errors, parts)) for parts in (velocities, accelerations)]
            error = (torch.maximum(*errors) / front.size).double() / front.tolerance
        finite = torch.isfinite(error) & torch.isfinite(torch.cat([x, v, acceleration, seen.score], -1)).all(-1)
        self._judge(x, v, acceleration, log_density, seen, error=error, finite=finite)

    def _begin(self) -> None:
        """Evaluate the score at the start, and choose the first step by how fast the path turns there."""
        front = self._front
        acceleration, seen = self._slope(front.x, front.v, front.log_density, front.u)
        score = seen.score
        # A pair without a score at its start stays there, at constant speed: it is given the knot all the same.
        self._pass(front.u, front.x, front.v, acceleration.nan_to_num(), score.nan_to_num())
        front.acceleration, front.rate = acceleration, seen.rate
        if self._steps is not None:
            front.h = torch.full_like(front.u, 1 / self._steps)
            self._drop(~torch.isfinite(score).all(-1), Status.NON_FINITE_SCORE)
            return
        resolution = self._field.resolution(front.x, front.u.to(front.x))
        front.tolerance = resolved_tolerance(
            self._problem, self._tolerance, size=front.size, score=score, resolution=resolution
        )
        self._trajectory.resolve(front.pairs, front.tolerance, resolution)
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
        self._trajectory.step(front.pairs)
        taken = finite & (error <= 1)
        rest = 1 - front.u - front.h
        u = torch.where(rest > SMALLEST_STEP / 2, front.u + front.h, 1.0)
        u = u if self._steps is None else (u * self._steps).round() / self._steps
        rows = taken.nonzero().flatten()
        if len(rows):
            self._pass(u[rows], x[rows], v[rows], acceleration[rows], seen.score[rows], rows)
        on = taken[:, None]
        front.x, front.v = torch.where(on, x, front.x), torch.where(on, v, front.v)
        front.acceleration = torch.where(on, acceleration, front.acceleration)
        front.log_density = torch.where(taken, log_density, front.log_density)
        front.rate = torch.where(taken, seen.rate, front.rate)
        front.u = torch.where(taken, u, front.u)
        if self._steps is None:
            most = torch.where(front.rejected, 1.0, MOST_FACTOR)
            factor = (SAFETY * error.clamp(min=1e-10) ** -0.2).clamp(min=LEAST_FACTOR)
            front.h = front.h * torch.where(finite, torch.minimum(factor, most), LEAST_FACTOR)
        front.rejected = ~taken
        stuck = ~taken & ((front.h < SMALLEST_STEP) | (self._steps is not None))
        going = ((front.u < 1) & ~stuck).nonzero().flatten()
        if len(going) == len(front.pairs):
            return
        for ended, status in (
            (front.u == 1, Status.INTEGRATED),
            (stuck & finite, Status.STEP_TOO_SMALL),
            (stuck & ~finite, Status.NON_FINITE_SCORE),
        ):
            self._trajectory.close(front.pairs[ended], status)
        self._restrict(going)

    def _slope(
        self, x: Float[Tensor, "a d"], v: Float[Tensor, "a d"], log_density: Float[Tensor, " a"], u: Float[Tensor, " a"]
    ) -> tuple[Float[Tensor, "a d"], Look]:
        """The acceleration of the geodesic equation, and what the field says."""
        geometry = self._problem.geometry
        seen = look(geometry, self._manifold, self._field, x, v, u.to(x), error=self._error)
        self._trajectory.call(self._front.pairs, probes(geometry))
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
        self._trajectory.pass_knots(self._front.pairs[rows], knots)

    def _drop(self, ended: Bool[Tensor, " a"], status: Status) -> None:
        """End some pairs where they are."""
        going = (~ended).nonzero().flatten()
        if len(going) < len(self._front.pairs):
            self._trajectory.close(self._front.pairs[ended], status)
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
