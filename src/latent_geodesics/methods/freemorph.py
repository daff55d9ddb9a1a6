"""FreeMorph: blended latents inverted and denoised together, attending to the two images and to one another."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.methods.aid import beta_quantiles
from latent_geodesics.methods.base import PairMethod, pair_seed
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.methods.lines import slerp
from latent_geodesics.methods.sampling import check_share, check_tau, guided, noise_level
from latent_geodesics.methods.timing import Draw
from latent_geodesics.models.attention import AttentionMixture, FrameAverage, Outer
from latent_geodesics.models.inversion import ascend, descend, sampling_levels

_PRIOR_FROM, _STEP_FROM = 0.3, 0.6
_STEP_UNTIL, _AVERAGE_UNTIL = 0.2, 0.6


def replace_high_frequencies(
    x: Float[Tensor, "n c h w"], noise: Float[Tensor, "c h w"], *, kept: float
) -> Float[Tensor, "n c h w"]:
    """The low frequencies of x and the high ones of a noise; kept is the side of the kept square of the spectrum."""
    height, width = (torch.fft.fftfreq(side, device=x.device).abs() * 2 for side in x.shape[-2:])
    low = (height[:, None] <= kept) & (width[None] <= kept)
    spectrum = torch.where(low, torch.fft.fft2(x), torch.fft.fft2(noise))
    return torch.real(torch.fft.ifft2(spectrum))


@dataclass(frozen=True, kw_only=True, eq=False)
class FreeMorph(PairMethod):
    """Creates FreeMorph, which trains nothing.

    1. Both images' clean latents and embeddings are interpolated (slerp, lerp) to one batch, ends included.
    2. The batch is inverted as one. Attention is plain over the first 0.3 of the steps; then every frame attends to
       every frame (`FrameAverage`); from 0.6 on to both ends, `(1-a) Attn(Q, K_A, V_A) + a Attn(Q, K_B, V_B)`.
    3. The highest frequencies of all rows are replaced by those of one noise.
    4. Denoised with guidance: attention to both ends with weights a until 0.2 of the steps, with 1/2 each until 0.6,
       plain after.

    The weights a are the quantiles of Beta(20, 20). The ends of the sequence are the images themselves.

    References:
        Cao et al. 2025, FreeMorph: tuning-free generalized image morphing with diffusion model, arXiv 2507.01953.

    Deviation: the number of frames is the run's, where the paper has five between the ends; the angle of slerp is taken
    over the whole latent, where the published code takes it row by row; prompts are the pair's, not a captioner's.

    Args:
        tau: Noise level that the batch is inverted to (the paper's strength); None is the run's.
        refinements: Refinements of every inversion step, at least 0.
        guidance: Classifier-free guidance at denoising; None is the run's.
        kept: Side of the square of the spectrum that is kept, in [0, 1].
        beta: Both parameters of the Beta distribution, above 0.
        seed: Seed of the noise.
    """

    tau: float | None = 0.8
    refinements: int = 5
    guidance: float | None = 7.5
    kept: float = 0.875
    beta: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.refinements < 0 or not 0 < self.beta < float("inf"):
            raise UserError(f"FreeMorph needs refinements >= 0 and beta > 0, got {self.refinements} and {self.beta}.")
        check_tau(self.tau)
        check_share("kept", self.kept)

    @contextmanager
    def sequence(self, pair: EncodedPairs) -> Iterator[Draw]:
        """Encodes both images."""
        clean = pair.model.encode(pair.images)

        def draw(u: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
            frames = self._frames(pair, slerp(clean[:1], clean[1:], u)[0], u)
            images = [image[0].to(frames) for image in (pair.batch.images_a, pair.batch.images_b)]
            return torch.stack([images[0], *frames[1:-1], images[1]])

        yield draw

    def _frames(self, pair: EncodedPairs, x: Float[Tensor, "n d"], u: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
        model, schedule = pair.model, pair.model.schedule
        level, condition = schedule.level(noise_level(pair, self.tau)), pair.condition(u)[0]
        weights = beta_quantiles(u, self.beta, self.beta).to(x)
        stepwise, average = Outer(weights=weights), FrameAverage()
        halves = Outer(weights=torch.where((u > 0) & (u < 1), 0.5, u).to(x))
        guidance = pair.guidance if self.guidance is None else self.guidance

        def up(x: Float[Tensor, "n d"], k: int) -> Float[Tensor, "n d"]:
            done = (k - 1) / level
            mixture: AttentionMixture | None = (
                stepwise if done >= _STEP_FROM else average if done >= _PRIOR_FROM else None
            )
            return guided(model, x, k, condition=condition, weight=1.0, mixture=mixture)

        def down(x: Float[Tensor, "n d"], k: int) -> Float[Tensor, "n d"]:
            done = (level - k) / level
            mixture = stepwise if done < _STEP_UNTIL else halves if done < _AVERAGE_UNTIL else None
            return guided(model, x, k, condition=condition, weight=guidance, mixture=mixture)

        noisy = self._with_noise(pair, ascend(schedule, x, level, up, refinements=self.refinements))
        return model.decode(descend(schedule, noisy, sampling_levels(level), down))

    def _with_noise(self, pair: EncodedPairs, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        shape = pair.model.latent_shape
        rng = torch.Generator().manual_seed(pair_seed(pair, self.seed))
        noise = torch.randn(*shape, generator=rng).to(x)
        return replace_high_frequencies(x.reshape(-1, *shape), noise, kept=self.kept).flatten(1)
