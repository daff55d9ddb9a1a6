"""Distances between images: the matrix of geodesic distances, its picture, and how well it ranks known changes.

All images share one density, that of one fixed condition, and one sphere, so that the log-density belongs to a point
and the distance to two points alone; with a prompt that moves along the path neither would hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.solvers import BoundarySolver
from latent_geodesics.data.collection import CollectedImage, images_of_pairs, read_collection
from latent_geodesics.data.pairs import read_manifest
from latent_geodesics.experiments.distances.assembly import distance_along, measure
from latent_geodesics.experiments.distances.exactness import check_line_integrals
from latent_geodesics.experiments.distances.findings import Findings
from latent_geodesics.experiments.distances.gallery import Gallery, read_gallery
from latent_geodesics.experiments.distances.plan import Layout, lay_out
from latent_geodesics.experiments.distances.publish import publish
from latent_geodesics.experiments.distances.rivals import rival_distances
from latent_geodesics.experiments.distances.survey import Ends, Plan, Surveyor
from latent_geodesics.methods.power import power_of_density
from latent_geodesics.metrics.perceptual import network_hash
from latent_geodesics.models import LatentModel
from latent_geodesics.models.attributes import shared_network
from latent_geodesics.models.scores import Score
from latent_geodesics.run.runner import Run

__all__ = ["Distances"]

FINISHED = "solved"


class Distances:
    """Creates the task of measuring distances between images.

    Args:
        model: The diffusion model.
        score: The score that makes the geometry.
        solver: The solver of the geodesics.
        check_solver: A finer solver, which solves some pairs again to say how fine `solver` is.
        images: A folder of images, a manifest of images, or a manifest of pairs (see `data.collection`).
        pairs: Of a manifest of pairs, the ids to take; None for all.
        frames: Of a pair with true frames, how many to take.
        known: A manifest of pairs whose change is known, to rank distances by; None for none.
        known_frames: Of each of its pairs, how many true frames to take.
        prompt: What the density is conditioned on: one text for all, empty for none; None for the mean of the
            embeddings of all the images' prompts.
        reference: The density that distances are relative to: `mean`, the geometric mean over the collection, or the
            id of one of its images.
        tau: Noise level of the latents, in (0, 1).
        alpha_d: Power of the density times the dimension of a latent, at least 0; see `methods.power`.
        alpha: The power itself, in its place; None for none.
        radius: Radius of the sphere; None for the mean norm of all latents.
        pieces: Pieces of the quadrature along great circles, five evaluations each.
        spokes: Great circles that tie each known change to the collection.
        checks: Pairs that are solved in both directions and at a finer resolution.
        neighbours: How many nearest neighbours are shown.
        network: Folder of the attribute network of the perceptual distance.
        draws: Bootstrap resamples.
        batch_size: Pictures or paths that are done together.
        resume: The folder of an earlier run, whose finished paths are read back where the settings are the same; the
            run's own folder always is.
        verify: Compare files with the checksums of a manifest.
    """

    def __init__(
        self,
        *,
        model: LatentModel,
        score: Score,
        solver: BoundarySolver,
        check_solver: BoundarySolver,
        images: str,
        pairs: Sequence[str] | None,
        frames: int,
        known: str | None,
        known_frames: int,
        prompt: str | None,
        reference: str,
        tau: float,
        alpha_d: float,
        radius: float | None,
        pieces: int,
        spokes: int,
        checks: int,
        neighbours: int,
        network: str,
        draws: int,
        batch_size: int,
        resume: str | None,
        verify: bool,
        alpha: float | None = None,
    ) -> None:
        _at_least("batch_size", batch_size, 1)
        for name, count in (("pieces", pieces), ("spokes", spokes), ("neighbours", neighbours), ("draws", draws)):
            _at_least(name, count, 1)
        _at_least("checks", checks, 0)
        if not 0 < tau < 1:
            raise UserError(f"tau is a noise level between 0 and 1 (0.6 is usual), got {tau}.")
        if radius is not None and not 0 < radius < float("inf"):
            raise UserError(
                f"radius must be a positive number, or null for the mean norm of the latents, got {radius}."
            )
        if resume is not None and not (Path(resume) / FINISHED).is_dir():
            raise UserError(f"'{resume}' holds no finished paths ({FINISHED}/): give the folder of a run of distances.")
        self.collection = read_collection(images, pairs=pairs, frames=frames, verify=verify)
        self.known, self.difficulty = _known(known, known_frames, verify=verify)
        if reference != "mean" and reference not in [item.id for item in self.collection]:
            raise UserError(f"reference must be mean or the id of an image of the collection, got '{reference}'.")
        self.network = shared_network(network)
        self.network_folder = network
        self.model, self.score, self.solver, self.check_solver = model, score, solver, check_solver
        self.prompt, self.reference, self.tau, self.radius = prompt, reference, tau, radius
        self.alpha = power_of_density(alpha_d=alpha_d, alpha=alpha, dimension=model.dimension)
        self.pieces, self.spokes, self.checks, self.neighbours = pieces, spokes, checks, neighbours
        self.draws, self.batch_size, self.resume = draws, batch_size, resume

    def run(self, run: Run) -> Mapping[str, float]:
        """Measures all pairs; returns the summary.

        Raises:
            UserError: when an image cannot be read, or the score of some path was not finite (what was finished is
                written first).
        """
        run.record_environment(
            weights={"model": self.model.fingerprint, "perceptual_clevr": network_hash(self.network_folder)},
            machinery=self.model.machinery,
        )
        gallery = self._gallery()
        layout = lay_out(gallery, collected=len(self.collection), spokes=self.spokes, checks=self.checks)
        surveyor = self._surveyor(run, gallery)
        survey = surveyor.survey(gallery, layout.plan)
        reference = self._reference(gallery, layout)
        measured = measure(survey, pictures=len(gallery.contents), alpha=self.alpha, reference=reference)
        pairs: list[Ends] = [ends for ends in survey.geodesics if ends not in {(b, a) for a, b in layout.checks}]
        rivals = rival_distances(
            gallery.pictures, pairs, x=survey.x, radius=survey.radius, model=self.model, network=self.network
        )
        findings = Findings(
            gallery=gallery,
            layout=layout,
            collected=len(self.collection),
            difficulty=self.difficulty,
            survey=survey,
            measured=measured,
            pairs=pairs,
            rivals=rivals,
            finer=self._finer(run, surveyor, gallery, layout, measured.levels.level),
            line_integrals=check_line_integrals(seed=run.seed),
            draws=self.draws,
            seed=run.seed,
        )
        facts = {
            "density": self.score.density,
            "condition": {None: "mean of the prompts", "": "none (empty prompt)"}.get(self.prompt, self.prompt),
            "tau": self.tau,
            "alpha": self.alpha,
            "sphere's radius": f"{survey.radius:.4g}",
            "reference": "geometric mean of the collection" if self.reference == "mean" else self.reference,
        }
        return publish(run, findings, facts=facts, neighbours=self.neighbours)

    def _gallery(self) -> Gallery:
        # A family that the collection holds is ranked by the collection's own frames of it.
        held = {item.family for item in self.collection}
        others = [item for item in self.known if item.family not in held]
        return read_gallery([*self.collection, *others], size=self.model.image_size)

    def _surveyor(self, run: Run, gallery: Gallery) -> Surveyor:
        options = run.config.get("model", {})
        return Surveyor(
            model=self.model,
            score=self.score,
            condition=self._condition(gallery),
            tau=self.tau,
            alpha=self.alpha,
            radius=self.radius,
            solver=self.solver,
            settings={
                "model": {
                    name: options.get(name) for name in ("steps", "image_size", "refinements", "inversion_tolerance")
                },
                "solver": run.config["task"]["solver"],
            },
            pieces=self.pieces,
            batch=self.batch_size,
            folder=run.folder / FINISHED,
            earlier=None if self.resume is None else Path(self.resume) / FINISHED,
        )

    def _condition(self, gallery: Gallery) -> Float[Tensor, "1 l c"]:
        if self.prompt is not None:
            return self.model.condition([self.prompt])
        prompts = list(dict.fromkeys(item.prompt for item in gallery.items))
        return self.model.condition(prompts).mean(dim=0, keepdim=True)

    def _reference(self, gallery: Gallery, layout: Layout) -> np.ndarray:
        if self.reference == "mean":
            return np.array(layout.shown)
        number = [item.id for item in self.collection].index(self.reference)
        return np.array([gallery.picture[number]])

    def _finer(
        self, run: Run, surveyor: Surveyor, gallery: Gallery, layout: Layout, level: Float[np.ndarray, " m"]
    ) -> dict[Ends, float]:
        """The distance of the checked pairs by the finer solver, between ends of the same log-densities."""
        if not layout.checks:
            return {}
        settings = dict(surveyor.settings) | {"solver": run.config["task"]["check_solver"]}
        fine = replace(surveyor, solver=self.check_solver, settings=settings)
        legs = fine.survey(gallery, Plan(geodesics=layout.checks, great_circles=())).geodesics
        return {(a, b): distance_along(leg, level[a], level[b], self.alpha)[0] for (a, b), leg in legs.items()}


def _known(manifest: str | None, frames: int, *, verify: bool) -> tuple[list[CollectedImage], dict[str, int]]:
    """The images of pairs whose change is known, and each pair's difficulty."""
    if manifest is None:
        return [], {}
    pairs = read_manifest(manifest, verify=verify)
    grades = {pair.id: pair.difficulty for pair in pairs if pair.difficulty is not None}
    return images_of_pairs(pairs, frames=frames), grades


def _at_least(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise UserError(f"task.{name} must be a whole number of at least {least}, got {value!r}.")
