"""From pairs of images to a boundary value problem in the latent space, and from its path back to images.

Both images are encoded and inverted to the noise level tau, each with its own condition c_A, c_B. Noisy latents of
dimension d lie near the sphere of radius sqrt(d), so the problem is posed on the sphere of radius
R = (|x_A| + |x_B|)/2, as in Yu et al. 2025 (arXiv 2504.06675).

Deviation: the paper leaves the ends on that common radius, which moves both off their inverted latents. Here a path
point at u is taken back to the norm (1-u)|x_A| + u|x_B| before it is decoded, so that both ends are the images' own.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.fields import ScoreField
from latent_geodesics.core.manifold import Sphere
from latent_geodesics.core.path import Path
from latent_geodesics.core.records import BoundaryProblem
from latent_geodesics.data import PairBatch
from latent_geodesics.data.images import psnr
from latent_geodesics.methods.conditions import (
    GeometryChoice,
    PathCondition,
    check_path_condition,
    geometry_of,
    moves,
    path_conditions,
    power_of_density,
)
from latent_geodesics.models.accelerator import ENCODING, INVERSION, Stopwatch
from latent_geodesics.models.inversion import Fault
from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.models.scores import Score

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EncodedPairs:
    """Pairs of images as a boundary value problem, with what it takes to decode a path between them.

    Attributes:
        problem: The ends on the sphere, the score field and the geometry.
        norms_a: The norms |x_A| that the first images' latents had before they were put on the common sphere.
        norms_b: The same of the second images.
        condition_a: The first images' embeddings.
        condition_b: The second images' embeddings.
        density: The density that the geometry is made of, in words.
        moving: Whether that is another density at each position, so that a path has no length; pair by pair.
        seconds: Each pair's share of the time for `encoding` (autoencoder and text encoder) and for `inversion` (DDIM
            up, and of texts where that is asked for), which serve every method; NaN where nobody took it.
        faults: What is wrong with the inversion of each pair's images, of the worse one; empty where nobody looked. The
            ends of a pair whose fault is `lost` stand for nothing.
    """

    model: LatentModel
    batch: PairBatch
    problem: BoundaryProblem
    norms_a: Float[Tensor, " p"]
    norms_b: Float[Tensor, " p"]
    condition_a: Float[Tensor, "p l c"]
    condition_b: Float[Tensor, "p l c"]
    tau: float
    guidance: float
    density: str
    moving: Bool[Tensor, " p"]
    seconds: Mapping[str, float] = field(default_factory=lambda: {ENCODING: float("nan"), INVERSION: float("nan")})
    faults: tuple[Fault | None, ...] = ()

    def fault(self, row: int) -> Fault | None:
        """What is wrong with the inversion of a pair's images, if anything."""
        return self.faults[row] if self.faults else None

    @property
    def lost(self) -> tuple[int, ...]:
        """The pairs whose ends stand for nothing, since an image could not be inverted."""
        return tuple(row for row, fault in enumerate(self.faults) if fault is not None and fault.lost)

    @property
    def sound(self) -> "EncodedPairs":
        """These pairs.

        Raises:
            UserError: where an image of one could not be inverted.
        """
        for row in self.lost:
            fault = self.faults[row]
            assert fault is not None
            raise UserError(f"of an image of the pair {self.batch.ids[row]} {fault.sentence}.")
        return self

    @property
    def images(self) -> Float[Tensor, "p2 3 h w"]:
        """The first images of all pairs, then the second."""
        return torch.cat([self.batch.images_a, self.batch.images_b])

    @property
    def latents_a(self) -> Float[Tensor, "p d"]:
        """The first images' own latents at noise level tau, off the common sphere."""
        own: Tensor = self.problem.x0 * (self.norms_a / self.problem.x0.norm(dim=-1))[:, None]
        return own

    @property
    def latents_b(self) -> Float[Tensor, "p d"]:
        """The second images' own latents."""
        own: Tensor = self.problem.x1 * (self.norms_b / self.problem.x1.norm(dim=-1))[:, None]
        return own

    def condition(self, u: Float[Tensor, " n"]) -> Float[Tensor, "p n l c"]:
        """The embedding (1-u) c_A + u c_B at positions u."""
        weights = u.to(self.condition_a)[:, None, None]
        return torch.lerp(self.condition_a[:, None], self.condition_b[:, None], weights)

    def restrict(self, rows: Sequence[int]) -> "EncodedPairs":
        """Some of the pairs."""
        index = torch.tensor(list(rows))
        batch = self.batch
        part = replace(
            self,
            batch=PairBatch(
                pairs=tuple(batch.pairs[row] for row in rows),
                images_a=batch.images_a[index],
                images_b=batch.images_b[index],
                truth=tuple(batch.truth[row] for row in rows),
            ),
            problem=self.problem.restrict(index),
            norms_a=self.norms_a[index],
            norms_b=self.norms_b[index],
            condition_a=self.condition_a[index],
            condition_b=self.condition_b[index],
            moving=self.moving[index],
            faults=tuple(self.faults[row] for row in rows) if self.faults else (),
        )
        if "given_back" in vars(self):
            vars(part)["given_back"] = self.given_back[index]  # decoded once
        return part

    @cached_property
    def given_back(self) -> Float[Tensor, "p 2"]:
        """PSNR in dB of both images of each pair as they come back from their own latents; NaN for a pair in `lost`."""
        latents = torch.stack([self.latents_a, self.latents_b], 1)
        condition = torch.stack([self.condition_a, self.condition_b], 1)
        images = decode_paths(self.model, latents, condition=condition, tau=self.tau, guidance=self.guidance)
        given = torch.stack([self.batch.images_a, self.batch.images_b], 1)
        found = psnr(images.flatten(0, 1), given.flatten(0, 1)).view(-1, 2)
        found[list(self.lost)] = torch.nan
        return found

    def points(self, path: Path, u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
        """The points at the positions u of a path, with norms from that of the one image's latent to the other's."""
        points = path.point(u)
        norms = torch.lerp(self.norms_a[:, None], self.norms_b[:, None], u.to(self.norms_a))
        mean = (self.norms_a + self.norms_b)[:, None] / 2
        own: Tensor = points * (norms / mean)[..., None].to(points)
        return own

    def decode(self, path: Path, u: Float[Tensor, " n"]) -> Float[Tensor, "p n 3 h w"]:
        """The images at the positions u of a path."""
        points, condition = self.points(path, u), self.condition(u)
        return decode_paths(self.model, points, condition=condition, tau=self.tau, guidance=self.guidance)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all paths of a run have in common.

    Args:
        model: The diffusion model.
        score: Which score of it the geometry is made of (one of `latent_geodesics.models.scores`).
        tau: Noise level at which the paths live, in (0, 1).
        alpha_d: Power of the density times the dimension d of a latent, alpha = alpha_d / d, at least 0; 0 makes every
            geodesic a great circle. See `methods.conditions`.
        alpha: The power itself, in place of `alpha_d`; one of the two is given.
        guidance: Classifier-free guidance at decoding; 1 is the conditional prediction alone.
        condition: What the density is conditioned on along a path between two prompts, one of
            `conditions.PathCondition`; decoding always uses (1-u) c_A + u c_B.
        geometry: The geometry, in place of that of p^alpha.

    Raises:
        UserError: for a noise level outside (0, 1), a power or a guidance that is no finite number of at least 0, and
            an unknown condition.
    """

    model: LatentModel
    score: Score
    tau: float
    alpha_d: float | None = None
    alpha: float | None = None
    guidance: float = 1.0
    condition: PathCondition = "mean"
    geometry: GeometryChoice = None

    def __post_init__(self) -> None:
        for name, value in {"tau": self.tau, "alpha": self.power, "guidance": self.guidance}.items():
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise UserError(f"{name} must be a finite number of at least 0, got {value!r}.")
        if not 0 < self.tau < 1:
            raise UserError(f"tau is a noise level between 0 and 1 (0.6 is usual), got {self.tau}.")
        check_path_condition(self.condition)

    @property
    def power(self) -> float:
        """The power alpha on the density."""
        return power_of_density(alpha_d=self.alpha_d, alpha=self.alpha, dimension=self.model.dimension)

    def problem(
        self,
        x_a: Float[Tensor, "p d"],
        x_b: Float[Tensor, "p d"],
        condition_a: Float[Tensor, "p l c"],
        condition_b: Float[Tensor, "p l c"],
    ) -> BoundaryProblem:
        """The problem between two images' latents, put on the sphere of radius R = (|x_A| + |x_B|)/2."""
        norms_a, norms_b = x_a.norm(dim=-1), x_b.norm(dim=-1)
        radius = (norms_a + norms_b) / 2
        return BoundaryProblem(
            field=self.field(condition_a, condition_b),
            manifold=Sphere(radius=radius),
            x0=x_a * (radius / norms_a)[:, None],
            x1=x_b * (radius / norms_b)[:, None],
            geometry=geometry_of(self.geometry, self.power),
        )

    def field(self, condition0: Float[Tensor, "p l c"], condition1: Float[Tensor, "p l c"] | None = None) -> ScoreField:
        """The score of the density of paths from one prompt to another, or of those under a prompt that stays."""
        start, end = condition0, None
        if condition1 is not None:
            start, end = path_conditions(self.condition, self.model, condition0, condition1)
        return self.model.field(condition0=start, condition1=end, tau=self.tau, score=self.score)

    def decode(
        self,
        points: Float[Tensor, "p n d"],
        u: Float[Tensor, " n"],
        *,
        condition0: Float[Tensor, "p l c"],
        condition1: Float[Tensor, "p l c"] | None,
    ) -> Float[Tensor, "p n 3 h w"]:
        """The images of latents at the positions u of a path, under a condition that moves along it or stays."""
        end = condition0 if condition1 is None else condition1
        condition = torch.lerp(condition0[:, None], end[:, None], u.to(condition0)[:, None, None])
        return decode_paths(self.model, points, condition=condition, tau=self.tau, guidance=self.guidance)


@dataclass(frozen=True, kw_only=True)
class PairEncoder(Setting):
    """Encodes batches of pairs.

    Args (those of `Setting`, and):
        textual_inversion: Options of `LatentModel.invert_text`; empty: a prompt's embedding is the text encoder's.
        refinements: The most refinements of a step of the inversion, 0 for the published one; None is the model's own.
        seed: Where the random numbers of textual inversion start.
        remember: Whether inversions are kept in the model's cache, and taken from there.
    """

    textual_inversion: Mapping[str, Any] = field(default_factory=dict)
    refinements: int | None = None
    seed: int = 0
    remember: bool = True

    def encode(self, batch: PairBatch) -> EncodedPairs:
        """Poses the boundary value problem between the two images of each pair; see `EncodedPairs.lost`."""
        watch = Stopwatch(self.model.device)
        condition_a = self._condition(batch.images_a, [pair.prompt_a for pair in batch.pairs])
        condition_b = self._condition(batch.images_b, [pair.prompt_b for pair in batch.pairs])
        watch.lap(INVERSION if self.textual_inversion else ENCODING)
        found = self.model.invert(
            torch.cat([batch.images_a, batch.images_b]),
            condition=torch.cat([condition_a, condition_b]),
            tau=self.tau,
            refinements=self.refinements,
            remember=self.remember,
            watch=watch,
        )
        watch.lap(INVERSION)
        faults = _worse(found.faults[: len(batch)], found.faults[len(batch) :])
        for pair, fault in zip(batch.pairs, faults, strict=True):
            if fault is not None:
                log.warning("Of an image of the pair %s %s.", pair.id, fault.sentence)
        # What is not finite belongs to pairs that are lost; a problem cannot be posed with it.
        x_a, x_b = torch.where(torch.isfinite(found.x), found.x, 1.0).chunk(2)
        moving = moves(self.condition, condition_a, condition_b)
        return EncodedPairs(
            model=self.model,
            batch=batch,
            problem=self.problem(x_a, x_b, condition_a, condition_b),
            norms_a=x_a.norm(dim=-1),
            norms_b=x_b.norm(dim=-1),
            condition_a=condition_a,
            condition_b=condition_b,
            tau=self.tau,
            guidance=self.guidance,
            density=self.score.density + (", c moving with u: no one density" if moving.any() else ""),
            moving=moving,
            seconds={stage: watch.seconds.get(stage, 0.0) / len(batch) for stage in (ENCODING, INVERSION)},
            faults=faults,
        )

    def _condition(self, images: Float[Tensor, "p 3 h w"], prompts: list[str]) -> Float[Tensor, "p l c"]:
        if self.textual_inversion:
            return self.model.invert_text(images, prompts, seed=self.seed, **self.textual_inversion)
        return self.model.condition(prompts)


def _worse(first: Sequence[Fault | None], second: Sequence[Fault | None]) -> tuple[Fault | None, ...]:
    """The worse fault of each two."""
    pairs = (tuple(fault for fault in each if fault is not None) for each in zip(first, second, strict=True))
    return tuple(max(each, key=lambda fault: fault.size, default=None) for each in pairs)


def decode_paths(
    model: LatentModel,
    points: Float[Tensor, "p n d"],
    *,
    condition: Float[Tensor, "p n l c"],
    tau: float,
    guidance: float,
) -> Float[Tensor, "p n 3 h w"]:
    """The images of points of paths, each under a condition of its own, all in one call of the model."""
    images = model.decode(points.flatten(0, 1).float(), condition=condition.flatten(0, 1), tau=tau, guidance=guidance)
    return images.view(*points.shape[:2], *images.shape[1:])
