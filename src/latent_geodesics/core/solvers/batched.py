"""Records of tensors that have a row a pair, of which solvers take, mix and replace rows."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Batched:
    """A dataclass whose tensors, also those in records of this kind, have a row a pair.

    What is no tensor but can be restricted to pairs (a grid, a field) is; everything else is the same for all pairs.

    Attributes:
        axis: the axis of the tensors that counts the pairs.
        shared: the names of tensors that are the same for all pairs.
    """

    axis: ClassVar[int] = 0
    shared: ClassVar[tuple[str, ...]] = ()

    def restrict(self, rows: Int[Tensor, " b"]) -> Self:
        """Those of some pairs."""

        def take(value: Any) -> Any:
            if isinstance(value, Tensor):
                there = rows.to(value.device)
                return value[:, there] if self.axis else value[there]
            return value.restrict(rows) if hasattr(value, "restrict") else value

        return self._made(take)

    def pick(self, mask: Bool[Tensor, " a"]) -> Self:
        """Those of a mask on the CPU."""
        return self.restrict(mask.nonzero().flatten())

    def where(self, mask: Bool[Tensor, " a"], other: Self) -> Self:
        """This one for the pairs of a mask, the other for the rest; the mask is where the tensors are."""

        def choose(mine: Any, its: Any) -> Any:
            if isinstance(mine, Tensor):
                return torch.where(mask.reshape(-1, *[1] * (mine.ndim - 1 - self.axis)), mine, its)
            return mine.where(mask, its) if isinstance(mine, Batched) else mine

        return self._made(choose, other)

    def put(self, rows: Int[Tensor, " b"], part: Self) -> Self:
        """With the pairs of some rows replaced."""

        def place(mine: Any, its: Any) -> Any:
            if isinstance(mine, Tensor):
                return mine.index_copy(self.axis, rows.to(mine.device), its)
            return mine.put(rows, its) if isinstance(mine, Batched) else mine

        return self._made(place, part)

    def _made(self, change: Callable[..., Any], *others: Self) -> Self:
        every = {entry.name: [getattr(record, entry.name) for record in (self, *others)] for entry in fields(self)}  # type: ignore[arg-type]
        return type(self)(
            **{name: values[0] if name in self.shared else change(*values) for name, values in every.items()}
        )
