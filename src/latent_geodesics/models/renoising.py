"""Scores averaged over random diffusion times and noises around tau: the published 'back and forward' estimate.

At a point x of noise level t0 draw `t ~ U{t0 - w, ..., t0 + w - 1}` and `eps ~ N(0, I)`, and read the score at

    x_t = sqrt(abar_t / abar_t0) x + (sigma_t - sqrt(abar_t / abar_t0) sigma_t0) eps.

The drawn noise is not the latent's own, so `x_t` is off the distribution that the network was trained on unless t =
t0: this is kept because it was published; evaluation at t0 needs no wrapper and is the default.

Deviation: the published code draws one t for ten points and fresh noise at every call, so its field is not a function
and a fixed point has a noise floor. Here every point draws its own t, and by default with *common random numbers*:
the draws depend on (seed, pair, u) alone, so the field is a fixed function of the point.
`common_random_numbers=False` draws afresh each call.
"""

import hashlib
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.network import Denoiser
from latent_geodesics.models.scores import Embed, Query, Score

__all__ = ["Renoised"]

# Positions closer than this are the same point as far as random draws go; float32 cannot tell much finer apart.
_POSITIONS = 2**20


@dataclass(frozen=True, kw_only=True)
class Renoised(Score):
    """Another score, averaged over `draws` re-noised copies of each point.

    Args:
        score: the score to average.
        window: half-width w of the range of diffusion times, at least 1.
        draws: random copies of each point, at least 1; the published method uses 1.
        seed: seed of the draws.
        common_random_numbers: whether a point has the same draws at every call.

    References:
        Yu et al. 2025, arXiv 2504.06675.
    """

    score: Score
    window: int = 100
    draws: int = 1
    seed: int = 0
    common_random_numbers: bool = True

    def __post_init__(self) -> None:
        if self.window < 1 or self.draws < 1:
            raise UserError(f"window and draws must be at least 1; received {self.window} and {self.draws}")
        if isinstance(self.score, Renoised):
            raise UserError("a re-noised score cannot be re-noised again; give the score it wraps, and more draws")

    @property
    def density(self) -> str:  # type: ignore[override]
        """The wrapped score's density, averaged over noise levels."""
        return f"{self.score.density}, re-noised"

    def estimate(self, network: Denoiser, embed: Embed, query: Query) -> Float[Tensor, "n d"]:  # noqa: D102
        total = torch.zeros_like(query.x)
        for draw in range(self.draws):
            total += self.score.estimate(network, embed, self._renoise(network, query, draw))
        return total / self.draws

    def _renoise(self, network: Denoiser, query: Query, draw: int) -> Query:
        schedule = network.schedule
        shift, noise = self._draw(query, draw)
        t = (schedule.training_time(query.t) + shift).clamp(0, schedule.training_times - 1)
        keep = (schedule.abar(t) / schedule.abar(query.t)).sqrt()
        added = schedule.sigma(t) - keep * schedule.sigma(query.t)
        return replace(query, x=keep.unsqueeze(-1) * query.x + added.unsqueeze(-1) * noise, t=t)

    def _draw(self, query: Query, draw: int) -> tuple[Int[Tensor, " n"], Float[Tensor, "n d"]]:
        calls = torch.zeros_like(query.call) if self.common_random_numbers else query.call
        positions = (query.u.cpu().double() * _POSITIONS).round().long()
        keys = torch.stack([query.pair, positions, calls], dim=-1).tolist()
        shifts, noises = [], []
        for key in keys:
            generator = _generator(self.seed, draw, *key)
            shifts.append(int(torch.randint(-self.window, self.window, (), generator=generator)))
            noises.append(torch.randn(query.x.shape[-1], generator=generator))
        return torch.tensor(shifts).to(query.t), torch.stack(noises).to(query.x)


def _generator(*key: int) -> torch.Generator:
    """A generator of the CPU, so that the draws are the same on every device."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
