r"""A field that remembers where it was asked: how to watch a solver without changing it.

A boundary solver asks for the score at the points of its path, once an iteration. Those points are the iterate, so a
field that keeps them shows how the path evolved, whichever solver it was.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.fields.base import Resolution, ScoreField


@dataclass(frozen=True)
class Query:
    """One call of the score.

    Attributes:
        evaluations: points evaluated so far, this call included.
        u: positions on the path.
        x: the points.
    """

    evaluations: int
    u: Float[Tensor, "*b"]
    x: Float[Tensor, "*b d"]


class RecordedField(ScoreField):
    """Gives the score of another field and keeps every query, in order, in `queries`.

    Args:
        field: the field that answers.
    """

    def __init__(self, field: ScoreField) -> None:
        self.field = field
        self.queries: list[Query] = []

    def score(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """The score of the recorded field."""
        # The tally counts this call when it returns.
        so_far = self.evaluations + x.shape[:-1].numel()
        self.queries.append(Query(evaluations=so_far, u=u.detach().clone(), x=x.detach().clone()))
        return self.field.score(x, u)

    def resolution(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Resolution | None:
        """That of the recorded field; measuring it is no query."""
        return self.field.resolution(x, u)

    def finer(self) -> "RecordedField | None":
        """The recorded field in a higher precision, which keeps its queries in the same list."""
        finer = self.field.finer()
        return None if finer is None else self._view(finer)

    def restrict(self, pairs: Int[Tensor, " m"]) -> "RecordedField":
        """The view for some of the pairs, which keeps its queries in the same list."""
        return self._view(self.field.restrict(pairs))

    def _view(self, field: ScoreField) -> "RecordedField":
        view = RecordedField(field).share_evaluations(self)
        view.queries = self.queries
        return view

    def whole_paths(self) -> list[Query]:
        """The queries that ran along whole paths: positions increasing strictly between 0 and 1.

        They leave out what a solver asked at the ends alone.
        """
        return [query for query in self.queries if _runs_inside(query.u)]


def _runs_inside(u: Float[Tensor, "*b"]) -> bool:
    inside = bool(((u > 0) & (u < 1)).all())
    return inside and bool((torch.diff(u, dim=-1) > 0).all())
