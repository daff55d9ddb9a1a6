"""Textual inversion: the embedding under which the model best denoises given images.

For an image with clean latent `z` minimise over the whole embedding c (not a new token: every token's vector)

    E_{t ~ U{0..T-1}, eps ~ N(0, I)}  mean (out(x_t, t, c) - target)^2,      x_t = sqrt(abar_t) z + sigma_t eps,

starting from the embedding of the image's prompt, with AdamW in float32 whatever the network computes in (`fitting`).
Images do not interact: each has a loss and an embedding of its own and draws from its own generator, so its result
does not depend on its batch. Several images may share one embedding; every draw then picks one of them at random.

References:
    Gal et al. 2022, arXiv 2208.01618; Yu et al. 2025, arXiv 2504.06675 (the whole embedding, 500 steps of 0.005,
    batch 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.accelerator import Chunker
from latent_geodesics.models.fitting import WEIGHT_DECAY, NoisyDraws, fit
from latent_geodesics.models.network import Denoiser
from latent_geodesics.models.store import TensorCache, content_key


@dataclass(frozen=True, kw_only=True)
class TextSubject:
    """What one embedding is to describe: a single image, or several that share it."""

    images: Float[Tensor, "m 3 h w"]  # the images in [0, 1], which name the result in a cache
    latents: Float[Tensor, "m d"]  # their clean latents
    prompt: str  # the text that the embedding starts from
    initial: Float[Tensor, "l c"]  # the embedding of that text


@dataclass(frozen=True, kw_only=True)
class TextInversion:
    """The optimisation of embeddings and its settings."""

    steps: int = 500  # optimisation steps, at least 1
    learning_rate: float = 0.005  # step size of AdamW, above 0
    batch_size: int = 2  # draws of (t, eps) a step for each embedding, at least 1
    progress: bool | None = None  # whether to show a bar; None shows it on a terminal only

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or not 0.0 < self.learning_rate < float("inf"):
            raise UserError(
                "text inversion needs steps >= 1, batch_size >= 1 and a finite learning_rate > 0; "
                f"received {self.steps}, {self.batch_size} and {self.learning_rate}"
            )

    def run(
        self, network: Denoiser, subjects: Sequence[TextSubject], *, seed: int, fingerprint: str, cache: TensorCache
    ) -> Float[Tensor, "g l c"]:
        """The embedding of each subject, from the cache where it has it.

        Each depends on its subject, the settings, the seed and the fingerprint of the model's weights alone.
        """
        settings = (self.steps, self.learning_rate, self.batch_size, WEIGHT_DECAY, seed, fingerprint)
        keys = [content_key(subject.images, subject.prompt, *settings) for subject in subjects]
        results = [cache.load(key) for key in keys]
        missing = [index for index, result in enumerate(results) if result is None]
        # A subject that occurs twice is computed twice: rare, and simpler than keeping track.
        for index, embedding in zip(missing, self._invert(network, [subjects[i] for i in missing], seed), strict=True):
            cache.store({keys[index]: embedding})
            results[index] = embedding.cpu()
        found = torch.stack([result for result in results if result is not None])
        return found.to(subjects[0].initial.device, torch.float32)

    def _invert(self, network: Denoiser, subjects: Sequence[TextSubject], seed: int) -> Sequence[Float[Tensor, "l c"]]:
        """The embeddings of subjects with equally many images, as many at once as fit."""
        if not subjects:
            return []
        seeds = [int(content_key(subject.images, seed)[:15], 16) for subject in subjects]
        chunker = Chunker(size=max(1, network.batch_size // self.batch_size))
        return list(
            chunker.map(
                lambda latents, initial, seed: self._optimise(network, latents, initial, seed.tolist()),
                torch.stack([subject.latents for subject in subjects]),
                torch.stack([subject.initial for subject in subjects]),
                torch.tensor(seeds),
            )
        )

    def _optimise(
        self, network: Denoiser, groups: Float[Tensor, "g m d"], initial: Float[Tensor, "g l c"], seeds: Sequence[int]
    ) -> Float[Tensor, "g l c"]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with torch.inference_mode(False), torch.enable_grad():
            initial = initial.detach().float().clone()
            embeddings: list[Tensor] = [torch.nn.Parameter(start.clone()) for start in initial]

            def draw() -> NoisyDraws:
                times = network.schedule.training_times
                drawn = [
                    NoisyDraws.sample(group, self.batch_size, times=times, rng=rng)
                    for group, rng in zip(groups, generators, strict=True)
                ]
                return NoisyDraws.join(drawn)

            def errors(draws: NoisyDraws, embedding: Float[Tensor, "g l c"]) -> Float[Tensor, " g"]:
                condition = embedding.repeat_interleave(self.batch_size, dim=0)
                return draws.errors(network, condition).view(len(groups), -1).sum(-1)

            fit(
                "textual inversion",
                [[embedding] for embedding in embeddings],
                network=network,
                steps=self.steps,
                learning_rate=self.learning_rate,
                progress=self.progress,
                draw=draw,
                losses=lambda draws: errors(draws, torch.stack(embeddings)),
                without=lambda draws: errors(draws, initial),
                divisor=self.batch_size * groups.shape[-1],
            )
        return torch.stack(embeddings).detach()
