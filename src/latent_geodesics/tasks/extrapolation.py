"""Extrapolation: paths that leave an image, by every kind of velocity and every way to carry it on.

Each group of images is encoded, launched by each velocity and followed by each method; rows and pictures are written as
soon as they are known, so that an interrupted run keeps what was finished.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

from latent_geodesics.data import PairData, read_image
from latent_geodesics.data.collection import read_collection
from latent_geodesics.data.starts import Start, pick_pairs, starts_of_pairs, starts_on_disk
from latent_geodesics.errors import UserError
from latent_geodesics.extrapolation_pages import ExtrapolationFolder, FollowedPaths
from latent_geodesics.methods.continuations import Continuation, GeodesicOn, GreatCircleOn, StraightOn
from latent_geodesics.methods.departure import Departure, Encoded, Launch, Lead, Setting, encode_images
from latent_geodesics.methods.velocities import InitialVelocity
from latent_geodesics.metrics import path_curves
from latent_geodesics.metrics.plausibility import RealLatents
from latent_geodesics.models import LatentModel
from latent_geodesics.records import InitialProblem
from latent_geodesics.runner import Run
from latent_geodesics.solvers import InitialSolver

__all__ = ["Extrapolation"]

POSITIONS = 33


class Extrapolation:
    """Creates the task of leaving images along geodesics.

    Args:
        model: The diffusion model.
        data: Pairs of images: the first of each is left, the second gives a direction.
        score: The score that makes the geometry.
        velocities: Name -> initial velocity.
        integrators: Name -> integrator; the first is the one that others are compared with.
        tau: Noise level of the latents, in (0, 1).
        alpha: Power of the density, at least 0.
        frames: Images of a sequence, the start included; at least 2.
        guidance: Classifier-free guidance at decoding.
        baselines: Whether to carry velocities on along great circles and straight lines too.
        pairs: Ids of the pairs to take; all of them if empty. A user's own two images need none.
        images: A folder of images or an image file to leave, in place of the pairs.
        prompt: What those images show.
        reference: Real images to hold the paths against: a folder, or a manifest of images or of pairs.
        reference_images: How many of them, evenly spread over the list; at least 4.
        batch_size: How many images are followed together.
    """

    def __init__(
        self,
        *,
        model: LatentModel,
        data: PairData,
        score: Any,
        velocities: Mapping[str, InitialVelocity],
        integrators: Mapping[str, InitialSolver],
        tau: float,
        alpha: float,
        frames: int,
        guidance: float,
        baselines: bool = True,
        pairs: Sequence[str] = (),
        images: str | None = None,
        prompt: str = "",
        reference: str = "data/pairs/manifest.csv",
        reference_images: int = 32,
        batch_size: int = 8,
    ) -> None:
        if frames < 2:
            raise UserError(f"frames must be at least 2 (the start and the end of a path), got {frames}.")
        if batch_size < 1:
            raise UserError(f"task.batch_size must be at least 1, got {batch_size}.")
        if not velocities:
            raise UserError("No initial velocity was chosen: name some, as in velocity=[boundary,random].")
        if not integrators:
            raise UserError("No integrator was chosen: name one, as in integrator=[parallel].")
        self.setting = Setting(model=model, score=score, tau=tau, alpha=alpha, guidance=guidance)
        self.starts = _starts(data, pairs, images, prompt)
        self.velocities, self.batch_size = velocities, batch_size
        self.methods: dict[str, Continuation] = {
            name: GeodesicOn(solver=solver) for name, solver in integrators.items()
        }
        if baselines:
            self.methods |= {"slerp": GreatCircleOn(), "lerp": StraightOn()}
        self.u = torch.linspace(0, 1, frames, dtype=torch.float64)
        self._reference = [image.file for image in read_collection(reference, frames=2)]
        self._reference_prompts = [image.prompt for image in read_collection(reference, frames=2)]
        self._reference_images = reference_images
        self._check()

    def run(self, run: Run) -> Mapping[str, float]:
        """Follows every path; returns the means `<velocity>/<method>/<column>` and what the integrators agree on.

        Raises:
            UserError: when a velocity gives no direction, or a score was not finite (all is written first).
        """
        run.record_environment(
            weights={"model": self.setting.model.fingerprint}, machinery=self.setting.model.machinery
        )
        real = self._real_latents()
        folder = ExtrapolationFolder(run=run, setting=self.setting, real=real, velocities=self.velocities, u=self.u)
        total = sum(len(self._leaving(range(len(self.starts)), kind)) for kind in self.velocities.values())
        with tqdm(total=total * len(self.methods), desc="paths", unit="path", mininterval=1) as bar:
            for first in range(0, len(self.starts), self.batch_size):
                self._follow_group(range(first, min(first + self.batch_size, len(self.starts))), folder, bar)
        return folder.finish()

    def _check(self) -> None:
        """Refuse what cannot work before anything is computed."""
        for name, velocity in self.velocities.items():
            leaving = self._leaving(range(len(self.starts)), velocity)
            if not leaving:
                raise UserError(
                    f"The velocity '{name}' leads from one image to another, and there is only one: give a folder with "
                    "two images or more, image_a=<file> image_b=<file>, or leave that velocity out."
                )
            prompts = {self.starts[place].id: _prompts(self.starts[place]) for place in leaving}
            velocity.check(prompts)

    def _leaving(self, places: Sequence[int], velocity: InitialVelocity) -> list[int]:
        """The images that a velocity can leave."""
        return [place for place in places if self.starts[place].second is not None or not velocity.needs_second]

    def _real_latents(self) -> RealLatents:
        """The reference images, inverted."""
        count = min(self._reference_images, len(self._reference))
        chosen = [step * len(self._reference) // count for step in range(count)] if count > 0 else []
        batches = []
        with tqdm(total=count, desc="reference images", unit="image", mininterval=1) as bar:
            for first in range(0, count, self.batch_size):
                places = chosen[first : first + self.batch_size]
                images = torch.stack([self._read(self._reference[place]) for place in places])
                prompts = [self._reference_prompts[place] for place in places]
                batches.append(encode_images(self.setting, images, prompts).latents)
                bar.update(len(places))
        latents = torch.cat(batches) if batches else torch.zeros(0, self.setting.model.dimension)
        return RealLatents(model=self.setting.model, latents=latents, tau=self.setting.tau)

    def _follow_group(self, places: Sequence[int], folder: ExtrapolationFolder, bar: "tqdm[Any]") -> None:
        """All velocities and methods from some of the images."""
        known = self._encode(places)
        for name, velocity in self.velocities.items():
            leaving = self._leaving(places, velocity)
            if not leaving:
                continue
            departure = self._departure(leaving, known, velocity)
            launch = velocity.launch(departure)
            folder.begin(name, departure, launch, returned=self._returned(launch))
            for method, continuation in self.methods.items():
                folder.add(self._follow(method, continuation, launch))
                bar.update(len(leaving))
            folder.end()

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
            curves=path_curves(
                solution.path, problem.field, continuation.manifold(problem), problem.alpha, positions=POSITIONS
            ),
        )

    def _returned(self, launch: Launch) -> torch.Tensor | None:
        """How far from the second image a path ends that leaves the first as the one between them does.

        As a share of the distance of the two; None where there is no such path.
        """
        lead = launch.lead
        first = next(iter(self.methods.values()))
        if not isinstance(lead, Lead) or not isinstance(first, GeodesicOn):
            return None
        problem = lead.problem
        v0 = lead.solution.path.velocity(torch.zeros(1, dtype=torch.float64))[:, 0]
        back = InitialProblem(field=problem.field, manifold=problem.manifold, x0=problem.x0, v0=v0, alpha=problem.alpha)
        end = first.solver.solve(back).path.point(torch.ones(1, dtype=torch.float64))[:, 0]
        return problem.manifold.distance(end, problem.x1) / problem.manifold.distance(problem.x0, problem.x1)

    def _encode(self, places: Sequence[int]) -> dict[tuple[str, str], tuple[Encoded, int]]:
        """The images of a group and their second ones, each file and prompt once."""
        wanted = list(dict.fromkeys(key for place in places for key in _keys(self.starts[place])))
        images = torch.stack([self._read(file) for file, _ in wanted])
        encoded = encode_images(self.setting, images, [prompt for _, prompt in wanted])
        return {key: (encoded, row) for row, key in enumerate(wanted)}

    def _departure(
        self, leaving: Sequence[int], known: Mapping[tuple[str, str], tuple[Encoded, int]], velocity: InitialVelocity
    ) -> Departure:
        starts = tuple(self.starts[place] for place in leaving)
        encoded = next(iter(known.values()))[0]
        first = encoded.rows([known[_keys(start)[0]][1] for start in starts])
        second = encoded.rows([known[_keys(start)[1]][1] for start in starts]) if velocity.needs_second else None
        return Departure(
            setting=self.setting,
            starts=starts,
            places=tuple(leaving),
            total=len(self.starts),
            first=first,
            second=second,
        )

    def _read(self, file: Any) -> torch.Tensor:
        return read_image(file, size=self.setting.model.image_size)


def _starts(data: PairData, pairs: Sequence[str], images: str | None, prompt: str) -> tuple[Start, ...]:
    if images is not None:
        return starts_on_disk(images, prompt=prompt)
    return starts_of_pairs(pick_pairs(data.pairs, pairs))


def _keys(start: Start) -> list[tuple[str, str]]:
    """The files of a start with their prompts, which together name a latent."""
    keys = [(str(start.image), start.prompt)]
    if start.second is not None:
        keys.append((str(start.second), start.second_prompt))
    return keys


def _prompts(start: Start) -> tuple[str, str]:
    return start.prompt, start.second_prompt
