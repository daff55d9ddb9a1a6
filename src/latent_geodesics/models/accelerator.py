"""Devices of whatever kind: what is asked of them besides arithmetic, time on them, and rows dealt out to them.

torch has a module for each kind of accelerator (`torch.cuda`, `torch.xpu`, `torch.mps`, ...), not all of which have
every function. On `cpu` there is nothing to wait for, to give back or to measure.

A function of rows is applied to chunks of at most so many rows and the results are joined, so the answer does not
depend on the chunking beyond rounding. When the device runs out of memory the chunk is halved, for good, and the work
goes on. The operations of a small network are too short to be worth splitting over processor cores, so that one call
uses little more than one core, whatever the number of threads. On a CPU the rows are therefore dealt out in as many
parts as the machine has cores, to be worked on at the same time. How rows are dealt out, and how many threads work on a
part, is a matter of the machine alone and not of the threads that this process may use: a run has the same numbers to
the last bit in one process and in several, which share the cores.
"""

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latent_geodesics.core.errors import UserError


def choose_device(name: str | torch.device) -> torch.device:
    """The torch device of a name; `auto` is an accelerator where there is one that can be used, else the CPU.

    Where several processes share the work each takes an accelerator of its own. A `UserError` when there is no such
    device here, or it has no float64, in which sums are taken and positions kept.
    """
    if name == "auto":
        kind, count = _usable()
        # Lightning numbers the processes of a machine.
        return torch.device(kind, int(os.environ.get("LOCAL_RANK", 0)) % count) if count > 1 else torch.device(kind)
    try:
        device = torch.device(str(name))
    except RuntimeError:
        raise UserError(f"device must be auto, cpu or a device such as cuda:0; received {name!r}") from None
    count = _count(device.type)
    if (device.index or 0) >= count:
        there = f"{count} of that kind, counted from 0," if count else "none of that kind"
        raise UserError(
            f"the device '{name}' was asked for and there is {there} on this machine; use device=auto or device=cpu"
        )
    if not _has_float64(device):
        raise UserError(f"the device '{name}' cannot compute in float64, which paths and sums need; use device=cpu")
    return device


def accelerators() -> int:
    """How many accelerators there are that `auto` would take."""
    return _usable()[1]


def wait(device: torch.device) -> None:
    """Until the device has done what it was given, so that a clock may be read."""
    module = torch.get_device_module(device)
    # Where there can be but one, the function takes no device.
    module.synchronize(*((device,) if module.device_count() > 1 else ()))


@cache
def machine_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def device_name(device: torch.device) -> str:
    """What the maker calls an accelerator; its kind where torch does not say."""
    return str(_ask(device, "get_device_name", device) or device.type)


def reset_peak(device: torch.device) -> bool:
    """Begins to measure anew the most memory that tensors hold at once; False where torch does not measure it."""
    measured = hasattr(torch.get_device_module(device), "max_memory_allocated")
    _ask(device, "reset_peak_memory_stats", device)
    return measured


def peak_memory_mb(device: torch.device) -> float:
    """The most memory that tensors held at once, in MB (10^6 bytes); NaN where torch does not measure it."""
    found = _ask(device, "max_memory_allocated", device)
    return float("nan") if found is None else float(found) / 1e6


def _ask(device: torch.device, function: str, *arguments: Any) -> Any:
    """What a function of the device's module says; None where that has none of this name."""
    asked = getattr(torch.get_device_module(device), function, None)
    return None if asked is None else asked(*arguments)


def _usable() -> tuple[str, int]:
    """The kind of accelerator that can be used here, and how many there are; `cpu` and 0 if there is none."""
    kinds = ["cuda"]
    current = torch.accelerator.current_accelerator()
    if current is not None and current.type not in kinds:
        kinds.append(current.type)
    for kind in kinds:
        count = _count(kind)
        # CUDA has float64; to try would start its context, also in a process that only counts.
        if count and (kind == "cuda" or _has_float64(torch.device(kind))):
            return kind, count
    return "cpu", 0


def _count(kind: str) -> int:
    """How many devices of a kind can be used."""
    try:
        module = torch.get_device_module(kind)
    except RuntimeError:
        return 0
    available = getattr(module, "is_available", None)
    return int(module.device_count()) if available is None or available() else 0


def _has_float64(device: torch.device) -> bool:
    try:
        return float(torch.ones(1, dtype=torch.float64, device=device).sum()) == 1
    except (TypeError, RuntimeError):
        return False


COMPILERS = ("g++", "clang++", "c++")


def compile_network(unet: Any, device: torch.device) -> None:
    """Has a U-Net compile itself at its first call; its weights and its name stay what they are.

    A `UserError` on a CPU without a C++ compiler, which the library would tell of in the middle of the run.
    """
    named = os.environ.get("CXX")
    if device.type == "cpu" and not any(map(shutil.which, (named,) if named else COMPILERS)):
        raise UserError(
            f"compile=true needs a C++ compiler, and there is none of {named or ', '.join(COMPILERS)}: install one "
            "(Debian and Ubuntu: apt-get install g++), or leave compile=false"
        )
    unet.compile()


def is_compiled(unet: Any) -> bool:
    """Whether a U-Net is, or will be at its first call."""
    return unet._compiled_call_impl is not None


ENCODING, INVERSION, SOLVING, DECODING, METRICS = STAGES = ("encoding", "inversion", "solving", "decoding", "metrics")
"""What interpolating a pair consists of."""


class Stopwatch:
    """Starts when it is made; the device is waited for where a stage ends and nowhere else."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}  # stage -> seconds so far
        wait(device)
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Ends a stage: the time since the last one ended was its, beside what it had."""
        wait(self._device)
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now


class Chunker:
    """Applies a function of rows to chunks of at most `size` rows, halved whenever the device runs out of memory."""

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
            # A column for each of the tensors: its parts, one for each core.
            columns = [column[start:stop].tensor_split(min(cores, stop - start)) for column in rows]
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
        _ask(device, "empty_cache")  # memory that the device keeps for later


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


def _side_by_side(function: Callable[..., Tensor], cores: int, *columns: Sequence[Tensor]) -> Iterable[Tensor]:
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
