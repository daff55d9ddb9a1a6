"""Row-wise work in chunks that fit in memory, on a CPU several at once.

A function of rows is applied to chunks of at most `size` rows and the results are joined, so the answer does not
depend on the chunking beyond rounding. When the device runs out of memory the chunk is halved, for good, and the work
goes on.

The operations of a small network are too short to be worth splitting over processor cores, so that one call uses
little more than one core, whatever the number of threads. On a CPU the rows are therefore dealt out to as many *lanes*
as there are threads, each of which calls the function with its own share of the cores.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from latent_geodesics.errors import UserError

__all__ = ["Chunker"]

Rows = tuple[Tensor, ...]


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
        """Join `function(*chunk)` over the chunks of `rows`, tensors of equal first length (at least one row).

        Without gradients on a CPU the function is called by several threads at once.
        """
        total, lanes = len(rows[0]), self._lanes(rows)
        results: list[Tensor] = []
        start = 0
        while start < total:
            # As many rows in each lane as there can be, and in every round nearly equally many.
            rounds = -(-(total - start) // (self.size * lanes))
            stop = start + -(-(total - start) // rounds)
            found = self._attempt(function, _deal(rows, start, stop, lanes), lanes)
            if found is None:
                self._halve()
                continue
            results.extend(found)
            start = stop
        return torch.cat(results)

    @staticmethod
    def _lanes(rows: Rows) -> int:
        """One, unless this is work for a CPU that needs no gradient; gradients are recorded thread by thread."""
        if torch.is_grad_enabled() or rows[0].device.type != "cpu":
            return 1
        return min(torch.get_num_threads(), len(rows[0]))

    @staticmethod
    def _attempt(function: Callable[..., Tensor], parts: list[Rows], lanes: int) -> list[Tensor] | None:
        """The results, or None when memory ran out; returning first lets go of the failed call's tensors."""
        try:
            if lanes == 1:
                return [function(*part) for part in parts]
            return list(_pool(lanes).map(lambda part: _without_gradient(function, part), parts))
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


def _deal(rows: Rows, start: int, stop: int, lanes: int) -> list[Rows]:
    """The rows from `start` to `stop`, in as many nearly equal parts."""
    parts = [part[start:stop].tensor_split(min(lanes, stop - start)) for part in rows]
    return list(zip(*parts, strict=True))


def _without_gradient(function: Callable[..., Tensor], part: Rows) -> Tensor:
    with torch.no_grad():
        return function(*part)


@cache
def _pool(lanes: int) -> ThreadPoolExecutor:
    """Threads that share the cores between them; made once, since a thread's first call is slow."""
    share = max(1, torch.get_num_threads() // lanes)
    return ThreadPoolExecutor(lanes, thread_name_prefix="lane", initializer=torch.set_num_threads, initargs=(share,))
