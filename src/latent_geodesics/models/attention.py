"""Attention between images: what the layers of a U-Net attend to, changed for a while.

An attention layer computes `Attn(Q(h), K(s), V(s))` from its input h and a source s: the image's own features in
self-attention (s = h), the text's embedding in cross-attention. Frames of one sequence are made alike by giving them
other sources. A `AttentionMixture` says which: every row's output becomes a weighted sum

    sum_i w_i Attn(Q(h), K(s_i), V(s_i)),      sum_i w_i = 1,

over sources made of all rows of the batch. Keys and values are linear in the source, so a blend of sources is a blend
of keys and values. By convention row 0 is the first image of a pair, the last row is the second, and the rows between
are frames.

The layers are found in the model itself, and each keeps its own processor, which does the arithmetic; it is put back
on leaving, whatever happened.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Source = tuple[Tensor, Tensor]
"""A weight of every row [n], and what every row attends to [n m c]."""


class AttentionMixture(ABC):
    """Says what the rows of a batch attend to."""

    @abstractmethod
    def sources(self, own: Float[Tensor, "n m c"]) -> Sequence[Source]:
        """The weighted sources, given every row's own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Inner(AttentionMixture):
    """Attends to the blend of both ends' features: `Attn(Q, (1-w) K_0 + w K_1, (1-w) V_0 + w V_1)`.

    Zhang et al. 2023, arXiv 2312.07409 (DiffMorpher); He et al. 2024, arXiv 2403.17924 (AID, inner).
    """

    weights: Float[Tensor, " n"]  # w of every row, in [0, 1]; 0 and 1 at the two ends leave them as they are
    fused: bool = False  # whether a row attends to its own features beside the blend

    def sources(self, own: Float[Tensor, "n m c"]) -> Sequence[Source]:  # noqa: D102
        weights = self.weights.to(own)
        blend = torch.lerp(own[:1].expand_as(own), own[-1:].expand_as(own), weights[:, None, None])
        return [(torch.ones_like(weights), _beside(own, blend) if self.fused else blend)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Outer(AttentionMixture):
    """Blends what comes of attending to either end: `(1-w) Attn(Q, K_0, V_0) + w Attn(Q, K_1, V_1)`.

    He et al. 2024, arXiv 2403.17924 (AID, outer); Cao et al. 2025, arXiv 2507.01953 (FreeMorph, step-oriented).
    """

    weights: Float[Tensor, " n"]  # w of every row, in [0, 1]; 0 and 1 at the two ends leave them as they are
    fused: bool = False  # whether a row attends to its own features beside each end's

    def sources(self, own: Float[Tensor, "n m c"]) -> Sequence[Source]:  # noqa: D102
        weights = self.weights.to(own)
        ends = [own[:1].expand_as(own), own[-1:].expand_as(own)]
        first, second = [_beside(own, end) for end in ends] if self.fused else ends
        return [(1 - weights, first), (weights, second)]


class FrameAverage(AttentionMixture):
    """Every frame attends to every frame, each weighing the same; the two ends attend to themselves.

    Cao et al. 2025, arXiv 2507.01953 (FreeMorph, prior-driven).
    """

    def sources(self, own: Float[Tensor, "n m c"]) -> Sequence[Source]:
        """Each row's own features for the ends, then the features of every frame in turn."""
        frames = range(1, len(own) - 1)
        end = torch.ones(len(own)).to(own)
        end[1:-1] = 0
        share = (1 - end) / max(1, len(frames))
        return [(end, own), *((share, own[row : row + 1].expand_as(own)) for row in frames)]


@contextmanager
def attending(unet: Any, mixture: AttentionMixture | None, *, part: str = "", cross: bool = True) -> Iterator[None]:
    """Lets the attention layers of a conditional U-Net of diffusers follow a mixture while the context lasts, if any.

    `part` is how the names of the layers begin, such as `up_blocks`, empty for all; with `cross`, cross-attention, to
    the text, follows it as well as self-attention.
    """
    if mixture is None:
        yield
        return
    originals = dict(unet.attn_processors)
    chosen = {
        name: _Mixing(base, mixture, cross=cross) if name.startswith(part) else base for name, base in originals.items()
    }
    try:
        unet.set_attn_processor(chosen)
        yield
    finally:
        unet.set_attn_processor(dict(originals))


class _Mixing:
    """An attention processor that has another one compute the terms of a mixture."""

    def __init__(self, base: Any, mixture: AttentionMixture, *, cross: bool) -> None:
        self._base, self._mixture, self._cross = base, mixture, cross

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *rest: Any, **options: Any
    ) -> Tensor:
        if encoder_hidden_states is not None and not self._cross:
            plain: Tensor = self._base(attn, hidden_states, encoder_hidden_states, *rest, **options)
            return plain
        own = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        total = torch.zeros((), dtype=hidden_states.dtype, device=hidden_states.device)
        for weights, source in self._mixture.sources(own):
            total = total + weights[:, None, None] * self._base(attn, hidden_states, source, *rest, **options)
        return total


def _beside(own: Float[Tensor, "n m c"], other: Float[Tensor, "n m c"]) -> Float[Tensor, "n 2m c"]:
    return torch.cat([own, other], dim=1)
