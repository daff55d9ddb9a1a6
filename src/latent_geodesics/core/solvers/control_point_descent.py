r"""The published boundary solver: gradient descent on the control points of a path that is refined by bisection.

The gradient at a control point with velocity v and acceleration a is `G = -(P_v s + P_v a / (alpha |v|^2))`, that of
the length divided by the positive number `alpha p^-alpha |v|`. At level L there are `2^L - 1` control points at dyadic
positions; levels advance after every 100 iterations, or at once by the skip rule.

References:
    Yu et al., Probability Density Geodesics in Image Diffusion Latent Space (2025), arXiv 2504.06675, and the code
    published with it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.fields import Resolution
from latent_geodesics.core.geometries import Conformal
from latent_geodesics.core.geometry import norm, normal_to, score_along
from latent_geodesics.core.records import Batched, BoundaryProblem, Solution, Status
from latent_geodesics.core.solvers.antipodal import shortest_start
from latent_geodesics.core.solvers.base import BoundarySolver
from latent_geodesics.core.solvers.control_points import ControlPointPath
from latent_geodesics.core.solvers.solve_record import SolveRecord


class ControlPointDescent(BoundarySolver):
    """The published algorithm with the published settings as defaults; it costs 2,600 evaluations a pair.

    It also runs in flat space, where great circles become straight lines. The published noise in the score is a
    matter of the field. It knows the geometry of `p^alpha` alone: the published gradient is that of this length divided
    by `alpha p^-alpha |v|`, and its skip rule compares the two terms of it, so neither means anything in another one.

    Args:
        levels: how many levels; the last has `2^levels - 1` control points.
        level_iterations: iterations after which the next level begins, counted from the start of the run.
        iterations: the number of iterations to which the rate decays.
        learning_rate: the step along the negative gradient at the first iteration.
        linear_decay: whether the rate falls to zero linearly over `iterations`.
        rate_over_points: whether the rate is divided by the number of control points. As published, although the
            gradients of the points do not depend on their number; the last level moves a hundredth as far as the first.
        skip_rule: whether a level ends, without a step, as soon as the mean norm of the score term is below that of
            the curvature term. As published, without being mentioned in the paper; at a geodesic the two are equal, so
            the rule ends a level when it is about to converge, and the run at the last level.
        only_new_points: whether a level moves only the control points that it adds.
        tolerance: a pair whose last residual is below this share of the mean of `alpha |s|` is called converged, if
            it has reached the last level. It does not end the iteration; a residual that is below what the scores
            resolve does, on the last level.
        max_evaluations: score evaluations that a pair may cost; no limit if not given.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        *,
        levels: int = 4,
        level_iterations: int = 100,
        iterations: int = 400,
        learning_rate: float = 0.1,
        linear_decay: bool = True,
        rate_over_points: bool = True,
        skip_rule: bool = True,
        only_new_points: bool = False,
        tolerance: float = 1e-5,
        max_evaluations: int | None = None,
    ) -> None:
        counts = {"levels": levels, "level_iterations": level_iterations, "iterations": iterations}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1; received {count}.")
        if not learning_rate > 0 or not tolerance > 0:
            raise ValueError(f"learning_rate and tolerance must be positive; received {learning_rate} and {tolerance}.")
        if max_evaluations is not None and max_evaluations < 1:
            raise ValueError(f"max_evaluations must be at least 1; received {max_evaluations}.")
        self.levels, self.level_iterations, self.iterations = levels, level_iterations, iterations
        self.learning_rate, self.linear_decay = learning_rate, linear_decay
        self.rate_over_points, self.skip_rule, self.only_new_points = rate_over_points, skip_rule, only_new_points
        self.tolerance, self.max_evaluations = tolerance, max_evaluations

    def solve(self, problem: BoundaryProblem) -> Solution:
        """Descend for all pairs; those at the same level share a score call. See `BoundarySolver.solve`.

        Raises:
            UserError: if the geometry of the problem is not that of `p^alpha`.
        """
        if not isinstance(problem.geometry, Conformal):
            raise UserError(
                f"the published descent knows the geometry Conformal alone, received {problem.geometry!r}; solve with "
                "PicardAnderson."
            )
        record = SolveRecord(problem, budget=self.max_evaluations, tolerance=self.tolerance)
        descent = _Descent(self, problem, record)
        for iteration in range(self.iterations):
            pairs = record.open_pairs()
            if not len(pairs):
                break
            levels = descent.level[pairs]
            for level in sorted(set(levels.tolist())):
                descent.iterate(pairs[levels == level], level, iteration)
        descent.end(record.open_pairs())
        return record.solution(descent.path)

    def rate(self, iteration: int, points: int) -> float:
        """The step length at an iteration, counted from zero, for a level with that many control points."""
        decay = 1 - iteration / self.iterations if self.linear_decay else 1.0
        return self.learning_rate * decay / (points if self.rate_over_points else 1)


class _Descent:
    """The paths of all pairs, kept on the grid of the last level: a coarser one has points inserted on its curves.

    Numbers and levels of pairs are on the CPU; an iteration reads from the device once.
    """

    def __init__(self, solver: ControlPointDescent, problem: BoundaryProblem, record: SolveRecord) -> None:
        self._solver, self._problem, self._record = solver, problem, record
        self._intervals = 2**solver.levels
        base = shortest_start(problem, record)
        points = base.point(torch.linspace(0, 1, self._intervals + 1, dtype=torch.float64))
        # Two knots: the natural cubic spline through them is straight.
        self.path = ControlPointPath(points=points, manifold=problem.manifold, bends=torch.zeros_like(points))
        self._last_finite = self.path.points.clone(), self.path.bends.clone()
        self.level = torch.ones_like(record.evaluations)
        self._relative = torch.full_like(record.residual, torch.inf)
        self._field = problem.field
        self._measure()

    def iterate(self, pairs: Int[Tensor, " a"], level: int, iteration: int) -> None:
        """One iteration of pairs that are all at the same level."""
        count = 2**level - 1
        affordable = self._record.affords(pairs, count)
        self.end(pairs[~affordable])
        pairs = pairs[affordable]
        if not len(pairs):
            return
        seen, said = self._look(pairs, level)
        finite = said["finite"] > 0
        if not bool(finite.all()):
            self._give_up(pairs[~finite])
            pairs, seen = pairs[finite], seen.restrict(finite.nonzero().flatten())
            said = {name: values[finite] for name, values in said.items()}
        if not len(pairs):
            return
        skipped = (said["curvature_outweighs"] > 0) & self._solver.skip_rule
        rate = self._solver.rate(iteration, count)
        self._note(pairs, said, torch.where(skipped, 0.0, rate))
        self._move(pairs, seen, skipped, rate)
        due = skipped | (iteration + 1 >= self._solver.level_iterations * level)
        self.level[pairs[due]] += 1
        # Below what the scores resolve a step would follow their rounding.
        resolved = (level == self._solver.levels) & (self._relative[pairs] <= self._record.tolerance[pairs])
        over = self.level[pairs] > self._solver.levels
        self.end(pairs[over | (resolved & (self._record.resolution is not None))])

    def end(self, pairs: Int[Tensor, " a"]) -> None:
        """Close pairs with a status that says whether they got there."""
        relative = self._relative[pairs]
        arrived = self.level[pairs] >= self._solver.levels
        converged = arrived & (relative <= self._solver.tolerance)
        resolved = arrived & ~converged & (relative <= self._record.tolerance[pairs])
        self._record.close(pairs[converged], Status.CONVERGED)
        self._record.close(pairs[resolved], Status.RESOLVED)
        self._record.close(pairs[~converged & ~resolved], Status.BUDGET_EXHAUSTED)

    def _measure(self) -> None:
        """Ask the field in force how well it resolves its scores, at the ends of the paths."""
        x = torch.stack([self._problem.x0, self._problem.x1], 1)
        self._record.resolution = self._field.resolution(x, torch.tensor([0.0, 1.0]).to(x).expand(x.shape[:-1]))

    def _give_up(self, pairs: Int[Tensor, " a"]) -> None:
        """Put back the last path on which the score was finite."""
        there = pairs.to(self.path.points.device)
        self.path.points[there], self.path.bends[there] = (part[there] for part in self._last_finite)
        self._record.close(pairs, Status.NON_FINITE_SCORE)

    def _look(self, pairs: Int[Tensor, " a"], level: int) -> tuple["_Gradient", dict[str, Tensor]]:
        """The two terms of the gradient at the control points of a level, and what the iteration decides by."""
        seen = self._sight(pairs, level)
        said = seen.read(self._problem.alpha, self._record.resolution)
        finer = self._field.finer() if bool((said["finite"] == 0).any()) else None
        if finer is None:
            return seen, said
        # A lower precision overflowed: all pairs go on in the higher one.
        self._field = finer
        self._measure()
        return self._look(pairs, level)

    def _sight(self, pairs: Int[Tensor, " a"], level: int) -> "_Gradient":
        path = self.path.restrict(pairs)
        u = torch.linspace(0, 1, 2**level + 1, dtype=torch.float64)[1:-1]
        x, v = path.point(u), path.velocity(u)
        score = score_along(self._field.restrict(pairs), x, u)
        self._record.spend(pairs, len(u))
        pull = path.manifold.tangent(x, score)
        bend = path.manifold.tangent(x, path.acceleration(u)) / v.square().sum(-1, keepdim=True)
        return _Gradient(
            u=u,
            x=x,
            v=v,
            score=score,
            strength=norm(pull).mean(-1),
            pull=normal_to(v, pull),
            bend=normal_to(v, bend) / self._problem.alpha,
        )

    def _move(self, pairs: Int[Tensor, " a"], seen: "_Gradient", skipped: Bool[Tensor, " a"], rate: float) -> None:
        """Step down the gradient and fit the path anew."""
        if bool(skipped.all()):
            return
        if bool(skipped.any()):
            moving = (~skipped).nonzero().flatten()
            pairs, seen = pairs[moving], seen.restrict(moving)
        there = pairs.to(seen.x.device)
        step = rate * (seen.pull + seen.bend)
        if self._solver.only_new_points:
            step[:, 1::2] = 0
        manifold = self.path.manifold.restrict(pairs)
        ends = self._problem.x0[there][:, None], self._problem.x1[there][:, None]
        points = torch.cat([ends[0], manifold.project(seen.x + step), ends[1]], 1)
        fitted = ControlPointPath(points=points, manifold=manifold).refine(self._intervals)
        for last, own in zip(self._last_finite, (self.path.points, self.path.bends), strict=True):
            last[there] = own[there]
        self.path.points[there], self.path.bends[there] = fitted.points, fitted.bends

    def _note(self, pairs: Int[Tensor, " a"], said: dict[str, Tensor], rate: Float[Tensor, " a"]) -> None:
        self._relative[pairs] = (said["residual"] / said["pull"]).to(self._relative)
        self._record.note(
            pairs,
            residual=said["residual"],
            length=said["length"],
            step=rate,
            alpha=torch.full_like(rate, self._problem.alpha),
            tolerance=said["floor"].clamp(min=self._solver.tolerance),
        )


@dataclass(frozen=True)
class _Gradient(Batched):
    """The control points of a level with the two terms of the gradient there; `strength` is the mean of `|P_x s|`."""

    shared = ("u",)

    u: Float[Tensor, " n"]
    x: Float[Tensor, "a n d"]
    v: Float[Tensor, "a n d"]
    score: Float[Tensor, "a n d"]
    strength: Float[Tensor, " a"]
    pull: Float[Tensor, "a n d"]
    bend: Float[Tensor, "a n d"]

    def read(self, alpha: float, resolution: Resolution | None) -> dict[str, Tensor]:
        """A few numbers of each pair, brought to the CPU by one copy."""
        size = norm(self.score).mean(-1)
        floor = torch.zeros_like(size) if resolution is None else resolution.floor(size, self.strength)
        numbers = {
            "finite": torch.isfinite(self.score).flatten(1).all(1),
            "curvature_outweighs": norm(self.pull).mean(-1) < norm(self.bend).mean(-1),
            "residual": alpha * norm(self.pull + self.bend).mean(-1),
            "pull": alpha * self.strength,
            "floor": floor,
            "length": self._length(alpha),
        }
        table = torch.stack([values.double() for values in numbers.values()]).cpu()
        return dict(zip(numbers, table, strict=True))

    def _length(self, alpha: float) -> Float[Tensor, " a"]:
        """`int p~^-alpha |g'| du` by the trapezoidal rule, the first and last rates holding up to the ends."""
        rate = torch.nn.functional.pad((self.v * self.score).sum(-1), (1, 1), mode="replicate")
        speed = torch.nn.functional.pad(norm(self.v), (1, 1), mode="replicate")
        width = 1 / (len(self.u) + 1)
        steps = (rate[:, 1:] + rate[:, :-1]) / 2 * width
        log_density = torch.nn.functional.pad(steps.cumsum(-1), (1, 0))
        return torch.trapezoid((-alpha * log_density.double()).exp() * speed, dx=width, dim=-1).to(speed)
