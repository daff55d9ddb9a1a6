"""Text conditioning: prompts and the embeddings that stand for them.

An embedding is the full output of the text encoder, `l` tokens of `c` channels. Along a path it moves linearly, `c(u)
= (1 - u) c_0 + u c_1`, as published; this is not a straight line between two *texts*, only between their embeddings.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.errors import UserError

__all__ = ["TextConditioner", "interpolate_conditions", "match_rows"]


class TextConditioner:
    """Embeds prompts, each of them once.

    Args:
        tokenizer: a CLIP tokenizer.
        text_encoder: a CLIP text encoder, on its device.
    """

    def __init__(self, *, tokenizer: Any, text_encoder: Any) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        # A tokenizer whose settings name no length says 1e30; the text encoder has an embedding for each position.
        positions = getattr(text_encoder.config, "max_position_embeddings", None) or tokenizer.model_max_length
        self._length = int(min(tokenizer.model_max_length, positions))
        self._known: dict[str, Float[Tensor, "l c"]] = {}

    def __call__(self, prompts: Sequence[str]) -> Float[Tensor, "p l c"]:
        """The embeddings of prompts, float32; too long a prompt is cut, with a warning that names the words cut."""
        if isinstance(prompts, str) or not prompts or not all(isinstance(text, str) for text in prompts):
            raise UserError(f"prompts must be a non-empty sequence of texts; received {prompts!r}")
        for text in prompts:
            if text not in self._known:
                self._known[text] = self._embed(text)
        return torch.stack([self._known[text] for text in prompts])

    @torch.no_grad()
    def _embed(self, text: str) -> Float[Tensor, "l c"]:
        # One prompt at a time, so that the embedding of a prompt does not depend on its neighbours even to rounding.
        length = self._length
        tokens = self._tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        self._warn_of_dropped_words(text, length)
        uses_mask = getattr(self._text_encoder.config, "use_attention_mask", False)
        device = self._text_encoder.device
        mask = tokens.attention_mask.to(device) if uses_mask else None
        output = self._text_encoder(tokens.input_ids.to(device), attention_mask=mask)
        return torch.as_tensor(output[0][0]).float()

    def _warn_of_dropped_words(self, text: str, length: int) -> None:
        tokens = self._tokenizer(text, truncation=False, verbose=False).input_ids
        if len(tokens) > length:
            dropped = self._tokenizer.decode(tokens[length - 1 : -1]).strip()
            warnings.warn(
                f"the prompt has {len(tokens)} tokens and the text encoder reads {length}; dropped: {dropped!r}",
                stacklevel=4,
            )


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
