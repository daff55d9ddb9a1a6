"""From the frames of videos to points on a sphere in the latent space, and back to images.

All frames of a video are inverted to the noise level tau under one condition, and taken to the sphere of the mean of
their norms, as published.

Deviation: the published condition is one embedding inverted on all frames; here it is the mean of the embeddings of
what the first and the last frame show, unless `textual_inversion` asks for the published one. It stays the same along
the path, so the density is one density.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from latent_geodesics.models.tensor_cache import content_key

__all__ = ["EncodedVideos", "VideoEncoder"]

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

    def decode(self, points: Float[Tensor, "v k d"], frames: Sequence[int]) -> Float[Tensor, "v k 3 h w"]:
        """The images of points that stand for the frames of those numbers, each taken back to the norm of its frame."""
        v, k = points.shape[:2]
        scaled = points * (self.norms[:, list(frames)] / points.norm(dim=-1))[..., None]
        condition = self.condition.repeat_interleave(k, dim=0)
        images = self.model.decode(scaled.flatten(0, 1), condition=condition, tau=self.tau)
        return images.view(v, k, *images.shape[1:])

    def restrict(self, videos: Sequence[int]) -> "EncodedVideos":
        """Some of the videos alone."""
        chosen = list(videos)
        radius = torch.as_tensor(self.sphere.radius)
        return EncodedVideos(
            model=self.model,
            batch=VideoBatch(
                videos=tuple(self.batch.videos[index] for index in chosen),
                frames=self.batch.frames[chosen],
                remarks=tuple(self.batch.remarks[index] for index in chosen),
            ),
            points=self.points[chosen],
            sphere=Sphere(radius[chosen]),
            norms=self.norms[chosen],
            condition=self.condition[chosen],
            tau=self.tau,
        )


@dataclass(frozen=True, kw_only=True)
class VideoEncoder:
    """Encodes batches of videos.

    Args:
        model: The diffusion model.
        tau: Noise level at which the paths live, in (0, 1).
        textual_inversion: Options of `LatentModel.invert_text`; empty: the text encoder's embeddings of the prompts.
        seed: Where the random numbers of textual inversion start.
    """

    model: LatentModel
    tau: float
    textual_inversion: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.tau, int | float) or not 0 < self.tau < 1:
            raise UserError(f"tau is a noise level between 0 and 1 (0.6 is usual), got {self.tau!r}.")

    def seeded(self, seed: int) -> "VideoEncoder":
        """The same with other random numbers."""
        return replace(self, seed=seed)

    def encode(self, batch: VideoBatch) -> EncodedVideos:
        """The videos as points in the latent space, all frames of all of them together."""
        return self._invert(batch, torch.cat([self._condition(batch, index) for index in range(len(batch))]))

    def encode_again(self, encoded: EncodedVideos, frames: Sequence[int]) -> Float[Tensor, "v k d"]:
        """Some frames of the videos once more, every pixel moved at random by at most half a grey level of 8 bits.

        No one could tell the pictures apart, so what differs on the sphere is noise of the measurement.
        """
        batch, chosen = encoded.batch, list(frames)
        noise = torch.stack([self._rounding(video.id, batch.frames[0, chosen]) for video in batch.videos])
        images = (batch.frames[:, chosen] + noise.to(batch.frames)).clamp(0, 1)
        return encoded.sphere.project(self._latents(images, encoded.condition))

    def _rounding(self, name: str, like: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        generator = torch.Generator().manual_seed(int(content_key(name, self.seed)[:15], 16))
        return (torch.rand(like.shape, generator=generator) - 0.5) / GREY_LEVELS

    def _invert(self, batch: VideoBatch, condition: Float[Tensor, "v l c"]) -> EncodedVideos:
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
