"""The long part of a run of distances: every picture's latent, then every path, a batch at a time, kept on disk.

What is on disk already is read back. The sphere's radius is the mean norm of all latents, since noisy latents lie
near a sphere; a given radius makes results of different collections comparable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from latent_geodesics.core.solvers import BoundarySolver
from latent_geodesics.experiments.distances.gallery import Gallery
from latent_geodesics.experiments.distances.legs import GEODESIC, GREAT_CIRCLE, LegFinder
from latent_geodesics.experiments.distances.store import Leg, LegKey, Store
from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.models.scores import Score
from latent_geodesics.models.tensor_cache import content_key

__all__ = ["Ends", "Plan", "Survey", "Surveyor"]

Ends = tuple[int, int]
"""The numbers of the pictures that a path leads from and to."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which paths are wanted: geodesics, and great circles whose only use is the change of log-density along them."""

    geodesics: Sequence[Ends]
    great_circles: Sequence[Ends]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found.

    Attributes:
        x: The latents at the noise level, with their own norms.
        radius: Radius of the sphere on which the paths lie.
        geodesics: The planned geodesics by their ends.
        great_circles: The planned great circles by their ends.
        read_back: How many of both were on disk already.
    """

    x: Float[Tensor, "m d"]
    radius: float
    geodesics: dict[Ends, Leg]
    great_circles: dict[Ends, Leg]
    read_back: int


@dataclass(frozen=True, kw_only=True)
class Surveyor:
    """Encodes pictures and finds the paths between them.

    Args:
        model: The diffusion model.
        score: Which score of it makes the geometry.
        condition: The embedding that density, encoding and all paths are conditioned on.
        tau: Noise level of the latents, in (0, 1).
        alpha: Power of the density, at least 0.
        radius: Radius of the sphere; None for the mean norm of the latents.
        solver: Solver of the boundary problem.
        settings: What names the model's and the solver's options on disk.
        pieces: Pieces of the quadrature along a great circle.
        batch: Pictures or paths that are done together, and lost together when a run is killed.
        folder: Where finished work is kept.
        earlier: Such a folder of an earlier run, or None.
    """

    model: LatentModel
    score: Score
    condition: Float[Tensor, "1 l c"]
    tau: float
    alpha: float
    radius: float | None
    solver: BoundarySolver
    settings: Mapping[str, Any]
    pieces: int
    batch: int
    folder: Path
    earlier: Path | None

    def survey(self, gallery: Gallery, plan: Plan) -> Survey:
        """Finds the planned paths between the pictures of a gallery."""
        x = self._latents(gallery)
        # Six digits, so that the radius, which names the results on disk, does not hang on the last bit of a latent.
        radius = self.radius if self.radius is not None else float(f"{float(x.norm(dim=-1).mean()):.6g}")
        finder = LegFinder(
            model=self.model,
            score=self.score,
            condition=self.condition,
            tau=self.tau,
            alpha=self.alpha,
            radius=radius,
            solver=self.solver,
            pieces=self.pieces,
        )
        store = self._store(
            "paths",
            alpha=self.alpha,
            radius=radius,
            score=repr(self.score),
            solver=self.settings["solver"],
            pieces=self.pieces,
        )
        known = store.read_legs()
        points = finder.sphere.project(x)
        wanted = [
            *((GEODESIC, ends) for ends in plan.geodesics),
            *((GREAT_CIRCLE, ends) for ends in plan.great_circles),
        ]
        keys = {(kind, ends): _key(gallery, kind, ends) for kind, ends in wanted}
        missing = [work for work in wanted if keys[work] not in known]
        with tqdm(total=len(wanted), initial=len(wanted) - len(missing), desc="paths", unit="path") as bar:
            for kind in (GEODESIC, GREAT_CIRCLE):
                todo = [ends for name, ends in missing if name == kind]
                for start in range(0, len(todo), self.batch):
                    part = todo[start : start + self.batch]
                    first, second = torch.tensor(part).T
                    legs = finder.find(kind, points[first], points[second])
                    store.write_legs([keys[kind, ends] for ends in part], legs)
                    known |= {keys[kind, ends]: leg for ends, leg in zip(part, legs, strict=True)}
                    bar.update(len(part))
        return Survey(
            x=x,
            radius=radius,
            geodesics={ends: known[keys[GEODESIC, ends]] for ends in plan.geodesics},
            great_circles={ends: known[keys[GREAT_CIRCLE, ends]] for ends in plan.great_circles},
            read_back=len(wanted) - len(missing),
        )

    def _latents(self, gallery: Gallery) -> Float[Tensor, "m d"]:
        store = self._store("latents")
        known = store.read_latents()
        missing = [row for row, content in enumerate(gallery.contents) if content not in known]
        total = len(gallery.contents)
        with tqdm(total=total, initial=total - len(missing), desc="encode", unit="image") as bar:
            for start in range(0, len(missing), self.batch):
                rows = missing[start : start + self.batch]
                pictures = gallery.pictures[rows]
                x = self.model.invert(pictures, condition=self.condition, tau=self.tau, remember=True).sound
                found = x.cpu().numpy()
                names = [gallery.contents[row] for row in rows]
                store.write_latents(names, found)
                known |= dict(zip(names, found, strict=True))
                bar.update(len(rows))
        return torch.from_numpy(np.stack([known[content] for content in gallery.contents])).to(self.model.device)

    def _store(self, name: str, **settings: Any) -> Store:
        common = {
            "weights": self.model.fingerprint,
            "model": self.settings["model"],
            "tau": self.tau,
            "condition": content_key(self.condition),
        }
        others = () if self.earlier is None else (self.earlier / name,)
        return Store(folder=self.folder / name, settings=common | settings, others=others)


def _key(gallery: Gallery, kind: str, ends: Ends) -> LegKey:
    return gallery.contents[ends[0]], gallery.contents[ends[1]], kind
