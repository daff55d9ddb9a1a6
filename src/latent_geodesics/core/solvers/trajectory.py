r"""What an integration keeps: the knots that each pair has passed, what they cost, and how the pair ended."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.fields import Resolution
from latent_geodesics.core.geometries import Sight
from latent_geodesics.core.hermite import HermitePath
from latent_geodesics.core.manifold import norm, normal_to
from latent_geodesics.core.records import InitialProblem, Solution, Status, Trace


@dataclass(frozen=True, kw_only=True)
class Knots:
    """Where paths are at some positions, and what the score is there; a row a pair, a column a position.

    Attributes:
        u: positions.
        x: points.
        v: velocities.
        acceleration: accelerations.
        score: scores.
    """

    u: Float[Tensor, "a n"]
    x: Float[Tensor, "a n d"]
    v: Float[Tensor, "a n d"]
    acceleration: Float[Tensor, "a n d"]
    score: Float[Tensor, "a n d"]


class Trajectory:
    """Keeps the knots of all pairs, each pair at positions of its own, and makes the solution of them.

    Args:
        problem: the initial problem.
        moves: which pairs have a velocity to follow; the others are closed from the start.
    """

    def __init__(self, problem: InitialProblem, moves: Bool[Tensor, " p"]) -> None:
        self._problem = problem
        self.evaluations = torch.zeros(len(moves), dtype=torch.long, device=moves.device)
        self.sequential, self.iterations = self.evaluations.clone(), self.evaluations.clone()
        self._passed = self.evaluations.clone()
        self._entries: list[_Entry] = []
        self._tolerance: Tensor | None = None
        self._resolution: Resolution | None = None
        self._status: list[Status | None] = [None if ok else Status.ZERO_VELOCITY for ok in moves.tolist()]

    def open_pairs(self) -> Int[Tensor, " a"]:
        """The pairs that have not ended yet."""
        still = [pair for pair, status in enumerate(self._status) if status is None]
        return torch.tensor(still, dtype=torch.long, device=self.evaluations.device)

    def resolve(self, pairs: Int[Tensor, " a"], tolerance: Float[Tensor, " a"], resolution: Resolution | None) -> None:
        """Keep the tolerance in force for some of the pairs, and the resolution that it follows from."""
        if self._tolerance is None:
            self._tolerance = torch.full_like(self.evaluations, torch.nan, dtype=self._problem.x0.dtype)
        self._tolerance[pairs] = tolerance.to(self._tolerance)
        self._resolution = resolution

    def call(self, pairs: Int[Tensor, " a"], points: int) -> None:
        """Count one call of the score, at `points` points of each of the pairs."""
        self.evaluations[pairs] += points
        self.sequential[pairs] += 1

    def step(self, pairs: Int[Tensor, " a"]) -> None:
        """Count an iteration of the pairs."""
        self.iterations[pairs] += 1

    def pass_knots(self, pairs: Int[Tensor, " a"], knots: Knots) -> None:
        """Add knots behind the last of each of the pairs."""
        columns = self._passed[pairs, None] + torch.arange(knots.u.shape[1], device=pairs.device)
        spent = self.evaluations[pairs, None].expand_as(columns)
        self._entries.append(_Entry(pairs=pairs, columns=columns, spent=spent, knots=knots))
        self._passed[pairs] += knots.u.shape[1]

    def close(self, pairs: Int[Tensor, " a"], status: Status) -> None:
        """End the pairs with a status."""
        for pair in pairs.tolist():
            self._status[pair] = status

    def solution(self) -> Solution:
        """The paths through all knots; a pair without any, or short of the end, stays where it is from there on."""
        self._stand()
        table = self._assemble()
        path = HermitePath(
            knots=table.x,
            velocities=table.v,
            accelerations=table.acceleration,
            manifold=self._problem.manifold,
            nodes=table.u[:1] if bool((table.u == table.u[:1]).all()) else table.u,
        )
        return Solution(
            path=path,
            status=tuple(status or Status.INTEGRATED for status in self._status),
            stats={
                "evaluations": self.evaluations,
                "iterations": self.iterations,
                "residual": self._residual(table),
                "sequential": self.sequential,
                "reached": self._reached.to(self._problem.x0),
            }
            | ({} if self._tolerance is None else {"tolerance": self._tolerance}),
            trace=self._trace(table),
            resolution=self._resolution,
        )

    def _stand(self) -> None:
        """Give the pairs that never moved their start as a knot."""
        pairs = (self._passed == 0).nonzero().flatten()
        x = self._problem.x0[pairs, None]
        still = torch.zeros_like(x)
        u = torch.zeros(len(pairs), 1, dtype=torch.float64, device=x.device)
        self.pass_knots(pairs, Knots(u=u, x=x, v=still, acceleration=still, score=still))

    def _assemble(self) -> Knots:
        """All knots as one table; pairs with fewer repeat their last, standing still if it is not the end."""
        pairs, widest = len(self._passed), int(self._passed.max())
        like = self._problem.x0
        u = torch.zeros(pairs, widest, dtype=torch.float64, device=like.device)
        spent = torch.zeros_like(u, dtype=torch.long)
        parts = [torch.zeros(pairs, widest, like.shape[1], dtype=like.dtype, device=like.device) for _ in range(4)]
        for entry in self._entries:
            at = (entry.pairs[:, None], entry.columns)
            u[at], spent[at] = entry.knots.u, entry.spent
            for part, name in zip(parts, ("x", "v", "acceleration", "score"), strict=True):
                part[at] = getattr(entry.knots, name)
        last = (self._passed - 1)[:, None]
        self._reached = u.gather(1, last)[:, 0]
        short = (self._reached < 1)[:, None]
        # A path that ends early needs two more knots: one where it stops, from which it does not move, and the end.
        column = torch.arange(max(widest + 2 * int(short.any()), 2), device=like.device)
        index = torch.minimum(column, last)
        beyond = column > last
        x, v, acceleration, score = (part.take_along_dim(index[..., None], 1) for part in parts)
        v, acceleration, score = (
            torch.where((beyond & short)[..., None], 0.0, part) for part in (v, acceleration, score)
        )
        u = torch.where(column > last + short.long(), 1.0, u.gather(1, index))
        self._spent = spent.gather(1, index)
        return Knots(u=u, x=x, v=v, acceleration=acceleration, score=score)

    def _residual(self, table: Knots) -> Float[Tensor, " p"]:
        """Mean of `|P_v (w f + g'' / |g'|^2)|` over the inner knots, with differences between knots for `g''`."""
        if table.u.shape[1] < 3:
            return torch.full_like(table.x[:, 0, 0], torch.nan)
        manifold, geometry = self._problem.manifold, self._problem.geometry
        x, v, score, acceleration = (part[:, 1:-1] for part in (table.x, table.v, table.score, table.acceleration))
        second, counts = _second_differences(table)
        pull = manifold.tangent(x, score)
        rate = (table.v * table.score).sum(-1)
        sight = Sight(
            velocity=v,
            pull=pull,
            curvature=_slope(table.u, rate) - (pull * acceleration).sum(-1),
            log_density=_integral(table.u, rate)[:, 1:-1].to(pull),
        )
        weight = geometry.weight(geometry.strength, geometry.gauge(sight))[..., None]
        speed = v.square().sum(-1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
        gradient = weight * geometry.force(sight) + manifold.tangent(x, second / speed)
        size = torch.where(counts, norm(normal_to(v, gradient)), 0.0)
        return size.sum(-1) / counts.sum(-1).clamp(min=1)

    def _trace(self, table: Knots) -> Trace:
        """A row a knot: the length so far, relative to the start point, by the trapezoidal rule."""
        width, geometry = table.u.diff(dim=1), self._problem.geometry
        rate, speed = (table.v * table.score).sum(-1).double(), norm(table.v).double()
        log_density = _integral(table.u, rate)
        cost = geometry.line_element(geometry.strength, speed=speed, rate=rate, log_density=log_density)
        length = ((cost[:, 1:] + cost[:, :-1]) / 2 * width).cumsum(-1).to(table.x).T
        return Trace(
            evaluations=self._spent[:, 1:].T,
            residual=torch.full_like(length, torch.nan),
            length=length,
            step=width.to(length).T,
            alpha=torch.full_like(length, geometry.strength),
        )


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """Knots of some pairs, the columns of the table that they take, and the evaluations spent when they were passed."""

    pairs: Int[Tensor, " a"]
    columns: Int[Tensor, "a n"]
    spent: Int[Tensor, "a n"]
    knots: Knots


def _second_differences(table: Knots) -> tuple[Float[Tensor, "p m d"], Bool[Tensor, "p m"]]:
    """The second derivative at each inner knot of the quintic with the points and velocities of it and its neighbours.

    Also whether there is one: a knot that shares its position with a neighbour has none.
    """
    before, after = table.u[:, 1:-1] - table.u[:, :-2], table.u[:, 2:] - table.u[:, 1:-1]
    distinct = (before > 0) & (after > 0)
    scale = torch.where(distinct, before + after, 1.0)
    t = torch.stack([-before, torch.zeros_like(before), after], -1) / scale[..., None]
    t = torch.where(distinct[..., None], t, torch.tensor([-0.5, 0.0, 0.5]).to(t))
    power = torch.arange(6, device=t.device)
    values = t[..., None] ** power
    slopes = power * t[..., None] ** (power - 1).clamp(min=0)
    wanted = torch.nn.functional.one_hot(power[2], 6).to(t) * 2
    weights = torch.linalg.solve(torch.cat([values, slopes], -2).mT, wanted.expand(*t.shape[:2], 6)[..., None])[..., 0]
    weights = weights / scale[..., None] ** 2
    # The weights of the points sum to zero: differences from the knot itself lose no digits.
    neighbours = [table.x[:, :-2] - table.x[:, 1:-1], table.x[:, 2:] - table.x[:, 1:-1]]
    total = weights[..., 0, None].to(table.x) * neighbours[0] + weights[..., 2, None].to(table.x) * neighbours[1]
    for row, v in enumerate((table.v[:, :-2], table.v[:, 1:-1], table.v[:, 2:])):
        total = total + (weights[..., 3 + row] * scale).to(table.x)[..., None] * v
    return total, distinct


def _integral(u: Float[Tensor, "p n"], rate: Float[Tensor, "p n"]) -> Float[Tensor, "p n"]:
    """The integral of a rate up to each knot, by the trapezoidal rule; float64."""
    steps = (rate[:, 1:] + rate[:, :-1]).double() / 2 * u.diff(dim=1)
    return torch.nn.functional.pad(steps.cumsum(-1), (1, 0))


def _slope(u: Float[Tensor, "p n"], rate: Float[Tensor, "p n"]) -> Float[Tensor, "p m"]:
    """The slope at each inner knot of the parabola through it and its neighbours; zero where two share a position."""
    before, after = u.diff(dim=1)[:, :-1], u.diff(dim=1)[:, 1:]
    distinct = (before > 0) & (after > 0)
    before, after = (torch.where(distinct, width, 1.0).to(rate) for width in (before, after))
    left, right = rate.diff(dim=1)[:, :-1] / before, rate.diff(dim=1)[:, 1:] / after
    return torch.where(distinct, (left * after + right * before) / (before + after), 0.0)
