"""Following paths that leave images: a batch is one velocity from some images, carried on by every method."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.records import InitialProblem, Solution
from latent_geodesics.data import NumberedBatch, read_image
from latent_geodesics.data.starts import Start
from latent_geodesics.methods.continuations import Continuation, GeodesicOn
from latent_geodesics.methods.departure import Departure, Encoded, Launch, Lead, Setting, encode_images
from latent_geodesics.methods.velocities import InitialVelocity
from latent_geodesics.metrics import PathCurves, closed_curves
from latent_geodesics.metrics.plausibility import PlausibilityCurves, RealLatents
from latent_geodesics.run.batch_loop import BatchModule

__all__ = ["ExtrapolationModule", "FollowedLaunch", "FollowedPaths", "Leaving"]

POSITIONS = 33


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """An image to leave, by one velocity.

    Attributes:
        start: The image.
        place: Its place among all images of the run.
        velocity: The velocity's name.
    """

    start: Start
    place: int
    velocity: str

    @property
    def id(self) -> str:
        """The name in the books of the run."""
        return f"{self.start.id}/{self.velocity}"


@dataclass(frozen=True, kw_only=True)
class FollowedPaths:
    """What one method made of a launch; seconds are per path, with and without decoding."""

    method: str
    statuses: tuple[str, ...]
    solution: Solution
    frames: Float[Tensor, "p n 3 h w"]
    seconds: float
    seconds_solving: float
    curves: PathCurves
    plausibility: PlausibilityCurves


@dataclass(frozen=True, kw_only=True)
class FollowedLaunch:
    """What every method made of one launch.

    Attributes:
        number: Of the batch, in the run.
        velocity: The velocity's name.
        departure: The images.
        launch: Where and how fast the paths start.
        returned: For a velocity that carries on a path between two images, how far from the second image the path ends
            that leaves the first with that path's own velocity, as a share of their distance; None for any other.
        lead_frames: The frames of the path before the start, if there is one.
        paths: Of each method; an integrator's first.
    """

    number: int
    velocity: str
    departure: Departure
    launch: Launch
    returned: Float[Tensor, " p"] | None
    lead_frames: Float[Tensor, "p n 3 h w"] | None
    paths: tuple[FollowedPaths, ...]


class ExtrapolationModule(BatchModule):
    """Encodes images, launches paths from them and follows these by every method.

    Args:
        setting: What all paths have in common.
        velocities: Name -> initial velocity.
        methods: Name -> what carries a path on; an integrator first.
        real: The reference images.
        images: How many images the run has in all.
        u: The positions of the frames.
    """

    def __init__(
        self,
        *,
        setting: Setting,
        velocities: Mapping[str, InitialVelocity],
        methods: Mapping[str, Continuation],
        real: RealLatents,
        images: int,
        u: Float[Tensor, " n"],
    ) -> None:
        super().__init__()
        self.setting, self.velocities, self.methods = setting, velocities, methods
        self.real, self.images, self.u = real, images, u
        self._encoded: tuple[Sequence[tuple[str, str]], Encoded] | None = None

    def work(self, batch: NumberedBatch[Sequence[Leaving]]) -> FollowedLaunch:
        """One velocity from some images."""
        leaving = batch.content
        name = leaving[0].velocity
        departure = self._departure(leaving)
        launch = self.velocities[name].launch(departure)
        return FollowedLaunch(
            number=batch.number,
            velocity=name,
            departure=departure,
            launch=launch,
            returned=self._returned(launch),
            lead_frames=None if launch.lead is None else launch.lead.decode(self.setting, self.u),
            paths=tuple(self._follow(method, by, launch) for method, by in self.methods.items()),
        )

    def _follow(self, method: str, continuation: Continuation, launch: Launch) -> FollowedPaths:
        """One method from one launch."""
        started = time.perf_counter()
        problem = launch.problem(self.setting)
        solution = continuation.carry_on(problem)
        solved = time.perf_counter() - started
        frames = launch.decode(self.setting, solution.path, self.u)
        seconds = time.perf_counter() - started
        return FollowedPaths(
            method=method,
            statuses=continuation.statuses(solution),
            solution=solution,
            frames=frames,
            seconds=seconds / len(problem.x0),
            seconds_solving=solved / len(problem.x0),
            curves=closed_curves(
                solution.path, problem.field, continuation.manifold(problem), problem.geometry, positions=POSITIONS
            ),
            plausibility=self.real.follow(solution.path, positions=POSITIONS),
        )

    def _returned(self, launch: Launch) -> Float[Tensor, " p"] | None:
        """How far from the second image a path ends that leaves the first as the one between them does.

        As a share of the distance of the two; None where there is no such path.
        """
        lead = launch.lead
        first = next(iter(self.methods.values()))
        if not isinstance(lead, Lead) or not isinstance(first, GeodesicOn):
            return None
        problem = lead.problem
        v0 = lead.solution.path.velocity(torch.zeros(1, dtype=torch.float64))[:, 0]
        back = InitialProblem(
            field=problem.field, manifold=problem.manifold, x0=problem.x0, v0=v0, geometry=problem.geometry
        )
        end = first.solver.solve(back).path.point(torch.ones(1, dtype=torch.float64))[:, 0]
        return problem.manifold.distance(end, problem.x1) / problem.manifold.distance(problem.x0, problem.x1)

    def _departure(self, leaving: Sequence[Leaving]) -> Departure:
        starts = tuple(one.start for one in leaving)
        keys = [_keys(start) for start in starts]
        wanted = list(dict.fromkeys(key for of_start in keys for key in of_start))
        encoded, needs_second = self._encode(wanted), self.velocities[leaving[0].velocity].needs_second
        return Departure(
            setting=self.setting,
            starts=starts,
            places=tuple(one.place for one in leaving),
            total=self.images,
            first=encoded.rows([wanted.index(of_start[0]) for of_start in keys]),
            second=encoded.rows([wanted.index(of_start[1]) for of_start in keys]) if needs_second else None,
        )

    def _encode(self, wanted: Sequence[tuple[str, str]]) -> Encoded:
        """Images with their prompts; the last ones are kept, since the next velocity mostly leaves the same."""
        if self._encoded is None or self._encoded[0] != wanted:
            images = torch.stack([read_image(file, size=self.setting.model.image_size) for file, _ in wanted])
            self._encoded = wanted, encode_images(self.setting, images, [prompt for _, prompt in wanted])
        return self._encoded[1]


def _keys(start: Start) -> list[tuple[str, str]]:
    """The files of a start with their prompts, which together name a latent."""
    keys = [(str(start.image), start.prompt)]
    if start.second is not None:
        keys.append((str(start.second), start.second_prompt))
    return keys
