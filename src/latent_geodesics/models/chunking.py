"""Row-wise work in chunks that fit in memory, on a CPU several at once.

A function of rows is applied to chunks of at most `size` rows and the results are joined, so the answer does not
depend on the chunking beyond rounding. When the device runs out of memory the chunk is halved, for good, and the work
goes on.

The operations of a small network are too short to be worth splitting over processor cores, so that one call uses
little more than one core, whatever the number of threads. On a CPU the rows are therefore dealt out in as many parts as
the machine has cores, to be worked on at the same time. How rows are dealt out, and how many threads work on a part, is
a matter of the machine alone and not of the threads that this process may use: a run has the same numbers to the last
bit in one process and in several, which share the cores.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.accelerator import give_back_memory
from latent_geodesics.models.machine import machine_cores

Rows = tuple[Tensor, ...]


class Chunker:
    """Applies a function of rows to chunks of rows.

    Args:
        size: the largest number of rows in one call, at least 1; halved whenever the device runs out of memory.
    """

    def __init__(self, *, size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"batch_size must be a whole number of at least 1; received {size}")
        self.size = size

    def map(self, function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """Join `function(*chunk)` over the chunks of `rows`, tensors of equal first length (at least one row).

        Without gradients on a CPU the function is called by several threads at once.
        """
        # Gradients are recorded thread by thread, so that they need all rows in the caller's.
        alone = torch.is_grad_enabled() or rows[0].device.type != "cpu"
        cores = 1 if alone else machine_cores()
        results: list[Tensor] = []
        start, total = 0, len(rows[0])
        while start < total:
            # In every round nearly equally many rows, as many at once as there may be.
            rounds = -(-(total - start) // (self.size * cores))
            stop = start + -(-(total - start) // rounds)
            parts = _deal(rows, start, stop, cores)
            columns = zip(*parts, strict=True)
            try:
                found = list(map(function, *columns) if alone else _side_by_side(function, cores, *columns))
            except torch.OutOfMemoryError:
                found = []
            if not found:  # only here have the failed call's tensors been let go of
                self._halve(rows[0].device)
                continue
            results.extend(found)
            start = stop
        return torch.cat(results)

    def _halve(self, device: torch.device) -> None:
        if self.size == 1:
            raise UserError(
                "the device ran out of memory with a single image at a time; "
                "use dtype=float16, a smaller image size or a larger device"
            )
        self.size //= 2
        give_back_memory(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets the caller's own operations run on one core, whatever the process may use; chunks still run side by side.

    Sums are rounded in another order when threads share them, so that without this the numbers of a run would depend,
    in their last digits, on how many processes share the machine.
    """
    global _allowance
    before, _allowance = _allowance, _threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_allowance)
        _allowance = before


_allowance: int | None = None


def _threads() -> int:
    """The threads that this process may use."""
    return torch.get_num_threads() if _allowance is None else _allowance


def _deal(rows: Rows, start: int, stop: int, cores: int) -> list[Rows]:
    """The rows from `start` to `stop`, in as many nearly equal parts."""
    parts = [part[start:stop].tensor_split(min(cores, stop - start)) for part in rows]
    return list(zip(*parts, strict=True))


def _side_by_side(function: Callable[..., Tensor], cores: int, *columns: Rows) -> Iterable[Tensor]:
    """`map(function, *columns)` by threads that share the cores between them."""
    share = max(1, cores // len(columns[0]))
    lanes = max(1, _threads() // share)
    return _pool(lanes, share).map(function, *columns)


@cache
def _pool(lanes: int, share: int) -> ThreadPoolExecutor:
    """So many threads, each with its share of the cores; kept, since the first call of a thread is slow."""

    def begin() -> None:
        torch.set_num_threads(share)
        torch.set_grad_enabled(False)  # a thread's own setting

    return ThreadPoolExecutor(lanes, thread_name_prefix="lane", initializer=begin)
