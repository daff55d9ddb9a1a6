"""DiffMorpher: an adapter for each image, everything interpolated between the two."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.methods.base import TRAINED, PairMethod
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.methods.lines import adain, slerp
from latent_geodesics.methods.sampling import check_share, check_tau, frame_groups, guided, noise_level
from latent_geodesics.methods.timing import Draw
from latent_geodesics.models.attention import Inner
from latent_geodesics.models.inversion import descend, sampling_levels
from latent_geodesics.models.lora import Loras, LoraTraining
from latent_geodesics.models.store import content_key


@dataclass(frozen=True, kw_only=True, eq=False)
class DiffMorpher(PairMethod):
    """Creates DiffMorpher without its re-timing, which is `Retimed` with a perceptual timing around it.

    For each image a LoRA is fitted, and the image is inverted with it. The frame at u has the weights 1-u and u on the
    two LoRAs, the latent `AdaIN(slerp(x_A, x_B, u))` and the embedding `(1-u) c_A + u c_B`; over the first
    `attention_share` of the steps the self-attention of the up-blocks has `(1-u) h_A + u h_B` for the source of its
    keys and values, h the features of the ends, which are denoised alongside. There is no guidance.

    References:
        Zhang et al. 2023, DiffMorpher: unleashing the capability of diffusion models for image morphing, arXiv
        2312.07409.

    Deviation: the change that the LoRAs make to a layer moves linearly (B A weighted), where the published code blends
    the factors A and B themselves.

    Args:
        lora: How the LoRAs are fitted.
        attention_share: Share of the steps, from the noisiest, with interpolated attention, in [0, 1].
        statistics: Whether AdaIN is applied.
        tau: Noise level of the latents; None is the run's, 1 is as published.
        seed: Seed of the LoRAs' training.
    """

    status = TRAINED
    lora: LoraTraining = LoraTraining()
    attention_share: float = 0.6
    statistics: bool = True
    tau: float | None = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_share("attention_share", self.attention_share)
        check_tau(self.tau)

    @contextmanager
    def sequence(self, pair: EncodedPairs) -> Iterator[Draw]:
        """Fits both LoRAs and inverts each image with its own."""
        batch = pair.batch
        with Loras(pair.model.network.steerable) as loras:
            first = self._end(pair, loras, "a", batch.images_a, pair.condition_a)
            ends = torch.cat([first, self._end(pair, loras, "b", batch.images_b, pair.condition_b)])

            def draw(u: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
                groups = frame_groups(pair.model, len(u))
                return torch.cat([self._frames(pair, loras, ends, u[group]) for group in groups])

            yield draw

    def _end(
        self,
        pair: EncodedPairs,
        loras: Loras,
        name: str,
        image: Float[Tensor, "1 3 h w"],
        condition: Float[Tensor, "1 l c"],
    ) -> Float[Tensor, "1 d"]:
        """The latent of one image, inverted with a LoRA fitted to it, whatever the other image is."""
        model, seed = pair.model, int(content_key(image, self.seed)[:15], 16)
        self.lora.run(model.network, loras, name, latents=model.encode(image), conditions=condition, seed=seed)
        return model.invert(image, condition=condition, tau=noise_level(pair, self.tau)).sound

    def _frames(
        self, pair: EncodedPairs, loras: Loras, ends: Float[Tensor, "2 d"], u: Float[Tensor, " n"]
    ) -> Float[Tensor, "n 3 h w"]:
        model, schedule = pair.model, pair.model.schedule
        level = schedule.level(noise_level(pair, self.tau))
        rows = torch.cat([u.new_zeros(1), u, u.new_ones(1)])
        z = slerp(ends[:1], ends[1:], rows)
        if self.statistics:
            z = adain(z, ends[:1], ends[1:], rows, channels=model.latent_shape[0])
        x = torch.cat([ends[:1], z[0, 1:-1], ends[1:]])
        weights = rows.to(x)
        loras.weigh({"a": 1 - weights, "b": weights})
        condition, mixture = pair.condition(rows)[0], Inner(weights=weights)

        def predict(x: Float[Tensor, "m d"], k: int) -> Float[Tensor, "m d"]:
            early = mixture if level - k < self.attention_share * level else None
            return guided(model, x, k, condition=condition, weight=1.0, mixture=early, part="up_blocks", cross=False)

        clean = descend(schedule, x, sampling_levels(level), predict)
        return model.decode(clean[1:-1])
