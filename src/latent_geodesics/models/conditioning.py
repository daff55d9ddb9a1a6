"""Text conditioning: prompts and the embeddings that stand for them.

An embedding is all that a network reads of a text, `l` tokens of `c` channels. Along a path it moves linearly, `c(u)
= (1 - u) c_0 + u c_1`, as published; this is not a straight line between two *texts*, only between their embeddings.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError

__all__ = ["TextConditioner", "interpolate_conditions", "match_rows"]


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
