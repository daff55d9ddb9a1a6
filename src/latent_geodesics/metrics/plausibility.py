r"""Whether the latents of a path are plausible: held against those of real images at the same noise level.

Two things are known of the real images' own inverted latents, and of any other point x:

- its level, the log-density `log p(x)` of the density *without a prompt*, so that it is one density for all points,
  in nats above the median of the real latents. It comes from line integrals of the score along straight lines from one
  of them. A network's score is not exactly a gradient: what the integrals around triangles of real latents fail to
  close by is measured, and allowed for;
- its norm, `|x| / sqrt(d)`: noisy latents lie on a shell.

A point is plausible while its level is not below that of the least probable real latent, and its norm not outside the
range of theirs, the first with the misclosure and the second with a hundredth as margin. The noise that the network
sees in a point, `|sigma s| / sqrt(d)`, is stated beside them.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.path import Path, gauss_legendre
from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.models.scores import Unconditional

LEFT_PLAUSIBLE = "left_plausible"
LEFT_PLAUSIBLE_SENTENCE = (
    "The path went where no real image is: below the least probable of the reference images, or off the shell of their "
    "norms; the frames from there on are not to be trusted: ask for a shorter path or a smaller alpha."
)
FEWEST = 4
QUADRATURE = 16
NORM_MARGIN = 0.01


@dataclass(frozen=True, kw_only=True)
class PlausibilityCurves:
    """What the points of paths are like."""

    u: Float[Tensor, " n"]  # positions in [0, 1]
    level: Float[Tensor, "p n"]  # `log p` without a prompt, in nats above the median of the real latents
    norm: Float[Tensor, "p n"]  # `|x| / sqrt(d)`
    noise: Float[Tensor, "p n"]  # `|sigma s| / sqrt(d)`, without a prompt
    plausible: Bool[Tensor, "p n"]  # whether level and norm are those of real latents

    @property
    def until(self) -> Float[Tensor, " p"]:
        """The last position before the first that is not plausible; 1 where all are, NaN where the first is not."""
        lost = ~self.plausible
        first = lost.int().argmax(-1)
        before = self.u.to(self.level)[(first - 1).clamp(min=0)]
        before = torch.where(first == 0, torch.nan, before)
        return torch.where(lost.any(-1), before, 1.0)


class RealLatents:
    """The latents of real images, at least 4, at the noise level tau, and what they say of others."""

    def __init__(self, *, model: LatentModel, latents: Float[Tensor, "m d"], tau: float) -> None:
        if len(latents) < FEWEST:
            raise UserError(
                f"What is plausible is learnt from at least {FEWEST} reference images, got {len(latents)}: raise "
                "task.reference.count."
            )
        self._model, self._tau, self._origin = model, tau, latents[:1]
        self._sigma, self._root = model.sigma(tau), math.sqrt(latents.shape[1])
        levels = self._line(self._origin.expand_as(latents), latents)
        around = levels.roll(-1) - levels - self._line(latents, latents.roll(-1, 0))
        # The two triangles that touch the origin have no area.
        self.misclosure = float(around[1:-1].square().mean().sqrt())
        self._median = levels.median()
        self.levels: Float[Tensor, " m"] = levels - self._median
        self.norms: Float[Tensor, " m"] = latents.norm(dim=-1) / self._root
        self.noises: Float[Tensor, " m"] = self._noise(self._score(latents))

    @property
    def least_level(self) -> float:
        """The level below which a point is not plausible, in nats."""
        return float(self.levels.min()) - self.misclosure

    @property
    def shell(self) -> tuple[float, float]:
        """The norms outside which a point is not plausible."""
        return float(self.norms.min()) * (1 - NORM_MARGIN), float(self.norms.max()) * (1 + NORM_MARGIN)

    def follow(self, path: Path, *, positions: int = 33) -> PlausibilityCurves:
        """What the points of each path are like; costs `positions + 16` evaluations a path."""
        u = torch.linspace(0, 1, positions, dtype=torch.float64)
        x, v = path.point(u), path.velocity(u)
        score = self._score(x)
        start = self._line(self._origin.expand(len(x), -1), x[:, 0]) - self._median
        rises = torch.cumulative_trapezoid((v * score).sum(-1).double(), u.to(x.device), dim=-1)
        level = start[:, None] + torch.nn.functional.pad(rises, (1, 0))
        norm = x.norm(dim=-1) / self._root
        least, most = self.shell
        plausible = (level >= self.least_level) & (norm >= least) & (norm <= most)
        return PlausibilityCurves(u=u, level=level, norm=norm, noise=self._noise(score), plausible=plausible)

    def _line(self, a: Float[Tensor, "p d"], b: Float[Tensor, "p d"]) -> Float[Tensor, " p"]:
        """`log p(b) - log p(a)` by the integral of the score along the straight line between them."""
        nodes, weights = (part.to(a) for part in gauss_legendre(QUADRATURE))
        points = torch.lerp(a[:, None], b[:, None], nodes[:, None])
        rates = (self._score(points) * (b - a)[:, None]).sum(-1).double()
        rise: Tensor = rates @ weights.double()
        return rise

    def _score(self, x: Float[Tensor, "p *n d"]) -> Float[Tensor, "p *n d"]:
        empty = self._model.condition([""]).expand(len(x), -1, -1)
        field = self._model.field(condition0=empty, tau=self._tau, score=Unconditional())
        return field.score(x, torch.zeros(x.shape[:-1], device=x.device))

    def _noise(self, score: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        noise: Tensor = score.norm(dim=-1) * self._sigma / self._root
        return noise
