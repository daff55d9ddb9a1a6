"""Following paths that leave images: a batch is one velocity from some images, carried on by every method."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.records import InitialProblem, Solution
from latent_geodesics.data import in_batches, read_image
from latent_geodesics.data.starts import Start
from latent_geodesics.methods.departure import (
    Continuation,
    Departure,
    Encoded,
    GeodesicOn,
    Launch,
    Lead,
    encode_images,
)
from latent_geodesics.methods.encoding import Setting
from latent_geodesics.methods.velocities import InitialVelocity
from latent_geodesics.metrics import PathCurves, closed_curves
from latent_geodesics.metrics.plausibility import PlausibilityCurves, RealLatents

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
        velocity: The velocity's name.
        departure: The images.
        launch: Where and how fast the paths start.
        returned: For a velocity that carries on a path between two images, how far from the second image the path ends
            that leaves the first with that path's own velocity, as a share of their distance; None for any other.
        lead_frames: The frames of the path before the start, if there is one.
        paths: Of each method; an integrator's first.
    """

    velocity: str
    departure: Departure
    launch: Launch
    returned: Float[Tensor, " p"] | None
    lead_frames: Float[Tensor, "p n 3 h w"] | None
    paths: tuple[FollowedPaths, ...]


def departures(
    starts: Sequence[Start], velocities: Mapping[str, InitialVelocity], *, batch_size: int
) -> list[list[Leaving]]:
    """Some images at a time, each velocity from those that it can leave.

    Raises:
        UserError: when a velocity can leave none of the images, or one that it must leave gives no direction.
    """
    reached = {
        name: [place for place, start in enumerate(starts) if start.second is not None or not velocity.needs_second]
        for name, velocity in velocities.items()
    }
    for name, places in reached.items():
        if not places:
            raise UserError(
                f"The velocity '{name}' leads from one image to another, and there is only one: give a folder with two "
                "images or more, image_a=<file> image_b=<file>, or leave that velocity out."
            )
        velocities[name].check({starts[at].id: (starts[at].prompt, starts[at].second_prompt) for at in places})
    return [
        [Leaving(start=starts[place], place=place, velocity=name) for place in leaving]
        for places in in_batches(range(len(starts)), batch_size)
        for name in velocities
        if (leaving := [place for place in places if place in reached[name]])
    ]


@dataclass(kw_only=True)
class Follower:
    """Encodes images, launches paths from them and follows these by every method.

    Args:
        setting: What all paths have in common.
        velocities: Name -> initial velocity.
        methods: Name -> what carries a path on; an integrator first.
        real: The reference images.
        images: How many images the run has in all.
        frames: Images of a sequence.
    """

    setting: Setting
    velocities: Mapping[str, InitialVelocity]
    methods: Mapping[str, Continuation]
    real: RealLatents
    images: int
    frames: int
    _encoded: tuple[Sequence[tuple[Path, str]], Encoded] | None = field(default=None, init=False)

    @property
    def u(self) -> Float[Tensor, " n"]:
        """The positions of the frames."""
        return torch.linspace(0, 1, self.frames, dtype=torch.float64)

    def follow(self, leaving: Sequence[Leaving]) -> FollowedLaunch:
        """One velocity from some images, by every method."""
        departure = self._departure(leaving)
        launch = self.velocities[leaving[0].velocity].launch(departure)
        return FollowedLaunch(
            velocity=leaving[0].velocity,
            departure=departure,
            launch=launch,
            returned=self._returned(launch),
            lead_frames=None if launch.lead is None else launch.lead.decode(self.setting, self.u),
            paths=tuple(self._carry_on(method, by, launch) for method, by in self.methods.items()),
        )

    def _carry_on(self, method: str, continuation: Continuation, launch: Launch) -> FollowedPaths:
        started = time.perf_counter()
        problem = launch.problem(self.setting)
        solution = continuation.carry_on(problem)
        solved = time.perf_counter() - started
        frames = launch.decode(self.setting, solution.path, self.u)
        seconds = time.perf_counter() - started
        return FollowedPaths(
            method=method,
            statuses=solution.status_names,
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
        """The images to leave, encoded; the last ones are kept, since the next velocity mostly leaves the same."""
        starts = tuple(one.start for one in leaving)
        # A file and its prompt together name a latent.
        first = [(start.image, start.prompt) for start in starts]
        second = [
            key if one.second is None else (one.second, one.second_prompt)
            for one, key in zip(starts, first, strict=True)
        ]
        wanted = list(dict.fromkeys(key for one in zip(first, second, strict=True) for key in one))
        if self._encoded is None or self._encoded[0] != wanted:
            images = torch.stack([read_image(file, size=self.setting.model.image_size) for file, _ in wanted])
            self._encoded = wanted, encode_images(self.setting, images, [prompt for _, prompt in wanted])
        rows, needs_second = self._encoded[1].rows, self.velocities[leaving[0].velocity].needs_second
        return Departure(
            setting=self.setting,
            starts=starts,
            places=tuple(one.place for one in leaving),
            total=self.images,
            first=rows([wanted.index(key) for key in first]),
            second=rows([wanted.index(key) for key in second]) if needs_second else None,
        )
