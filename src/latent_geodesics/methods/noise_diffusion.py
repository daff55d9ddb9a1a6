"""NoiseDiffusion: spherical blending of clipped noisy latents, with some of the images mixed back in."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.methods.base import PairMethod, pair_seed
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.methods.sampling import check_tau, noise_level, noisy_ends
from latent_geodesics.methods.timing import Draw


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseDiffusion(PairMethod):
    """Creates NoiseDiffusion.

    With the noisy latents l of the two images and their clean latents z, both of unit scale,

        x(u) = clip(a clip(l_A) + b clip(l_B) + sqrt(abar) [(mu - a) z_A + (nu - b) z_B] + gamma sigma eps),
        a = cos(u pi/2),  b = sin(u pi/2),  mu = boost a/(a+b),  nu = boost b/(a+b),

    decoded with guidance. The ends are not quite the images: there, too, latents are clipped and images added.

    References:
        Zheng et al. 2024, NoiseDiffusion: correcting noise for image interpolation with diffusion models beyond
        spherical linear interpolation, arXiv 2403.08840.

    Deviation: the frames are spread over all of [0, 1], where the paper shows u = .17, .33, .5, .67, .83; the DDIM
    steps are the model's, where the paper takes 200.

    Args:
        tau: Noise level; None is the run's.
        guidance: Classifier-free guidance at decoding; None is the run's.
        bound: Where latents are clipped, above 0.
        boost: How much of the images there is in all, at least 0.
        gamma: How much fresh noise is added, at least 0.
        seed: Seed of that noise.
    """

    tau: float | None = 0.7
    guidance: float | None = 10.0
    bound: float = 2.0
    boost: float = 1.2
    gamma: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        bound, boost, gamma = self.bound, self.boost, self.gamma
        if bound <= 0 or boost < 0 or gamma < 0:
            raise UserError(f"NoiseDiffusion needs bound > 0, boost >= 0, gamma >= 0; got {bound}, {boost}, {gamma}.")
        check_tau(self.tau)

    @contextmanager
    def sequence(self, pair: EncodedPairs) -> Iterator[Draw]:
        """Encodes both images, clean and noisy."""
        model, level = pair.model, noise_level(pair, self.tau)
        noisy = noisy_ends(pair, self.tau).clamp(-self.bound, self.bound)
        clean = model.encode(pair.images)
        rng = torch.Generator().manual_seed(pair_seed(pair, self.seed))
        noise = torch.randn(model.dimension, generator=rng).to(clean)
        guidance = pair.guidance if self.guidance is None else self.guidance

        def draw(u: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
            weights = torch.stack([(u * math.pi / 2).cos(), (u * math.pi / 2).sin()], dim=-1).to(clean)
            image = self.boost * weights / weights.sum(-1, keepdim=True) - weights
            x = weights @ noisy + math.sqrt(model.abar(level)) * image @ clean
            x = (x + self.gamma * model.sigma(level) * noise).clamp(-self.bound, self.bound)
            return model.decode(x, condition=pair.condition(u)[0], tau=level, guidance=guidance)

        yield draw
