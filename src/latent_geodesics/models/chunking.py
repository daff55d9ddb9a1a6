"""Row-wise work in chunks that fit in memory.

A function of rows is applied to chunks of at most `size` rows and the results are joined, so the answer does not
depend on the chunking beyond rounding. When the device runs out of memory the chunk is halved, for good, and the work
goes on.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from latent_geodesics.errors import UserError

__all__ = ["Chunker"]


class Chunker:
    """Applies a function of rows to chunks of rows.

    Args:
        size: the largest number of rows in one call, at least 1; halved whenever the device runs out of memory.
    """

    def __init__(self, *, size: int) -> None:
        if size < 1:
            raise UserError(f"batch_size must be at least 1; received {size}")
        self.size = size

    def map(self, function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """Join `function(*chunk)` over the chunks of `rows`, tensors of equal first length (at least one row)."""
        results, start, total = [], 0, len(rows[0])
        while start < total:
            stop = min(start + self.size, total)
            result = self._attempt(function, [part[start:stop] for part in rows])
            if result is None:
                self._halve()
                continue
            results.append(result)
            start = stop
        return torch.cat(results)

    @staticmethod
    def _attempt(function: Callable[..., Tensor], parts: list[Tensor]) -> Tensor | None:
        """The result, or None when memory ran out; returning first lets go of the failed call's tensors."""
        try:
            return function(*parts)
        except torch.OutOfMemoryError:
            return None

    def _halve(self) -> None:
        if self.size == 1:
            raise UserError(
                "the device ran out of memory with a single image at a time; "
                "use dtype=float16, a smaller image size or a larger device"
            )
        self.size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
