r"""Windows of paths whose points are solved for together: their state, and the geodesic equation on their nodes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.geometries import Geometry
from latent_geodesics.core.manifold import Manifold, norm
from latent_geodesics.core.records import Batched
from latent_geodesics.core.solvers.initial import bend, steer
from latent_geodesics.core.solvers.radau import RadauRule

SWEEPS = 60


@dataclass(frozen=True, kw_only=True)
class Windows(Batched):
    """The window that each open pair works on, a row a pair; a solver replaces it whole.

    Attributes:
        pairs: which pairs these are.
        start: where the window begins, in [0, 1].
        width: how wide it is.
        x0: the point there.
        v0: the velocity there.
        size: its length at the start of the path, which is that of the whole path at constant Euclidean speed.
        level: the log-density there, relative to the start of the path.
        points: the iterate at the nodes.
        velocities: the velocities that go with it.
        past_points: earlier iterates, newest last; copies of the newest where there are fewer.
        past_scores: the scores there.
        residual: how far the last iteration moved the nodes, as a share of the length of the path.
        iterations: how many the window has had.
    """

    pairs: Int[Tensor, " a"]
    start: Float[Tensor, " a"]
    width: Float[Tensor, " a"]
    x0: Float[Tensor, "a d"]
    v0: Float[Tensor, "a d"]
    size: Float[Tensor, " a"]
    level: Float[Tensor, " a"]
    points: Float[Tensor, "a q d"]
    velocities: Float[Tensor, "a q d"]
    past_points: Float[Tensor, "a m q d"]
    past_scores: Float[Tensor, "a m q d"]
    residual: Float[Tensor, " a"]
    iterations: Int[Tensor, " a"]

    @classmethod
    def whole(
        cls, pairs: Int[Tensor, " a"], x0: Float[Tensor, "a d"], v0: Float[Tensor, "a d"], *, nodes: int, memory: int
    ) -> "Windows":
        """Windows over all of the paths, with no iterate yet."""
        start = torch.zeros(len(pairs), dtype=torch.float64, device=x0.device)
        blank = x0.new_zeros(len(pairs), nodes, x0.shape[1])
        past = x0.new_zeros(len(pairs), memory, nodes, x0.shape[1])
        return cls(
            pairs=pairs,
            start=start,
            width=torch.ones_like(start),
            x0=x0,
            v0=v0,
            size=norm(v0),
            level=torch.zeros_like(norm(v0)),
            points=blank,
            velocities=blank,
            past_points=past,
            past_scores=past,
            residual=torch.full_like(start, torch.inf),
            iterations=torch.zeros_like(pairs),
        )

    def changed(self, rows: Bool[Tensor, " a"], **changes: Tensor) -> "Windows":
        """With other values of some attributes in the rows of the mask."""

        def pick(name: str, new: Tensor) -> Tensor:
            old: Tensor = getattr(self, name)
            return torch.where(rows.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        return replace(self, **{name: pick(name, new) for name, new in changes.items()})

    def remember(self, score: Float[Tensor, "a q d"]) -> tuple[Float[Tensor, "m a q d"], Float[Tensor, "m a q d"]]:
        """All iterates and the scores there, the newest, whose score is given, last."""
        fresh = (self.iterations == 1)[:, None, None, None]
        every = []
        for new, past in ((self.points[:, None], self.past_points), (score[:, None], self.past_scores)):
            every.append(torch.cat([torch.where(fresh, new, past), new], 1).movedim(1, 0))
        return every[0], every[1]

    def distance(self, points: Float[Tensor, "a q d"], velocities: Float[Tensor, "a q d"]) -> Float[Tensor, " a"]:
        """How far other values are from the iterate at the worst node, as a share of the length of the path."""
        apart = torch.maximum(norm(points - self.points), norm(velocities - self.velocities))
        return (apart.amax(-1) / self.size).double()


@dataclass(frozen=True, kw_only=True)
class Relaxed:
    """The solution of the equation for a given model of the score, and in which windows the sweeps settled."""

    points: Float[Tensor, "a q d"]
    velocities: Float[Tensor, "a q d"]
    acceleration: Float[Tensor, "a q d"]
    settled: Bool[Tensor, " a"]


@dataclass(frozen=True, kw_only=True)
class WindowEquation:
    """The geodesic equation at the Radau nodes of windows.

    Attributes:
        manifold: the space of the paths, as the rows of the windows see it.
        geometry: whose geodesics.
        rule: the nodes.
    """

    manifold: Manifold
    geometry: Geometry
    rule: RadauRule

    def positions(self, windows: Windows) -> Float[Tensor, "a q"]:
        """Where the nodes are, in [0, 1]."""
        return windows.start[:, None] + windows.width[:, None] * self.rule.nodes.to(windows.width)

    def ahead(self, windows: Windows) -> Float[Tensor, "a q 1"]:
        """How far the nodes are from the start of their window."""
        return (windows.width[:, None] * self.rule.nodes.to(windows.width)).to(windows.x0)[..., None]

    def shortest(self, windows: Windows) -> Windows:
        """With the shortest path from the start of each window as iterate."""
        x0, v0 = (part[:, None].expand_as(windows.points) for part in (windows.x0, windows.v0))
        points = self.manifold.exp(x0, self.ahead(windows) * v0)
        velocities = self._steer(points, self.manifold.transport(x0, points, v0), windows.size)
        return replace(windows, points=points, velocities=velocities)

    def resampled(self, windows: Windows, share: Float[Tensor, " a"]) -> Windows:
        """With the iterate that the polynomial through the nodes has on a share of each window."""
        matrix = self.rule.resample(share).to(windows.points)
        points = self.manifold.project(matrix @ windows.points)
        return replace(
            windows,
            width=windows.width * share,
            points=points,
            velocities=self._steer(points, matrix @ windows.velocities, windows.size),
        )

    def relax(
        self, windows: Windows, score: Callable[[Float[Tensor, "a q d"]], Float[Tensor, "a q d"]], enough: float
    ) -> Relaxed:
        """Solve the equation for a model of the score, by sweeps from the iterate; evaluates the field nowhere.

        Args:
            windows: the windows.
            score: the model.
            enough: the change, as a share of the length of the path, at which a sweep was the last.
        """
        x, v, width = windows.points, windows.velocities, windows.width.to(windows.points)[:, None, None]
        integral = width * self.rule.integral.to(x)
        rounding = 16 * torch.finfo(x.dtype).eps * (norm(windows.x0) / windows.size).clamp(min=1.0)
        enough_here = rounding.double().clamp(min=enough)
        settled = torch.zeros_like(enough_here, dtype=torch.bool)
        for _ in range(SWEEPS):
            acceleration = self.acceleration(windows, x, v, score(x))
            new_v = self._steer(x, windows.v0[:, None] + integral @ acceleration, windows.size)
            new_x = self.manifold.project(windows.x0[:, None] + integral @ new_v)
            change = replace(windows, points=x, velocities=v).distance(new_x, new_v)
            unsettled = ~settled[:, None, None]
            x, v = torch.where(unsettled, new_x, x), torch.where(unsettled, new_v, v)
            settled = settled | (change <= enough_here)
            if bool((settled | ~torch.isfinite(change)).all()):
                break
        acceleration = self.acceleration(windows, x, v, score(x))
        return Relaxed(points=x, velocities=v, acceleration=acceleration, settled=settled)

    def acceleration(
        self, windows: Windows, x: Float[Tensor, "a q d"], v: Float[Tensor, "a q d"], score: Float[Tensor, "a q d"]
    ) -> Float[Tensor, "a q d"]:
        """What the equation says at the nodes; `v^T H v = v . d(P_x s)/du`, of the polynomial through them."""
        curvature = log_density = None
        if self.geometry.needs_curvature:
            change = self.rule.derivative.to(x) @ self.manifold.tangent(x, score)
            curvature = (v * change).sum(-1) / windows.width.to(x)[:, None]
        if self.geometry.needs_density:
            log_density = self.levels(windows, v, score)
        return bend(self.manifold, self.geometry, x, v, score, curvature=curvature, log_density=log_density)

    def levels(
        self, windows: Windows, v: Float[Tensor, "a q d"], score: Float[Tensor, "a q d"]
    ) -> Float[Tensor, "a q"]:
        """The log-density at the nodes, relative to the start of the path."""
        steps = (v * score).sum(-1) @ self.rule.integral.to(v).T
        return windows.level[:, None] + windows.width.to(v)[:, None] * steps

    def _steer(
        self, x: Float[Tensor, "a q d"], v: Float[Tensor, "a q d"], size: Float[Tensor, " a"]
    ) -> Float[Tensor, "a q d"]:
        return steer(self.manifold, self.geometry, x, v, size)

    def unresolved(self, windows: Windows, acceleration: Float[Tensor, "a q d"]) -> Float[Tensor, " a"]:
        """What the nodes may miss: the part of the velocity in the last two Legendre terms of the acceleration."""
        terms = norm(self.rule.coefficients[-2:].to(acceleration) @ acceleration).amax(-1)
        return windows.width * (terms / windows.size).double() / (2 * len(self.rule.nodes))
