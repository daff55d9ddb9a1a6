"""Interpolation by bisection: every new frame is a noisy blend of its two neighbours, denoised."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.methods.base import PairMethod, pair_seed
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.methods.lines import slerp
from latent_geodesics.methods.sampling import check_share
from latent_geodesics.methods.timing import Draw
from latent_geodesics.models.inversion import descend, sampling_levels, times
from latent_geodesics.models.network import Guidance


class WangGolland(PairMethod):
    """Creates the method of Wang and Golland.

    Between neighbours with clean latents z_l and z_r, from the middle outwards,

        x = slerp(sqrt(abar) z_l + sigma eps, sqrt(abar) z_r + sigma eps),

    with the same noise eps for both, is denoised to the frame between them; the level of the noise falls from `most` at
    the first frame to `least` at the last ones. The ends are the autoencoder's reconstructions of the images.

    References:
        Wang, Golland 2023, Interpolating between images with diffusion models, arXiv 2307.12560.

    Deviation: no ControlNet pose; no choice among eight candidates by CLIP (one is drawn); DDIM without its random part
    (the paper's eta is 0.05 to 0.1) and with the model's steps (200 to 250 there); the embeddings are the run's (its
    `textual_inversion` stands for the paper's tuning of them), between which they move linearly.

    Args:
        most: Noise level of the first frame, in [0, 1].
        least: Noise level of the last frames, in [0, most].
        guidance: Classifier-free guidance; None is the run's.
        seed: Seed of the noise.
    """

    def __init__(self, *, most: float = 0.6, least: float = 0.4, guidance: float | None = 7.5, seed: int = 0) -> None:
        if check_share("least", least) > check_share("most", most) or most == 1:
            raise UserError(f"Wang and Golland's noise levels need least <= most < 1, got {least} and {most}.")
        self.most, self.least, self.guidance, self.seed = most, least, guidance, seed

    @contextmanager
    def sequence(self, pair: EncodedPairs) -> Iterator[Draw]:
        """Encodes both images."""
        clean = pair.model.encode(pair.images)

        def draw(u: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
            rng = torch.Generator().manual_seed(pair_seed(pair, self.seed))
            latents = clean.new_empty(len(u), clean.shape[-1])
            latents[0], latents[-1] = clean
            rounds = _rounds(len(u))
            for depth, gaps in enumerate(rounds):
                share = depth / max(1, len(rounds) - 1)
                tau = self.most + share * (self.least - self.most)
                latents[[middle for _, middle, _ in gaps]] = self._between(pair, latents, gaps, u, tau, rng)
            return pair.model.decode(latents)

        yield draw

    def _between(
        self,
        pair: EncodedPairs,
        latents: Float[Tensor, "n d"],
        gaps: list[tuple[int, int, int]],
        u: Float[Tensor, " n"],
        tau: float,
        rng: torch.Generator,
    ) -> Float[Tensor, "m d"]:
        """The clean latents of the frames in the middle of gaps."""
        left, middle, right = (list(column) for column in zip(*gaps, strict=True))
        schedule, level = pair.model.schedule, pair.model.schedule.level(tau)
        noise = torch.randn(len(gaps), latents.shape[-1], generator=rng).to(latents)
        t = times(schedule, noise, level)
        ends = [schedule.diffuse(latents[side], noise, t) for side in (left, right)]
        width = u[right] - u[left]
        share = torch.where(width > 0, (u[middle] - u[left]) / width, 0.5 * torch.ones_like(width))
        x = torch.cat([slerp(a[None], b[None], at[None])[0] for a, b, at in zip(*ends, share, strict=True)])
        condition = pair.condition(u[middle])[0]
        negative = pair.model.condition([""]).to(condition).expand_as(condition)
        weight = pair.guidance if self.guidance is None else self.guidance

        def predict(x: Float[Tensor, "m d"], k: int) -> Float[Tensor, "m d"]:
            return pair.model.network.guided_output(x, times(schedule, x, k), Guidance(condition, negative, weight))

        return descend(schedule, x, sampling_levels(level), predict)


def _rounds(count: int) -> list[list[tuple[int, int, int]]]:
    """The gaps (left, middle, right) to fill between `count` frames, round by round."""
    rounds, gaps = [], [(0, count - 1)]
    while gaps := [(left, right) for left, right in gaps if right - left > 1]:
        filled = [(left, (left + right) // 2, right) for left, right in gaps]
        rounds.append(filled)
        gaps = [half for left, middle, right in filled for half in ((left, middle), (middle, right))]
    return rounds
