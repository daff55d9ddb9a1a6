"""Extrapolation: paths that leave an image, by every kind of velocity and every way to carry it on.

A batch is one velocity from some images, followed by each method; rows and pictures are written as soon as it is done,
so that an interrupted run keeps what was finished.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.solvers import InitialSolver
from latent_geodesics.data import Batches, PairData, in_batches, read_image
from latent_geodesics.data.collection import read_collection
from latent_geodesics.data.starts import Start, pick_pairs, starts_of_pairs, starts_on_disk
from latent_geodesics.experiments.extrapolation.folder import ExtrapolationFolder
from latent_geodesics.experiments.extrapolation.following import ExtrapolationModule, Leaving
from latent_geodesics.methods.conditions import PathCondition
from latent_geodesics.methods.continuations import Continuation, GeodesicOn, GreatCircleOn, StraightOn
from latent_geodesics.methods.departure import Setting, encode_images
from latent_geodesics.methods.power import GeometryChoice, power_of_density
from latent_geodesics.methods.velocities import InitialVelocity
from latent_geodesics.metrics.plausibility import RealLatents
from latent_geodesics.models import LatentModel
from latent_geodesics.models.chunking import one_thread
from latent_geodesics.run.batch_loop import run_batches
from latent_geodesics.run.batch_store import BatchStore
from latent_geodesics.run.runner import Run

__all__ = ["Extrapolation"]


class Extrapolation:
    """Creates the task of leaving images along geodesics.

    Args:
        model: The diffusion model.
        data: Pairs of images: the first of each is left, the second gives a direction.
        score: The score that makes the geometry.
        velocities: Name -> initial velocity.
        integrators: Name -> integrator; the first is the one that others are compared with.
        tau: Noise level of the latents, in (0, 1).
        alpha_d: Power of the density times the dimension of a latent, at least 0; see `methods.power`.
        alpha: The power itself, in its place; None for none.
        geometry: Whose geodesics; that of p^alpha if not given.
        frames: Images of a sequence, the start included; at least 2.
        guidance: Classifier-free guidance at decoding.
        condition: What the density between two prompts is conditioned on; see `methods.conditions`.
        baselines: Whether to carry velocities on along great circles and straight lines too.
        pairs: Ids of the pairs to take; all of them if empty. A user's own two images need none.
        images: A folder of images or an image file to leave, in place of the pairs.
        prompt: What those images show.
        reference: Real images to hold the paths against: a folder, or a manifest of images or of pairs.
        reference_images: How many of them, evenly spread over the list; at least 4.
        batch_size: How many images are followed together.
    """

    shares_work = True

    def __init__(
        self,
        *,
        model: LatentModel,
        data: PairData,
        score: Any,
        velocities: Mapping[str, InitialVelocity],
        integrators: Mapping[str, InitialSolver],
        tau: float,
        alpha_d: float,
        frames: int,
        guidance: float,
        alpha: float | None = None,
        condition: PathCondition = "mean",
        baselines: bool = True,
        pairs: Sequence[str] = (),
        images: str | None = None,
        prompt: str = "",
        reference: str = "data/pairs/manifest.csv",
        reference_images: int = 32,
        batch_size: int = 8,
        geometry: GeometryChoice = None,
    ) -> None:
        if frames < 2:
            raise UserError(f"frames must be at least 2 (the start and the end of a path), got {frames}.")
        if batch_size < 1:
            raise UserError(f"task.batch_size must be at least 1, got {batch_size}.")
        if not velocities:
            raise UserError("No initial velocity was chosen: name some, as in velocity=[boundary,random].")
        if not integrators:
            raise UserError("No integrator was chosen: name one, as in integrator=[parallel].")
        power = power_of_density(alpha_d=alpha_d, alpha=alpha, dimension=model.dimension)
        self.setting = Setting(
            model=model,
            score=score,
            tau=tau,
            alpha=power,
            guidance=guidance,
            condition=condition,
            geometry=geometry,
        )
        self.starts = _starts(data, pairs, images, prompt)
        self.velocities, self.batch_size = velocities, batch_size
        self.methods: dict[str, Continuation] = {
            name: GeodesicOn(solver=solver) for name, solver in integrators.items()
        }
        if baselines:
            self.methods |= {"slerp": GreatCircleOn(), "lerp": StraightOn()}
        self.u = torch.linspace(0, 1, frames, dtype=torch.float64)
        self._reference = read_collection(reference, frames=2)
        self._reference_images = reference_images
        self._check()

    def run(self, run: Run) -> Mapping[str, float]:
        """Follows every path; returns the means `<velocity>/<method>/<column>` and what the integrators agree on.

        Raises:
            UserError: when a velocity gives no direction, or a score was not finite (all is written first).
        """
        weights = {"model": self.setting.model.fingerprint}
        run.record_environment(weights=weights, machinery=self.setting.model.machinery)
        batches: Batches[Leaving, Sequence[Leaving]] = Batches(batches=self._launches(), read=tuple)
        store = BatchStore(folder=run.folder, made_with=weights, expected=batches.ids)
        with one_thread():
            real = self._real_latents(quiet=not run.leads)
        module = ExtrapolationModule(
            setting=self.setting,
            velocities=self.velocities,
            methods=self.methods,
            real=real,
            images=len(self.starts),
            u=self.u,
        )
        folder = ExtrapolationFolder(run=run, store=store, setting=self.setting, real=real, velocities=self.velocities)
        run_batches(run, module, batches, store, folder)
        return folder.finish(launches=len(batches.batches)) if run.leads else {}

    def _launches(self) -> list[list[Leaving]]:
        """Some images at a time, each velocity from those that it can leave."""
        return [
            [Leaving(start=self.starts[place], place=place, velocity=name) for place in leaving]
            for places in in_batches(range(len(self.starts)), self.batch_size)
            for name, velocity in self.velocities.items()
            if (leaving := self._leaving(places, velocity))
        ]

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

    def _real_latents(self, *, quiet: bool) -> RealLatents:
        """The reference images, inverted."""
        count = min(self._reference_images, len(self._reference))
        places = [step * len(self._reference) // count for step in range(count)] if count > 0 else []
        batches = []
        with tqdm(total=count, desc="reference images", unit="image", mininterval=1, disable=quiet) as bar:
            for first in range(0, count, self.batch_size):
                chosen = [self._reference[place] for place in places[first : first + self.batch_size]]
                images = torch.stack([read_image(image.file, size=self.setting.model.image_size) for image in chosen])
                prompts = [image.prompt for image in chosen]
                batches.append(encode_images(self.setting, images, prompts).latents)
                bar.update(len(chosen))
        latents = torch.cat(batches) if batches else torch.zeros(0, self.setting.model.dimension)
        return RealLatents(model=self.setting.model, latents=latents, tau=self.setting.tau)


def _starts(data: PairData, pairs: Sequence[str], images: str | None, prompt: str) -> tuple[Start, ...]:
    if images is not None:
        return starts_on_disk(images, prompt=prompt)
    return starts_of_pairs(pick_pairs(data.pairs, pairs))


def _prompts(start: Start) -> tuple[str, str]:
    return start.prompt, start.second_prompt
