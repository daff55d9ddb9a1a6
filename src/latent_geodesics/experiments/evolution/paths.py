r"""How a path evolves while a boundary solver works on it, for any solver, without a change to it.

Every score call of a solver along a whole path shows its iterate (`RecordedField`); the path is rebuilt from those
points in the form that the solver itself gives its result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.fields import RecordedField, ScoreField
from latent_geodesics.core.geometries import Geometry
from latent_geodesics.core.manifold import Manifold
from latent_geodesics.core.path import KnotPath, Path
from latent_geodesics.core.records import BoundaryProblem, Solution
from latent_geodesics.core.solvers import BoundarySolver, ControlPointPath
from latent_geodesics.metrics import PathCurves, path_curves


@dataclass(frozen=True, kw_only=True)
class Iterate:
    """A path on the way to a solution, and the score evaluations that it took to judge it."""

    evaluations: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class WatchedCourse:
    """Everything that a solver tried for one pair, in order; the last is what it gave."""

    solution: Solution
    iterates: tuple[Iterate, ...]


@dataclass(frozen=True, kw_only=True)
class PathStage:
    """An iterate, measured; the two ends do not count for the least and the mean.

    Attributes:
        evaluations: score evaluations spent by the solver so far.
        u: positions.
        points: the path there, [n d].
        log_density: log p(g(u)) - log p(g(0)), in nats.
        length: relative to the density at the start.
        residual: mean norm of the geodesic gradient, in 1/[x].
        log_density_min: the least log-density.
        log_density_mean: the mean log-density.
        closure: log-density at the end less that along the straight line, on a sphere the great circle; in nats.
    """

    evaluations: int
    u: np.ndarray
    points: np.ndarray
    log_density: np.ndarray
    length: float
    residual: float
    log_density_min: float
    log_density_mean: float
    closure: float = float("nan")


def watch(solver: BoundarySolver, problem: BoundaryProblem) -> WatchedCourse:
    """Solves a problem of one pair and keeps every path on the way.

    Raises:
        ValueError: if the problem has more than one pair.
    """
    if len(problem.x0) != 1:
        raise ValueError(f"one pair is watched at a time; received {len(problem.x0)}; restrict the problem.")
    field = RecordedField(problem.field)
    solution = solver.solve(
        BoundaryProblem(field=field, manifold=problem.manifold, x0=problem.x0, x1=problem.x1, geometry=problem.geometry)
    )
    iterates = [
        Iterate(evaluations=query.evaluations, path=_rebuilt(query.u, query.x, problem, like=solution.path))
        for query in field.whole_paths()
    ]
    last = Iterate(evaluations=int(solution.stats["evaluations"][0]), path=solution.path)
    return WatchedCourse(solution=solution, iterates=(*iterates, last))


def _rebuilt(u: Float[Tensor, "1 n"], x: Float[Tensor, "1 n d"], problem: BoundaryProblem, *, like: Path) -> Path:
    """The path through the points of a query and both ends."""
    knots = torch.cat([problem.x0[:, None], x, problem.x1[:, None]], 1)
    if isinstance(like, ControlPointPath):
        return ControlPointPath(points=knots, manifold=problem.manifold)
    nodes = torch.nn.functional.pad(u[0].double().cpu(), (1, 0))
    return KnotPath.through(
        knots=knots, manifold=problem.manifold, nodes=torch.nn.functional.pad(nodes, (0, 1), value=1)
    )


def select(iterates: Sequence[Iterate], count: int) -> list[Iterate]:
    """At most `count` of the iterates, evenly spread over the logarithm of what they cost, first and last included."""
    costs = np.array([max(1, iterate.evaluations) for iterate in iterates], dtype=float)
    wanted = np.geomspace(costs[0], costs[-1], count)
    chosen = {int(np.abs(np.log(costs / target)).argmin()) for target in wanted} | {0}
    # Several iterates may have cost the same as the last, which is the solution.
    chosen = {index for index in chosen if costs[index] < costs[-1]} | {len(iterates) - 1}
    return [iterates[index] for index in sorted(chosen)]


def measure(
    iterate: Iterate,
    field: ScoreField,
    manifold: Manifold,
    alpha: float | Geometry,
    *,
    positions: int,
    reference: PathCurves | None = None,
) -> PathStage:
    """Measures an iterate at evenly spaced positions, by the same definition for every solver.

    Costs one evaluation of the score at each position, which is not the solver's. Without a `reference` between the
    same ends it is not known how well the score closes.
    """
    curves = path_curves(iterate.path, field, manifold, alpha, positions=positions, reference=reference)
    log_density = _numbers(curves.log_density[0])
    return PathStage(
        evaluations=iterate.evaluations,
        u=_numbers(curves.u),
        points=_numbers(iterate.path.point(curves.u)[0]),
        log_density=log_density,
        length=float(curves.length[0]),
        residual=float(curves.residual[0, 1:-1].mean()),
        log_density_min=float(log_density[1:-1].min()),
        log_density_mean=float(log_density[1:-1].mean()),
        closure=float(curves.closure[0].abs()),
    )


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
