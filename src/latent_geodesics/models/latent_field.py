"""The score of a diffusion model at one noise level, as a field over the paths of a batch of pairs.

The density may change along a path: pair i at position u is conditioned on `(1 - u) c0_i + u c1_i`. Points are flat
noisy latents. What the network's precision does not resolve is asked of the same network in float32 (`Ladder`).
"""

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cached_property
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
    """A `Score` of a network at a fixed diffusion time, for p pairs with conditions of their own.

    Args:
        networks: give the denoising network, each when it is asked for: the first is the field's own, any other one of
            a higher precision.
        resolve: measures how well this field resolves scores at given points; None for full precision.
        embed: turns texts into embeddings.
        score: which density's gradient to compute.
        time: diffusion time of the noise level.
        condition0: embedding of each pair at u = 0.
        condition1: embedding of each pair at u = 1, or None for the same one all along.
        negative: embedding in place of the score's own negative text, for each pair, or None.
        pair: identity of each pair, for its random draws.
    """

    def __init__(
        self,
        *,
        networks: Sequence[Callable[[], Denoiser]],
        embed: Embed,
        score: Score,
        time: int,
        condition0: Float[Tensor, "p l c"],
        condition1: Float[Tensor, "p l c"] | None,
        negative: Float[Tensor, "p l c"] | None,
        pair: Int[Tensor, " p"],
        resolve: Resolve | None = None,
    ) -> None:
        self._networks, self._embed, self._score, self._time = tuple(networks), embed, score, time
        self._resolve = resolve
        self._condition0, self._condition1, self._negative = condition0, condition1, negative
        self._pair = pair
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
        """The score at points of the paths; the first axis of `x` counts this field's pairs.

        Raises:
            ValueError: when the first axis does not have one entry for each pair, or `u` does not fit `x`.
        """
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
        return self._view(torch.arange(len(self._pair)), networks=self._networks[1:], resolve=None)

    def restrict(self, pairs: Int[Tensor, " m"]) -> "LatentField":
        """The field of a subset of the pairs; evaluations and calls are counted in common."""
        return self._view(pairs)

    def _view(self, pairs: Int[Tensor, " m"], **changes: Any) -> "LatentField":
        here, there = pairs.cpu(), pairs.to(self._condition0.device)
        setting: dict[str, Any] = {
            "networks": self._networks,
            "embed": self._embed,
            "score": self._score,
            "time": self._time,
            "resolve": self._resolve,
        }
        view = LatentField(
            condition0=self._condition0[there],
            condition1=None if self._condition1 is None else self._condition1[there],
            negative=None if self._negative is None else self._negative[there],
            pair=self._pair[here],
            **(setting | changes),
        )
        view._rows, view._calls = self._rows[here], self._calls
        return view.share_evaluations(self)

    def _query(self, x: Float[Tensor, "p n d"], u: Float[Tensor, "p n"]) -> ScoreQuery:
        p, n, _ = x.shape
        rows = x.flatten(0, 1).to(self._condition0)
        negative = self._negative
        return ScoreQuery(
            x=rows,
            t=torch.full((p * n,), self._time, dtype=torch.long, device=rows.device),
            condition=interpolate_conditions(self._condition0, self._condition1, u).flatten(0, 1),
            negative=None if negative is None else negative.repeat_interleave(n, dim=0),
            pair=self._pair.repeat_interleave(n),
            u=u.detach().flatten(),
            call=self._calls[self._rows].repeat_interleave(n),
        )


class TextConditioner:
    """Embeds prompts, each of them once.

    Args:
        embed: what embeds one text.
    """

    def __init__(self, embed: Callable[[str], Float[Tensor, "l c"]]) -> None:
        self._embed = embed
        self._known: dict[str, Float[Tensor, "l c"]] = {}

    def __call__(self, prompts: Sequence[str]) -> Float[Tensor, "p l c"]:
        """The embeddings of prompts, float32; too long a prompt is cut, with a warning that names the words cut."""
        if isinstance(prompts, str) or not prompts or not all(isinstance(text, str) for text in prompts):
            raise UserError(f"prompts must be a non-empty sequence of texts; received {prompts!r}")
        for text in prompts:
            if text not in self._known:
                self._known[text] = self._embed(text)
        return torch.stack([self._known[text] for text in prompts])


def match_rows(condition: Float[Tensor, "m l c"], rows: int, *, name: str = "condition") -> Float[Tensor, "rows l c"]:
    """One embedding for each of `rows` rows; a single embedding serves all rows."""
    if condition.ndim != 3 or len(condition) not in (1, rows):
        raise UserError(
            f"{name} must hold one embedding per row, [{rows}, tokens, channels]; received {list(condition.shape)}"
        )
    return condition.expand(rows, -1, -1)


def interpolate_conditions(
    condition0: Float[Tensor, "p l c"], condition1: Float[Tensor, "p l c"] | None, u: Float[Tensor, "p n"]
) -> Float[Tensor, "p n l c"]:
    """The embedding `(1 - u) c_0 + u c_1` at positions `u`; `c_0` everywhere when `c_1` is None."""
    start = condition0.unsqueeze(1)
    if condition1 is None:
        return start.expand(-1, u.shape[1], -1, -1)
    weight = u[..., None, None].to(start)
    return (1.0 - weight) * start + weight * condition1.unsqueeze(1)


class Ladder:
    """A denoising network in the precision that was chosen, and in float32 for what that does not resolve.

    The second is loaded when it is first needed: to measure, once, how far the first is off; to finish a path for which
    more is asked than the first resolves; to take over where it overflows; and to invert images.

    Args:
        network: the network in the precision chosen.
        reload: gives its U-Net in float32, on its device; None takes the weights at hand, as they were rounded.
        layout: the memory layout of both.
        fingerprint: gives what identifies the network's weights.
        folder: where resolutions are remembered; None for this object's life alone.
    """

    def __init__(
        self,
        network: Denoiser,
        *,
        reload: Callable[[], Any] | None,
        layout: Layout,
        fingerprint: Callable[[], str],
        folder: Path | None,
    ) -> None:
        self._network, self._reload, self._layout = network, reload, layout
        self._fingerprint, self._folder = fingerprint, folder
        self._known: dict[str, Resolution] = {}

    @property
    def networks(self) -> tuple[Callable[[], Denoiser], ...]:
        """What gives each network, the one chosen first; it alone where that is float32 already."""
        return (lambda: self._network, *([lambda: self.finer] if self._network.rounding else []))

    @cached_property
    def finer(self) -> Denoiser:
        """The network in float32.

        Raises:
            UserError: when the device's memory does not hold it beside the other.
        """
        coarse = self._network
        if coarse.precision == "tf32":
            return coarse.beside(coarse.module, "float32")
        log.info("Loading the network in float32 as well, for what %s does not resolve.", coarse.precision)
        try:
            unet = deepcopy(coarse.module).float() if self._reload is None else self._reload()
        except torch.OutOfMemoryError:
            raise UserError(
                f"the device has no room for the network in float32 beside {coarse.precision}, which the tolerance "
                "asked for needs: leave the solver's tolerance at null, or load the model with dtype=float32"
            ) from None
        self._layout.apply(unet)
        return coarse.beside(unet.requires_grad_(False).eval(), "float32")

    def resolve(self, field: LatentField, x: Float[Tensor, "p n d"], u: Float[Tensor, "p n"]) -> Resolution:
        """How well a field of the network resolves its score at a few of the points; measured once, then remembered."""
        name = repr((field.setting, self._network.precision))
        if name not in self._known:
            self._known[name] = self._remembered(name, field, x, u)
        return self._known[name]

    def _remembered(self, name: str, field: LatentField, x: Tensor, u: Tensor) -> Resolution:
        if self._folder is None:
            return self._measured(field, x, u)
        key = content_key(self._fingerprint(), machine_name(x.device), torch.__version__, name)
        file = self._folder / f"resolution-{key[:24]}.json"
        return measured_once(file, Resolution, lambda: self._measured(field, x, u))

    def _measured(self, field: LatentField, x: Tensor, u: Tensor) -> Resolution:
        """The mean of `|s~ - s| / |s|` over the points of the first pairs, as they occur."""
        precision = self._network.precision
        pairs = torch.arange(max(1, min(len(x), _MOST_POINTS // x.shape[1])))
        spent = self._network.spent
        try:
            some = field.restrict(pairs)
            finer = some.finer()
            assert finer is not None
            found, true = (one.score(x[: len(pairs)], u[: len(pairs)]) for one in (some, finer))
        except (UserError, torch.OutOfMemoryError):
            log.warning("The precision of %s cannot be measured on this device: the usual one is taken.", precision)
            return Resolution(error=self._network.rounding, precision=precision)
        finally:
            self._network.spent = spent  # not part of any run's cost
        errors = (found - true).norm(dim=-1) / true.norm(dim=-1)
        error = float(errors.nanmean())
        if not error < float("inf"):
            return Resolution(error=self._network.rounding, precision=precision)
        return Resolution(error=error, precision=precision)
