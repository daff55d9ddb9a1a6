r"""Whether frames are typical: as probable as real images are, neither less nor much more.

Paths through the most probable points leave the set in which samples lie: an image may be more probable than almost
any real one, and look like a drawing (Moreau et al. 2026, arXiv 2602.22122). So the log-density of frames is held
against the histogram of that of real images (the typical set; Nalisnick et al. 2019, arXiv 1906.02994).

Of a clean latent z the diffusion model gives a bound on the log-density, up to a constant that all images share (Kingma
et al. 2021, arXiv 2107.00630), with gamma = log (sigma^2 / abar) and x_gamma = sqrt(abar) z + sigma eps:

    l(z) = - 1/2 int E |eps - eps_theta(x_gamma)|^2 d gamma,

here over the noise levels given, by the trapezoidal rule, with the same few eps for every image and the empty prompt,
so that it is one density for all. Real images go through the autoencoder once before, as frames have.

- `typical_share`: the share of the inner frames whose l lies in the central 95 % of that of real images: 0.95 for real
  images themselves;
- `density_rank`: the mean share of real images that are less probable than the frame: 1/2 for real images, near 0 for
  improbable frames, near 1 for frames that are too probable.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.collection import read_collection
from latent_geodesics.data.images import read_image
from latent_geodesics.metrics.base import Column, Provenance, RunFacts, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph, MetricMemory
from latent_geodesics.models.latent_model import LatentModel

FEWEST = 20
TAILS = (0.025, 0.975)


class Typicality(SequenceMetric):
    """The two columns of the module's text.

    Args:
        reference: Real images, at least 20: a folder, or a manifest of images or of pairs.
        levels: Noise levels of the bound, increasing, in (0, 1).
        draws: How many eps, the same for every image.
        seed: Where they start.
    """

    needs = "model"
    columns: ClassVar = {
        "typical_share": Column(title="typical frames, real = 0.95", better="higher"),
        "density_rank": Column(title="density rank, real = 0.5"),
    }

    def __init__(
        self, *, reference: str, levels: Sequence[float] = (0.2, 0.4, 0.6, 0.8), draws: int = 2, seed: int = 0
    ) -> None:
        super().__init__()
        if len(levels) < 2 or list(levels) != sorted(set(levels)) or not 0 < levels[0] <= levels[-1] < 1:
            raise UserError(f"The levels of typicality must be two or more in (0, 1) and increase, got {list(levels)}.")
        if draws < 1:
            raise UserError(f"The draws of typicality must be at least 1, got {draws}.")
        self.images = read_collection(reference, frames=2)
        if len(self.images) < FEWEST:
            raise UserError(
                f"The metric {self.title} needs at least {FEWEST} real images for a histogram, and '{reference}' holds "
                f"{len(self.images)}: give it more, or leave it out."
            )
        self.reference, self.levels, self.draws, self.seed = reference, tuple(levels), draws, seed
        self._known = MetricMemory()  # in common with its copies

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:  # noqa: D102
        model = measured.model
        density = partial(bounded_log_density, model, levels=self.levels, draws=self.draws, seed=self.seed)

        def of_real_images() -> Float[Tensor, " m"]:
            images = torch.stack([read_image(image.file, size=model.image_size) for image in self.images])
            return density(model.decode(model.encode(images, tau=0.0), tau=0.0))

        real = self._known.recall(model.fingerprint, of_real_images)
        inner = measured.morph.frames[:, 1:-1]
        found = torch.full(inner.shape[:2], torch.nan, dtype=torch.float64)
        for row in torch.nonzero(~measured.failed).flatten().tolist():
            found[row] = density(inner[row])
        low, high = torch.quantile(real, torch.tensor(TAILS, dtype=real.dtype))
        below = (real < found[..., None]).double() + (real == found[..., None]).double() / 2
        return {
            "typical_share": ((found >= low) & (found <= high)).double().mean(-1),
            "density_rank": below.mean(-1).mean(-1),
        }

    def provenance(self, column: str, facts: RunFacts) -> Provenance:  # noqa: D102
        return Provenance(
            counts={"pairs": self.count(column), "reference": len(self.images)},
            notes=[f"real images: {self.reference}"],
        )


def bounded_log_density(
    model: LatentModel, images: Float[Tensor, "n 3 h w"], *, levels: Sequence[float], draws: int, seed: int
) -> Float[Tensor, " n"]:
    """l(z) of the latents of images in [0, 1], in nats up to a constant.

    The noise levels increase, in (0, 1); each has as many eps as there are draws, which start at the seed. Costs
    `draws * len(levels)` evaluations an image.
    """
    z = model.encode(images, tau=0.0)
    condition = model.condition([""]).expand(len(z), -1, -1)
    generator = torch.Generator().manual_seed(seed)
    losses, gammas = [], []
    for level in levels:
        abar, sigma = model.abar(level), model.sigma(level)
        t = torch.full((len(z),), model.time(level), device=z.device)
        loss = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        for _ in range(draws):
            noise = torch.randn(z.shape[1], generator=generator).to(z)
            found = model.network.noise(abar**0.5 * z + sigma * noise, t, condition)
            loss += (found - noise).double().square().sum(-1) / draws
        losses.append(loss)
        gammas.append(2 * math.log(sigma) - math.log(abar))
    gamma = torch.tensor(gammas, dtype=torch.float64, device=z.device)
    return -torch.trapezoid(torch.stack(losses), gamma, dim=0).cpu() / 2
