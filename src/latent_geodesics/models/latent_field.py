"""The score of a diffusion model at one noise level, as a field over the paths of a batch of pairs.

The density may change along a path: pair i at position u is conditioned on `(1 - u) c0_i + u c1_i`. Points are flat
noisy latents. What the network's precision does not resolve is asked of the same network in float32 (`Ladder`).
"""

import logging
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.fields import Resolution, ScoreField
from latent_geodesics.models.network import Denoiser
from latent_geodesics.models.precision import Layout, machine_name
from latent_geodesics.models.scores import Embed, Score, ScoreQuery
from latent_geodesics.models.store import content_key, measured_once

log = logging.getLogger(__name__)

_MOST_POINTS = 8
Resolve = Callable[["LatentField", Tensor, Tensor], Resolution | None]


class LatentField(ScoreField):
    """A `Score` of a network at a fixed diffusion time, for p pairs with conditions of their own."""

    def __init__(
        self,
        *,
        # Give the denoising network, each when it is asked for: the first is the field's own, any other one of a higher
        # precision
        networks: Sequence[Callable[[], Denoiser]],
        embed: Embed,  # turns texts into embeddings
        score: Score,  # which density's gradient to compute
        time: int,  # diffusion time of the noise level
        condition0: Float[Tensor, "p l c"],  # embedding of each pair at u = 0
        # Embedding of each pair at u = 1, or None for the same one all along
        condition1: Float[Tensor, "p l c"] | None,
        # Embedding in place of the score's own negative text, for each pair, or None
        negative: Float[Tensor, "p l c"] | None,
        pair: Int[Tensor, " p"],  # identity of each pair, for its random draws
        # Measures how well this field resolves scores at given points; None for full precision
        resolve: Resolve | None = None,
    ) -> None:
        self._networks, self._embed, self._score, self._time = tuple(networks), embed, score, time
        self._condition0, self._condition1, self._negative = condition0, condition1, negative
        self._pair, self._resolve = pair, resolve
        self._rows = torch.arange(len(condition0))
        self._calls = torch.zeros(len(condition0), dtype=torch.long)

    @property
    def setting(self) -> tuple[str, int]:
        """What its resolution depends on besides the network: the score and the diffusion time."""
        return repr(self._score), self._time

    @property
    def density(self) -> str:
        """The density that this is the score of, in words."""
        return self._score.density

    @torch.no_grad()
    def score(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """The score at points of the paths; the first axis of `x` counts this field's pairs."""
        p = len(self._condition0)
        if x.ndim < 2 or len(x) != p or u.shape != x.shape[:-1]:
            raise ValueError(
                f"x must be [{p}, ..., d] with one entry per pair and u must be [{p}, ...]; received {list(x.shape)} "
                f"and {list(u.shape)}"
            )
        query = self._query(x.reshape(p, -1, x.shape[-1]), u.reshape(p, -1))
        self._calls[self._rows] += 1
        return self._score.estimate(self._networks[0](), self._embed, query).reshape(x.shape).to(x.dtype)

    def resolution(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Resolution | None:
        """The relative error of the network's precision in this score, measured at the points unless it is known."""
        return None if self._resolve is None else self._resolve(self, x, u)

    def finer(self) -> "LatentField | None":
        """The same score by the network of a higher precision, which is loaded when it is first asked."""
        if len(self._networks) == 1:
            return None
        view = copy(self)
        view._networks, view._resolve = self._networks[1:], None
        return view.share_evaluations(self)

    def restrict(self, pairs: Int[Tensor, " m"]) -> "LatentField":
        """The field of a subset of the pairs; evaluations and calls are counted in common."""
        here, there = pairs.cpu(), pairs.to(self._condition0.device)
        view = copy(self)
        view._condition0 = self._condition0[there]
        view._condition1 = None if self._condition1 is None else self._condition1[there]
        view._negative = None if self._negative is None else self._negative[there]
        view._pair, view._rows = self._pair[here], self._rows[here]
        return view.share_evaluations(self)

    def _query(self, x: Float[Tensor, "p n d"], u: Float[Tensor, "p n"]) -> ScoreQuery:
        (p, n, _), rows, negative = x.shape, x.flatten(0, 1).to(self._condition0), self._negative
        condition = self._condition0.unsqueeze(1).expand(-1, n, -1, -1)
        if self._condition1 is not None:
            weight = u[..., None, None].to(condition)
            condition = (1.0 - weight) * condition + weight * self._condition1.unsqueeze(1)
        return ScoreQuery(
            x=rows,
            t=torch.full((p * n,), self._time, dtype=torch.long, device=rows.device),
            condition=condition.flatten(0, 1),
            negative=None if negative is None else negative.repeat_interleave(n, dim=0),
            pair=self._pair.repeat_interleave(n),
            u=u.detach().flatten(),
            call=self._calls[self._rows].repeat_interleave(n),
        )


class TextConditioner:
    """Embeds prompts, each of them once, by what embeds one text."""

    def __init__(self, embed: Callable[[str], Float[Tensor, "l c"]]) -> None:
        self._embed = cache(embed)

    def __call__(self, prompts: Sequence[str]) -> Float[Tensor, "p l c"]:
        """The embeddings of prompts, float32; too long a prompt is cut, with a warning that names the words cut."""
        if isinstance(prompts, str) or not prompts or not all(isinstance(text, str) for text in prompts):
            raise UserError(f"prompts must be a non-empty sequence of texts; received {prompts!r}")
        return torch.stack(list(map(self._embed, prompts)))


@dataclass(kw_only=True, eq=False)
class Ladder:
    """A denoising network in the precision that was chosen, and in float32 for what that does not resolve.

    The second is loaded when it is first needed: to measure, once, how far the first is off; to finish a path for which
    more is asked than the first resolves; to take over where it overflows; and to invert images.
    """

    network: Denoiser  # the one in the precision chosen
    reload: (
        Callable[[], Any] | None
    )  # gives its U-Net in float32, on its device; None takes the rounded weights at hand
    layout: Layout  # the memory layout of both
    fingerprint: Callable[[], str]  # gives what identifies the network's weights
    folder: Path | None  # where resolutions are remembered; None for this object's life alone
    _known: dict[str, Resolution] = field(default_factory=dict, init=False)

    @property
    def networks(self) -> tuple[Callable[[], Denoiser], ...]:
        """What gives each network, the one chosen first; it alone where that is float32 already."""
        return (lambda: self.network, *([lambda: self.finer] if self.network.rounding else []))

    @cached_property
    def finer(self) -> Denoiser:
        """The network in float32; a `UserError` when the device's memory does not hold it beside the other."""
        coarse = self.network
        if coarse.precision == "tf32":
            return coarse.beside(coarse.module, "float32")
        log.info("Loading the network in float32 as well, for what %s does not resolve.", coarse.precision)
        try:
            unet = deepcopy(coarse.module).float() if self.reload is None else self.reload()
        except torch.OutOfMemoryError:
            raise UserError(
                f"the device has no room for the network in float32 beside {coarse.precision}, which the tolerance "
                "asked for needs: leave the solver's tolerance at null, or load the model with dtype=float32"
            ) from None
        self.layout.apply(unet)
        return coarse.beside(unet.requires_grad_(False).eval(), "float32")

    def resolve(self, given: LatentField, x: Float[Tensor, "p n d"], u: Float[Tensor, "p n"]) -> Resolution:
        """How well a field of the network resolves its score at a few of the points; measured once, then remembered."""
        name = repr((given.setting, self.network.precision))
        if name not in self._known:
            self._known[name] = self._remembered(name, given, x, u)
        return self._known[name]

    def _remembered(self, name: str, given: LatentField, x: Tensor, u: Tensor) -> Resolution:
        if self.folder is None:
            return self._measured(given, x, u)
        key = content_key(self.fingerprint(), machine_name(x.device), torch.__version__, name)
        file = self.folder / f"resolution-{key[:24]}.json"
        return measured_once(file, Resolution, lambda: self._measured(given, x, u))

    def _measured(self, given: LatentField, x: Tensor, u: Tensor) -> Resolution:
        """The mean of `|s~ - s| / |s|` over the points of the first pairs, as they occur."""
        precision, spent = self.network.precision, self.network.spent
        usual = Resolution(error=self.network.rounding, precision=precision)
        pairs = torch.arange(max(1, min(len(x), _MOST_POINTS // x.shape[1])))
        try:
            some = given.restrict(pairs)
            finer = some.finer()
            assert finer is not None
            found, true = (one.score(x[: len(pairs)], u[: len(pairs)]) for one in (some, finer))
        except (UserError, torch.OutOfMemoryError):
            log.warning("The precision of %s cannot be measured on this device: the usual one is taken.", precision)
            return usual
        finally:
            self.network.spent = spent  # not part of any run's cost
        error = float(((found - true).norm(dim=-1) / true.norm(dim=-1)).nanmean())
        return Resolution(error=error, precision=precision) if error < float("inf") else usual
