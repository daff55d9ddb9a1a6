"""Distances between images: the matrix of geodesic distances, its picture, and how well it ranks known changes.

All images share one density, that of one fixed condition, and one sphere, so that the log-density belongs to a point
and the distance to two points alone; with a prompt that moves along the path neither would hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import in_batches
from latent_geodesics.data.collection import CollectedImage, images_of_pairs, read_collection
from latent_geodesics.data.pairs import ImagePair, read_manifest
from latent_geodesics.experiments.distances.exactness import check_line_integrals
from latent_geodesics.experiments.distances.gallery import read_gallery, stacked
from latent_geodesics.experiments.distances.measured import MeasuredDistances
from latent_geodesics.experiments.distances.paths import PathFinder, legs_of
from latent_geodesics.experiments.distances.plan import WantedPath, lay_out
from latent_geodesics.experiments.distances.report import add_sections, broken_paths, summary_of, tables_of
from latent_geodesics.experiments.distances.rivals import rival_distances
from latent_geodesics.metrics.networks import network_hash
from latent_geodesics.models.attributes import shared_network
from latent_geodesics.models.store import content_key
from latent_geodesics.run.each import Rows
from latent_geodesics.run.runner import Run

LEAD = (
    "How far apart images are when improbable regions are slow to cross: the length of the shortest path in the metric "
    "of the density of noisy latents, d(a, b) = min over paths of the integral of (p / p_ref)^-alpha along it. One "
    "condition, one sphere and one reference density serve all images."
)


@dataclass(frozen=True, kw_only=True)
class Distances:
    """The experiment of measuring distances between images.

    Attributes:
        finder: What finds latents and paths.
        images: A folder of images, a manifest of images, or a manifest of pairs (see `data.collection`).
        pairs: Of a manifest of pairs, the ids to take; None for all.
        frames: Of a pair with true frames, how many to take.
        known: A manifest of pairs whose change is known, to rank distances by; None for none.
        known_frames: Of each of its pairs, how many true frames to take.
        verify: Compare files with the checksums of a manifest.
        prompt: What the density is conditioned on: one text for all, empty for none; None for the mean of the
            embeddings of all the images' prompts.
        reference: The density that distances are relative to: `mean`, the geometric mean over the collection, or the
            id of one of its images.
        radius: Radius of the sphere; None for the mean norm of all latents.
        spokes: Great circles that tie each known change to the collection.
        checks: Pairs that are solved in both directions and at a finer resolution.
        neighbours: How many nearest neighbours are shown.
        network: Folder of the attribute network of the perceptual distance.
        draws: Bootstrap resamples.
        batch_size: Pictures or paths that are done together.
    """

    finder: PathFinder
    images: str
    pairs: Sequence[str] | None
    frames: int
    known: str | None
    known_frames: int
    verify: bool
    prompt: str | None
    reference: str
    radius: float | None
    spokes: int
    checks: int
    neighbours: int
    network: str
    draws: int
    batch_size: int

    shares_work: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses what cannot be done, before anything is."""
        for name, least in {"batch_size": 1, "spokes": 1, "neighbours": 1, "draws": 1, "checks": 0}.items():
            if getattr(self, name) < least:
                raise UserError(f"task.{name} must be at least {least}, got {getattr(self, name)}.")
        if self.radius is not None and not 0 < self.radius < float("inf"):
            raise UserError(f"radius must be a positive number, or null for the latents' mean norm, got {self.radius}.")
        if self.reference not in ("mean", *(item.id for item in self.collection)):
            raise UserError(f"reference must be mean or the id of an image of the collection, got '{self.reference}'.")
        images_of_pairs(self.known_pairs, frames=self.known_frames)
        shared_network(self.network)

    @cached_property
    def collection(self) -> list[CollectedImage]:
        """The images between which distances are measured."""
        return read_collection(self.images, pairs=self.pairs, frames=self.frames, verify=self.verify)

    @cached_property
    def known_pairs(self) -> list[ImagePair]:
        """The pairs whose change is known."""
        return [] if self.known is None else read_manifest(self.known, verify=self.verify)

    def run(self, run: Run) -> Mapping[str, float]:
        """Measures all pairs; returns the summary."""
        finder, model = self.finder, self.finder.model
        weights = {"model": model.fingerprint, "perceptual_clevr": network_hash(self.network)}
        run.record_environment(weights=weights, machinery=model.machinery)
        known = images_of_pairs(self.known_pairs, frames=self.known_frames)
        gallery = read_gallery(self.collection, known, size=model.image_size)
        prompts = [item.prompt for item in gallery.items] if self.prompt is None else [self.prompt]
        condition, origin = finder.condition(prompts), weights | {"condition": content_key(*prompts)}
        pictures, encode = in_batches(gallery.pictures, self.batch_size), partial(self.encode, run, condition)
        latents = run.each(pictures, encode, read=stacked, made_with=origin, name="latents", last=False)
        if not latents.whole:
            return _interrupted(run)
        x = torch.cat(latents.kept("x"))
        # Six digits, so that the radius, which the paths depend on, does not hang on the last bit of a latent.
        radius = float(f"{float(x.norm(dim=-1).mean()):.6g}") if self.radius is None else self.radius
        plan = lay_out(gallery, spokes=self.spokes, checks=self.checks)
        wanted, origin = plan.batches(gallery, self.batch_size), origin | {"radius": str(radius)}
        find = partial(self.find, run, x=x.to(model.device), condition=condition, radius=radius)
        paths = run.each(wanted, find, read=list, made_with=origin, name="paths")
        if not paths.whole or not run.leads:
            return _interrupted(run)
        network = shared_network(self.network)
        rivals = rival_distances(gallery.images, plan.geodesics, x=x, radius=radius, model=model, network=network)
        measured = MeasuredDistances(
            gallery=gallery, plan=plan, legs=legs_of(wanted, paths.kept("legs")), rivals=rivals,
            reference=gallery.reference(self.reference), alpha=finder.alpha, known_pairs=self.known_pairs,
            draws=self.draws, seed=run.seed,
        )  # fmt: skip
        checks = check_line_integrals(seed=run.seed)
        facts = {"images": gallery.collected, "pairs": len(measured.results), "density": finder.score.density}
        facts |= {"prompt": self.prompt, "sphere's radius": f"{radius:.4g}", "reference": self.reference}
        page = run.page("Geodesic distances between images", LEAD, "tau", "alpha", **facts)
        add_sections(run, page, measured, checks, neighbours=self.neighbours)
        return run.finish(
            page, summary=summary_of(measured, checks), broken=broken_paths(measured, run.folder),
            line_integrals=checks, **tables_of(measured, neighbours=self.neighbours),
        )  # fmt: skip

    def encode(self, run: Run, condition: Float[Tensor, "1 l c"], images: Float[Tensor, "p 3 h w"]) -> Rows:
        """The latents of pictures."""
        rows = run.rows()
        rows.kept["x"] = self.finder.encode(images, condition).cpu()
        return rows

    def find(self, run: Run, paths: Sequence[WantedPath], **space: Any) -> Rows:
        """Paths of one kind between latents; `space` is what else `PathFinder.find` asks for."""
        rows = run.rows()
        rows.kept["legs"] = [dict(vars(leg)) for leg in self.finder.find(paths, **space)]
        return rows


def _interrupted(run: Run) -> Mapping[str, float]:
    """The end of a run that was interrupted, of which nothing can be told, and of a process that is not the first."""
    if run.leads:
        raise KeyboardInterrupt
    return {}
