"""When scores of a higher precision take over: where a field's own overflow, or are too coarse to be relied on."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.fields.base import ScoreField
from latent_geodesics.core.fields.resolution import Resolution

COARSE_ERROR = 2e-3
"""Rounding of scores above which finer ones are taken where there are any: what bfloat16 resolves leaves the length of
hard pairs off by more than a thousandth."""


class _Guarded(ScoreField):
    """The score of a field, and that of its finer one at points where the first is not finite."""

    def __init__(self, field: ScoreField, finer: ScoreField) -> None:
        self._field, self._finer = field, finer
        self.share_evaluations(field)

    def score(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """The score; waits for the device to learn whether it is finite."""
        score = self._field.score(x, u)
        finite = torch.isfinite(score)
        return score if bool(finite.all()) else torch.where(finite, score, self._finer.score(x, u))

    def resolution(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Resolution | None:
        """That of the field itself."""
        return self._field.resolution(x, u)

    def restrict(self, pairs: Int[Tensor, " m"]) -> "_Guarded":
        """Both fields of some pairs."""
        return _Guarded(self._field.restrict(pairs), self._finer.restrict(pairs))


def guarded(field: ScoreField) -> ScoreField:
    """The field, with its finer one behind it where it has one: for solvers that cannot start afresh."""
    finer = field.finer()
    return field if finer is None else _Guarded(field, finer)


def well_resolved(field: ScoreField, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> ScoreField:
    """The field, or its finer one where it has one and resolves scores no better than `COARSE_ERROR`.

    Args:
        field: the field.
        x: points at which its resolution is measured unless it is known.
        u: their positions.
    """
    finer = field.finer()
    if finer is None:
        return field
    resolution = field.resolution(x, u)
    return finer if resolution is not None and resolution.error > COARSE_ERROR else field
