"""IMPUS: embeddings and adapters fitted to the pair, the adapter's rank by how far apart its images are."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.methods.base import TRAINED, PairMethod, pair_seed
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.methods.lines import slerp
from latent_geodesics.methods.sampling import check_tau, noise_level, noisy_ends
from latent_geodesics.methods.timing import Distance, Draw
from latent_geodesics.models.inversion import descend, sampling_levels, times
from latent_geodesics.models.lora import Loras, LoraTraining
from latent_geodesics.models.network import Guidance

_TRIAL_STEPS = 10
_CONDITIONAL, _UNCONDITIONAL = "conditional", "unconditional"


def lora_rank(diversity: float, *, most: int) -> int:
    """The rank for a pair of a relative perceptual path diversity: `2^max(0, floor(18 rPPD - 6))`, at most `most`."""
    return int(min(most, 2 ** min(max(0, math.floor(18 * diversity - 6)), 30)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Impus(PairMethod):
    """Creates IMPUS without its uniform sampling, which is `Retimed` with a perceptual timing around it.

    1. An embedding is fitted to each image, both started from one text: the pair's prompts in a row.
    2. The relative perceptual path diversity of a trial sequence, sum of ten steps / (9 D(A, B)), gives the rank of 3.
    3. A LoRA is fitted to both images under their embeddings, and one of rank 2 to both without a text.
    4. Both images are inverted with the former; the frame at u has the latent slerp(x_A, x_B, u), the embedding
       (1-u) c_A + u c_B and the guidance `middle - 2 (middle - ends) |u - 1/2|` against the latter.

    References:
        Yang et al. 2023, IMPUS: image morphing with perceptually-uniform sampling using diffusion models, arXiv
        2311.06792.

    Deviation: the number of frames is given, so their perceptual step is what it comes to, where the paper fixes the
    step at 0.2 and has as many frames as that takes; the trial sequence of 2 is that of the run's own latents and
    embeddings; the rank is bounded; the paper's rule for latents of too small a variance is left out, since inversion
    here is solved step by step; AdamW, not Adam, fits the embeddings.

    Args:
        distance: The perceptual distance of 2.
        embedding_steps: Steps of 1, at least 1.
        embedding_learning_rate: Its step size.
        lora: How the conditional LoRA of 3 is fitted; its rank is the most that 2 may give.
        unconditional: How the other one is.
        sampling_steps: DDIM steps from the noise level of the latents to the images.
        guidance_ends: Guidance at the ends, at least 0.
        guidance_middle: Guidance in the middle.
        tau: Noise level of the latents; None is the run's, 1 is as published.
        seed: Seed of all training.
    """

    status = TRAINED
    distance: Distance
    embedding_steps: int = 2500
    embedding_learning_rate: float = 2e-3
    lora: LoraTraining = LoraTraining(rank=64, steps=150, learning_rate=1e-3)
    unconditional: LoraTraining = LoraTraining(rank=2, steps=15, learning_rate=1e-3)
    sampling_steps: int = 16
    guidance_ends: float = 1.5
    guidance_middle: float = 3.0
    tau: float | None = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.guidance_ends, self.guidance_middle) < 0 or self.sampling_steps < 1:
            raise UserError(
                "IMPUS needs guidance of at least 0 and at least one sampling step; got "
                f"{self.guidance_ends}, {self.guidance_middle} and {self.sampling_steps}."
            )
        check_tau(self.tau)

    @contextmanager
    def sequence(self, pair: EncodedPairs) -> Iterator[Draw]:
        """Fits embeddings and LoRAs and inverts both images."""
        model, images, seed = pair.model, pair.images, pair_seed(pair, self.seed)
        embeddings = self._embeddings(pair, images)
        rank = lora_rank(self._diversity(pair, images), most=self.lora.rank)
        clean = model.encode(images)
        empty = model.condition([""]).to(embeddings).expand_as(embeddings)
        with Loras(model.network.steerable) as loras:
            network = model.network
            self.unconditional.run(network, loras, _UNCONDITIONAL, latents=clean, conditions=empty, seed=seed)
            replace(self.lora, rank=rank).run(
                network, loras, _CONDITIONAL, latents=clean, conditions=embeddings, seed=seed
            )
            ends = model.invert(images, condition=embeddings, tau=noise_level(pair, self.tau)).sound

            def draw(u: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
                return self._frames(pair, loras, ends, embeddings, u)

            yield draw

    def _embeddings(self, pair: EncodedPairs, images: Float[Tensor, "2 3 h w"]) -> Float[Tensor, "2 l c"]:
        record = pair.batch.pairs[0]
        text = " ".join(dict.fromkeys((record.prompt_a, record.prompt_b)))
        return pair.model.invert_text(
            images,
            [text, text],
            steps=self.embedding_steps,
            learning_rate=self.embedding_learning_rate,
            batch_size=1,
            seed=self.seed,
        ).to(pair.condition_a)

    def _diversity(self, pair: EncodedPairs, images: Float[Tensor, "2 3 h w"]) -> float:
        """The rPPD of the great circle, sampled without guidance."""
        model, schedule = pair.model, pair.model.schedule
        u = torch.linspace(0, 1, _TRIAL_STEPS + 1, dtype=torch.float64)
        ends, condition = noisy_ends(pair, None), pair.condition(u)[0]

        def predict(x: Float[Tensor, "m d"], k: int) -> Float[Tensor, "m d"]:
            return model.network.guided_output(x, times(schedule, x, k), Guidance(condition, condition))

        levels = sampling_levels(schedule.level(pair.tau), self.sampling_steps)
        frames = model.decode(descend(schedule, slerp(ends[:1], ends[1:], u)[0], levels, predict))
        whole = float(self.distance(images[:1], images[1:]))
        steps = float(self.distance(frames[:-1], frames[1:]).sum())
        return steps / ((_TRIAL_STEPS - 1) * whole) if whole > 0 else 0.0

    def _frames(
        self,
        pair: EncodedPairs,
        loras: Loras,
        ends: Float[Tensor, "2 d"],
        embeddings: Float[Tensor, "2 l c"],
        u: Float[Tensor, " n"],
    ) -> Float[Tensor, "n 3 h w"]:
        model, schedule = pair.model, pair.model.schedule
        condition = torch.lerp(embeddings[:1], embeddings[1:], u.to(embeddings)[:, None, None])
        empty = model.condition([""]).to(condition).expand_as(condition)
        slope = 2 * (self.guidance_middle - self.guidance_ends)
        weight = (self.guidance_middle - slope * (u - 0.5).abs()).to(ends)[:, None]

        def predict(x: Float[Tensor, "n d"], k: int) -> Float[Tensor, "n d"]:
            t = times(schedule, x, k)
            loras.weigh({_CONDITIONAL: 1.0})
            conditional = model.network.guided_output(x, t, Guidance(condition, condition))
            loras.weigh({_UNCONDITIONAL: 1.0})
            without = model.network.guided_output(x, t, Guidance(empty, empty))
            return without + weight * (conditional - without)

        levels = sampling_levels(schedule.level(noise_level(pair, self.tau)), self.sampling_steps)
        clean = descend(schedule, slerp(ends[:1], ends[1:], u)[0], levels, predict)
        return model.decode(clean)
