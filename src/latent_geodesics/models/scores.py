"""Scores: which density's gradient is read off a denoising network.

The network predicts noise, so at diffusion time t the score of the noisy density is `grad log p_t(x | c) = -eps(x, c)
/ sigma_t`. Different combinations of predictions are gradients of different densities; each class names its own in
`density`, and a number computed with one of them speaks about that density only. The published method uses
`Contrastive`, averaged over random diffusion times and noises around tau (`Renoised`).

Symbols: `eps_c` prediction for the text condition c; `eps_-` for the negative text; `eps_0` for the empty text. A
query is a batch of points with their diffusion times and embeddings; every score is a function of a query's rows
alone.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.network import Denoiser, Guidance

NEGATIVE_PROMPT = (
    "A doubling image, unrealistic, artifacts, distortions, unnatural blending, ghosting effects, overlapping edges, "
    "harsh transitions, motion blur, poor resolution, low detail"
)
"""The negative text of the published method."""

Embed = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class ScoreQuery:
    """Points at which a score is asked for."""

    x: Float[Tensor, "n d"]  # noisy latents
    t: Int[Tensor, " n"]  # diffusion time of each row, in `[0, T)`
    condition: Float[Tensor, "n l c"]  # embedding of each row
    negative: Float[Tensor, "n l c"] | None  # embedding that replaces the score's own negative text, or None
    # Identity of the pair that each row belongs to; with `u` and `call` it names the row's random draws
    pair: Int[Tensor, " n"]
    u: Float[Tensor, " n"]  # position on the path of each row
    call: Int[Tensor, " n"]  # how often this pair was asked before


class Score(ABC):
    """A vector field on noisy latents that is the gradient of some log-density.

    Attributes:
        density: the density that it is the score of, in words for axis labels and reports.
    """

    density: str

    @abstractmethod
    def estimate(self, network: Denoiser, embed: Embed, query: ScoreQuery) -> Float[Tensor, "n d"]:
        """The score at the rows of a query, float32; `embed` turns texts into embeddings."""


def _embedding(embed: Embed, text: str, query: ScoreQuery) -> Float[Tensor, "n l c"]:
    embedded: Tensor = embed([text]).to(query.condition)
    return _tiled(embedded, query).expand_as(query.condition)


def _negative(embed: Embed, text: str, query: ScoreQuery) -> Float[Tensor, "n l c"]:
    return _embedding(embed, text, query) if query.negative is None else _tiled(query.negative, query)


def _tiled(embedded: Float[Tensor, "m l c"], query: ScoreQuery) -> Float[Tensor, "m k c"]:
    """As many tokens as the condition has, where that is several embeddings one after the other.

    Attention to tokens that all stand there equally often is the same as to one of each.
    """
    return embedded.repeat(1, query.condition.shape[1] // embedded.shape[1], 1)


def _over_sigma(network: Denoiser, field: Float[Tensor, "n d"], query: ScoreQuery) -> Float[Tensor, "n d"]:
    return field / network.schedule.sigma(query.t).unsqueeze(-1)


@dataclass(frozen=True, kw_only=True)
class Conditional(Score):
    """The score of the conditional density, `s = -eps_c / sigma_t`."""

    density: str = "p(x | c)"

    def estimate(self, network: Denoiser, embed: Embed, query: ScoreQuery) -> Float[Tensor, "n d"]:  # noqa: D102
        return _over_sigma(network, -network.noise(query.x, query.t, query.condition), query)


@dataclass(frozen=True, kw_only=True)
class Unconditional(Score):
    """The score of the density without a prompt, `s = -eps_0 / sigma_t`.

    It does not change along a path, so the density along the path means one thing.
    """

    prompt: str = ""  # the text that stands for no text
    density: str = "p(x)"

    def estimate(self, network: Denoiser, embed: Embed, query: ScoreQuery) -> Float[Tensor, "n d"]:  # noqa: D102
        empty = _embedding(embed, self.prompt, query)
        return _over_sigma(network, -network.noise(query.x, query.t, empty), query)


@dataclass(frozen=True, kw_only=True)
class Guided(Score):
    """The score under classifier-free guidance, `s = -((1 - w) eps_- + w eps_c) / sigma_t` (Ho, Salimans 2022)."""

    weight: float = 3.0  # guidance weight w >= 0; 1 equals `Conditional`
    prompt: str = ""  # the text guidance moves away from, by default no text

    def __post_init__(self) -> None:
        check_guidance(self.weight, name="weight")

    @property
    def density(self) -> str:  # type: ignore[override]
        """The density, with its powers."""
        return f"p(x | c)^{self.weight:g} p(x)^{1 - self.weight:g}"

    def estimate(self, network: Denoiser, embed: Embed, query: ScoreQuery) -> Float[Tensor, "n d"]:  # noqa: D102
        negative = _negative(embed, self.prompt, query)
        output = network.guided_output(query.x, query.t, Guidance(query.condition, negative, self.weight))
        return _over_sigma(network, -network.schedule.noise(query.x, output, query.t), query)


@dataclass(frozen=True, kw_only=True)
class Contrastive(Score):
    """Half the difference of the predictions for a negative text and for the condition, `(eps_- - eps_c) / 2`.

    This is the published method's score estimate. It is the gradient of a density *ratio*,
    `(sigma_t / 2) log[p(x | c) / p(x | negative)]`: where both densities fall off together it vanishes. The published
    factor has no `1 / sigma_t`, so the power alpha absorbs it; `scaled` puts it back.

    References:
        Yu et al. 2025, arXiv 2504.06675; Katzir et al. 2023, arXiv 2310.17590 (noise-free score distillation).
    """

    negative_prompt: str = NEGATIVE_PROMPT  # the text of the negative embedding
    scaled: bool = False  # whether to divide by `sigma_t`

    @property
    def density(self) -> str:  # type: ignore[override]
        """The density ratio, with its power."""
        return f"[p(x | c) / p(x | negative)]^({'1' if self.scaled else 'sigma'}/2)"

    def estimate(self, network: Denoiser, embed: Embed, query: ScoreQuery) -> Float[Tensor, "n d"]:  # noqa: D102
        negative = _negative(embed, self.negative_prompt, query)
        both = network.noise(query.x.repeat(2, 1), query.t.repeat(2), torch.cat([negative, query.condition]))
        without, conditional = both.chunk(2)
        half_difference = 0.5 * (without - conditional)
        return _over_sigma(network, half_difference, query) if self.scaled else half_difference


def check_guidance(weight: float, *, name: str = "guidance") -> None:
    """Refuse a guidance weight that is negative or not finite."""
    if not 0.0 <= weight < float("inf"):
        raise UserError(f"{name} must be a finite number of at least 0 (1 is purely conditional); received {weight}")


# Positions closer than this are the same point as far as random draws go; float32 cannot tell much finer apart.
_POSITIONS = 2**20


@dataclass(frozen=True, kw_only=True)
class Renoised(Score):
    """Another score, averaged over `draws` re-noised copies of each point: the published 'back and forward' estimate.

    At a point x of noise level t0 draw `t ~ U{t0 - w, ..., t0 + w - 1}` and `eps ~ N(0, I)`, and read the score at

        x_t = sqrt(abar_t / abar_t0) x + (sigma_t - sqrt(abar_t / abar_t0) sigma_t0) eps.

    The drawn noise is not the latent's own, so `x_t` is off the distribution that the network was trained on unless
    t = t0: this is kept because it was published; evaluation at t0 needs no wrapper and is the default.

    Deviation: the published code draws one t for ten points and fresh noise at every call, so its field is not a
    function and a fixed point has a noise floor. Here every point draws its own t, and by default the draws depend on
    (seed, pair, u) alone, so the field is a fixed function of the point.

    References:
        Yu et al. 2025, arXiv 2504.06675.
    """

    score: Score  # the score to average
    window: int = 100  # half-width w of the range of diffusion times, at least 1
    draws: int = 1  # random copies of each point, at least 1; the published method uses 1
    seed: int = 0  # seed of the draws
    common_random_numbers: bool = True  # whether a point has the same draws at every call

    def __post_init__(self) -> None:
        if self.window < 1 or self.draws < 1:
            raise UserError(f"window and draws must be at least 1; received {self.window} and {self.draws}")
        if isinstance(self.score, Renoised):
            raise UserError("a re-noised score cannot be re-noised again; give the score it wraps, and more draws")

    @property
    def density(self) -> str:  # type: ignore[override]
        """The wrapped score's density, averaged over noise levels."""
        return f"{self.score.density}, re-noised"

    def estimate(self, network: Denoiser, embed: Embed, query: ScoreQuery) -> Float[Tensor, "n d"]:  # noqa: D102
        total = torch.zeros_like(query.x)
        for draw in range(self.draws):
            total += self.score.estimate(network, embed, self._renoise(network, query, draw))
        return total / self.draws

    def _renoise(self, network: Denoiser, query: ScoreQuery, draw: int) -> ScoreQuery:
        schedule = network.schedule
        shift, noise = self._draw(query, draw)
        t = (schedule.training_time(query.t) + shift).clamp(0, schedule.training_times - 1)
        keep = (schedule.abar(t) / schedule.abar(query.t)).sqrt()
        added = schedule.sigma(t) - keep * schedule.sigma(query.t)
        return replace(query, x=keep.unsqueeze(-1) * query.x + added.unsqueeze(-1) * noise, t=t)

    def _draw(self, query: ScoreQuery, draw: int) -> tuple[Int[Tensor, " n"], Float[Tensor, "n d"]]:
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
