r"""In which range of the log-density noised real images lie, relative to their own inverted latents.

Of a real image with the clean latent `z` a model has the typical latents `x = sqrt(abar) z + sigma eps` at a noise
level, `eps ~ N(0, I)`; the inversion `y`, at which paths begin and end, is a single one and need not be typical. The
line integral of the score along the great circle from `y` to `x`, with `x` put on the sphere of `y`, where paths lie,

    l = log p(x | c) - log p(y | c) = int s(g(u)) . g'(u) du,

is known without the constant of `p`. Its mean over images and draws is the middle of the range and twice its standard
deviation half its width: what `geometries.Typical` asks for, which refers `log p` to the mean of both ends of a path.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.geometry import density_profile
from latent_geodesics.core.manifold import Sphere
from latent_geodesics.core.path import GreatCircle
from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.models.scores import Score

FEWEST = 8
DEVIATIONS = 2.0


@dataclass(frozen=True, kw_only=True)
class TypicalRange:
    """The range of the log-density, in nats, relative to inverted latents."""

    middle: float  # its middle
    width: float  # half its width
    levels: Float[Tensor, "m k"]  # `l` of each image and draw
    error: float  # the largest quadrature error of a level


def measure_typical_range(
    model: LatentModel,
    images: Float[Tensor, "m 3 h w"],
    prompts: Sequence[str],
    *,
    tau: float,
    score: Score | None = None,
    draws: int = 2,
    seed: int = 0,
    pieces: int = 4,
) -> TypicalRange:
    """Measures the range for a model, a score and a noise level; costs `5 * pieces` evaluations an image and draw.

    Args:
        model: the diffusion model.
        images: real images of the model's size, in [0, 1], at least 8.
        prompts: what each shows.
        tau: the noise level, in (0, 1).
        score: whose density; None is `Conditional`.
        draws: how many eps for each image.
        seed: where they start.
        pieces: of the quadrature of each line integral.

    Raises:
        UserError: for too few images or draws, or a prompt too many.
    """
    if len(images) < FEWEST or draws < 1 or len(prompts) != len(images):
        raise UserError(
            f"A typical range is measured on at least {FEWEST} images with a prompt each and one draw or more, got "
            f"{len(images)} images, {len(prompts)} prompts and {draws} draws."
        )
    condition = model.condition(list(prompts))
    own = model.invert(images, condition=condition, tau=tau).sound
    clean = model.encode(images, tau=0.0)
    field = model.field(condition0=condition, tau=tau, score=score)
    sphere = Sphere(own.norm(dim=-1))
    generator = torch.Generator().manual_seed(seed)
    levels, error = [], 0.0
    for _ in range(draws):
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        noised = model.abar(tau) ** 0.5 * clean + model.sigma(tau) * noise
        arc = GreatCircle(x0=own, x1=sphere.project(noised), sphere=sphere)
        change = density_profile(arc, field, pieces=pieces).change
        levels.append(change.value)
        error = max(error, float(change.error.max()))
    found = torch.stack(levels, 1).cpu()
    return TypicalRange(middle=float(found.mean()), width=DEVIATIONS * float(found.std()), levels=found, error=error)
