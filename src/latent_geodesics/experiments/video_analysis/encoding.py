"""From the frames of videos to points on a sphere in the latent space, and back to images.

All frames of a video are inverted to the noise level tau under one condition, and taken to the sphere of the mean of
their norms, as published.

Deviation: the published condition is one embedding inverted on all frames; here it is the mean of the embeddings of
what the first and the last frame show, unless `textual_inversion` asks for the published one. It stays the same along
the path, so the density is one density.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.fields import ScoreField
from latent_geodesics.core.manifold import Sphere
from latent_geodesics.data import VideoBatch
from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.models.scores import Score
from latent_geodesics.models.store import content_key

GREY_LEVELS = 255


@dataclass(frozen=True, kw_only=True)
class EncodedVideos:
    """Videos as points in the latent space.

    Attributes:
        points: The frames on the sphere.
        sphere: With the mean norm of each video's latents as its radius.
        norms: The norms that the latents had before.
        condition: The embedding of each video.
    """

    model: LatentModel
    batch: VideoBatch
    points: Float[Tensor, "v n d"]
    sphere: Sphere
    norms: Float[Tensor, "v n"]
    condition: Float[Tensor, "v l c"]
    tau: float

    def field(self, score: Score) -> ScoreField:
        """A score as a field over the paths of these videos."""
        return self.model.field(condition0=self.condition, tau=self.tau, score=score)

    def decode(
        self, points: Float[Tensor, "v k d"], frames: Sequence[int], *, videos: Sequence[int]
    ) -> Float[Tensor, "v k 3 h w"]:
        """The images of points that stand for some frames of some videos, each taken back to the norm of its frame."""
        (v, k), chosen = points.shape[:2], list(videos)
        scaled = points * (self.norms[chosen][:, list(frames)] / points.norm(dim=-1))[..., None]
        condition = self.condition[chosen].repeat_interleave(k, dim=0)
        images = self.model.decode(scaled.flatten(0, 1), condition=condition, tau=self.tau)
        return images.view(v, k, *images.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Again:
    """Some neighbouring frames of every video, at least three, encoded after a change of pixels that no one can see."""

    frames: Sequence[int]
    points: Float[Tensor, "v k d"]


@dataclass(frozen=True, kw_only=True)
class VideoEncoder:
    """Encodes batches of videos.

    Args:
        model: The diffusion model.
        tau: Noise level at which the paths live, in (0, 1).
        textual_inversion: Options of `LatentModel.invert_text`; empty: the text encoder's embeddings of the prompts.
        rounding_frames: So many frames in the middle of every video are encoded a second time, to know the noise that
            the rounding of pixels makes: at least 3, or 0 for none.
        seed: Where the random numbers of textual inversion and of the rounding start.
    """

    model: LatentModel
    tau: float
    textual_inversion: Mapping[str, Any] = field(default_factory=dict)
    rounding_frames: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounding_frames in (1, 2) or self.rounding_frames < 0:
            raise UserError(
                f"task.encoder.rounding_frames must be at least 3, or 0 for none, got {self.rounding_frames}."
            )
        if not isinstance(self.tau, int | float) or not 0 < self.tau < 1:
            raise UserError(f"tau is a noise level between 0 and 1 (0.6 is usual), got {self.tau!r}.")

    def encode(self, batch: VideoBatch) -> EncodedVideos:
        """The videos as points in the latent space, all frames of all of them together."""
        condition = torch.cat([self._condition(batch, index) for index in range(len(batch))])
        x = self._latents(batch.frames, condition)
        norms = x.norm(dim=-1)
        sphere = Sphere(norms.mean(-1))
        return EncodedVideos(
            model=self.model,
            batch=batch,
            points=sphere.project(x),
            sphere=sphere,
            norms=norms,
            condition=condition,
            tau=self.tau,
        )

    def encode_again(self, encoded: EncodedVideos) -> Again | None:
        """The frames in the middle once more, every pixel moved at random by at most half a grey level of 8 bits.

        No one could tell the pictures apart, so what differs on the sphere is noise of the measurement.
        """
        if not self.rounding_frames:
            return None
        batch, n = encoded.batch, encoded.points.shape[1]
        count = min(self.rounding_frames, n)
        chosen = list(range((n - count) // 2, (n - count) // 2 + count))
        noise = torch.stack([self._rounding(video.id, batch.frames[0, chosen]) for video in batch.videos])
        images = (batch.frames[:, chosen] + noise.to(batch.frames)).clamp(0, 1)
        return Again(frames=chosen, points=encoded.sphere.project(self._latents(images, encoded.condition)))

    def _rounding(self, name: str, like: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        generator = torch.Generator().manual_seed(int(content_key(name, self.seed)[:15], 16))
        return (torch.rand(like.shape, generator=generator) - 0.5) / GREY_LEVELS

    def _latents(self, frames: Float[Tensor, "v k 3 h w"], condition: Float[Tensor, "v l c"]) -> Float[Tensor, "v k d"]:
        v, k = frames.shape[:2]
        every = condition.repeat_interleave(k, dim=0)
        return self.model.encode(frames.flatten(0, 1), condition=every, tau=self.tau, remember=True).view(v, k, -1)

    def _condition(self, batch: VideoBatch, index: int) -> Float[Tensor, "1 l c"]:
        video = batch.videos[index]
        prompts = list(dict.fromkeys([video.prompt_a, video.prompt_b]))
        if not self.textual_inversion:
            return self.model.condition(prompts).mean(0, keepdim=True)
        frames = batch.frames[index]
        texts = [video.prompt_a if 2 * number < len(frames) else video.prompt_b for number in range(len(frames))]
        return self.model.invert_text(frames, texts, seed=self.seed, shared=True, **self.textual_inversion)[:1]
