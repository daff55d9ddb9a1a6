r"""The optimised path: the geodesic that the length's gradient flow leads to when it starts from the video itself.

The flow `dg/dtau = P_x g'' + alpha |g'|^2 P_v s` shortens a path and is at rest on geodesics. It is stiff, so each of
its steps takes the second derivative at its end (implicit) and the score at its beginning: one small linear solve.
The first steps are so short that they only smooth what changes from frame to frame; each is longer than the one
before. What they arrive at is finished by the fixed point of the default solver. Both ends stay.

Deviation: the published analysis takes some hundred explicit steps of gradient descent on random subsets of the
frames, may move the ends as well, and stops by its skip rule. Here the flow goes on until the geodesic equation is
met, or it is reported that it was not.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.fields import ScoreField
from latent_geodesics.core.geometry import norm
from latent_geodesics.core.manifold import Sphere
from latent_geodesics.core.path import KnotPath, shortest_path
from latent_geodesics.core.records import BoundaryProblem, Status
from latent_geodesics.core.solvers.collocation import Collocation
from latent_geodesics.core.solvers.fixed_point import FixedPoint, Rules
from latent_geodesics.core.solvers.group import Group
from latent_geodesics.core.solvers.solve_record import SolveRecord

LONGEST_STEP = 1.0  # the last step of the flow, in units in which the slowest wave of a path decays at the rate pi^2


@dataclass(frozen=True, kw_only=True)
class Optimised:
    """The optimised paths, with how each was found.

    Attributes:
        points: As many frames as the videos have, all but evenly spaced along each path.
        statuses: How the solver ended.
        evaluations: Points at which the score was evaluated.
    """

    points: Float[Tensor, "v n d"]
    statuses: tuple[Status, ...]
    evaluations: Int[Tensor, " v"]


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """Lets videos flow into geodesics.

    Args:
        steps: Of the flow, at least 0; 0 leaves all to the fixed point.
        tolerance: A path is a geodesic when its residual is below this share of the pull of the score.
        max_evaluations: Score evaluations that a video may cost.
        memory: Iterates that the fixed point mixes.
        trust: The largest move of a frame in one step, as a share of the distance of the ends; the flow, whose way is
            longer, may move ten times as far.
        patience: Iterations of the fixed point without progress after which its steps are halved.
    """

    steps: int = 10
    tolerance: float = 3e-4
    max_evaluations: int = 600
    memory: int = 6
    trust: float = 0.1
    patience: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1; received {self.tolerance}.")
        if self.steps < 0 or self.max_evaluations < 1 or self.patience < 1:
            raise ValueError(
                "steps must not be negative, max_evaluations and patience be at least 1; received "
                f"{self.steps}, {self.max_evaluations} and {self.patience}."
            )

    def optimise(self, points: Float[Tensor, "v n d"], *, sphere: Sphere, field: ScoreField, alpha: float) -> Optimised:
        """The geodesic that each video flows into.

        Args:
            points: The frames of the videos on the sphere, at least three.
            sphere: The sphere, with a radius for each video.
            field: The score, one function of the point.
            alpha: Power of the density.
        """
        problem = BoundaryProblem(field=field, manifold=sphere, x0=points[:, 0], x1=points[:, -1], alpha=alpha)
        record = SolveRecord(problem, budget=self.max_evaluations, tolerance=self.tolerance)
        base = shortest_path(sphere, problem.x0, problem.x1)
        grid = Collocation(base=base, manifold=sphere, intervals=points.shape[1] - 1)
        offsets = grid.start()
        videos = record.open_pairs()
        videos = videos[record.affords(videos, grid.intervals + 1)]
        if len(videos):
            begun = KnotPath.through(knots=points, manifold=sphere).offsets[:, 1:-1]
            there = videos.to(offsets.device)
            offsets[there] = self._descend(problem, record, grid.restrict(there), videos, begun[there])
        solution = record.solution(grid.path(offsets))
        return Optimised(
            points=solution.path.point(grid.nodes), statuses=solution.status, evaluations=solution.stats["evaluations"]
        )

    def _descend(
        self,
        problem: BoundaryProblem,
        record: SolveRecord,
        grid: Collocation,
        videos: Int[Tensor, " a"],
        offsets: Float[Tensor, "a n d"],
    ) -> Float[Tensor, "a n d"]:
        field = problem.field.restrict(videos)
        end_scores = grid.end_scores(field)
        record.spend(videos, 2)
        for rate in self._rates(grid.intervals):
            if bool(record.affords(videos, 2 * grid.intervals).all()):
                offsets = self._flow(grid, field, offsets, end_scores, alpha=problem.alpha, rate=rate)
                record.spend(videos, grid.intervals - 1)
        group = Group.begin(
            grid,
            field,
            videos,
            end_scores=end_scores,
            record=record,
            resolution=grid.end_resolution(field),
            offsets=offsets,
        )
        group, outcome = FixedPoint(group, record, self._rules(problem.alpha)).run()
        for video, status in zip(videos, outcome, strict=True):
            record.close(video[None], status)
        return group.place.offsets

    def _rates(self, intervals: int) -> list[float]:
        """One over the length of each step, from the time in which the fastest wave decays to the longest step."""
        fastest = (math.pi * intervals) ** 2
        return [fastest * (LONGEST_STEP / fastest) ** (step / max(self.steps - 1, 1)) for step in range(self.steps)]

    def _flow(
        self,
        grid: Collocation,
        field: ScoreField,
        offsets: Float[Tensor, "a n d"],
        end_scores: Float[Tensor, "a 2 d"],
        *,
        alpha: float,
        rate: float,
    ) -> Float[Tensor, "a n d"]:
        """One implicit step of length `1 / rate`; a score that is not finite is taken for zero."""
        seen = grid.linearise(offsets, grid.scores(field, offsets).nan_to_num(0.0, 0.0, 0.0), end_scores)
        step = grid.solve((seen.bend + alpha * seen.force)[None], torch.full_like(seen.strength, rate))[0]
        farthest = norm(step).amax(-1)
        shrunk = (10 * self.trust * grid.span / farthest.clamp(min=torch.finfo(step.dtype).tiny)).clamp(max=1.0)
        return offsets + shrunk[:, None, None] * step

    def _rules(self, alpha: float) -> Rules:
        return Rules(
            target=alpha,
            tolerance=self.tolerance,
            memory=self.memory,
            trust=self.trust,
            patience=self.patience,
        )
