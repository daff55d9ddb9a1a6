"""Accelerators of whatever kind: what is asked of them besides arithmetic, time on them, and compiling for them.

torch has a module for each kind of accelerator (`torch.cuda`, `torch.xpu`, `torch.mps`, ...), not all of which have
every function. On `cpu` there is nothing to wait for, to give back or to measure.
"""

import os
import shutil
import time
from typing import Any

import torch

from latent_geodesics.core.errors import UserError


def choose_device(name: str | torch.device) -> torch.device:
    """The torch device of a name; `auto` is an accelerator where there is one that can be used, else the CPU.

    Where several processes share the work each takes an accelerator of its own.

    Raises:
        UserError: when there is no such device here, or it has no float64, in which sums are taken and positions kept.
    """
    if name == "auto":
        return _own(*_usable())
    if not isinstance(name, str | torch.device):
        raise UserError(f"device must be auto, cpu or a device such as cuda:0; received {name!r}")
    try:
        device = torch.device(name)
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


def give_back_memory(device: torch.device) -> None:
    """Lets go of memory that the device keeps for later."""
    _ask(device, "empty_cache")


def device_name(device: torch.device) -> str:
    """What the maker calls an accelerator; its kind where torch does not say."""
    found = _ask(device, "get_device_name", device)
    return device.type if found is None else str(found)


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


def _own(kind: str, count: int) -> torch.device:
    """This process's share of the accelerators; Lightning numbers the processes of a machine."""
    if count < 2:
        return torch.device(kind)
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", 0)) % count)


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

    Raises:
        UserError: on a CPU without a C++ compiler, which the library would tell of in the middle of the run.
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
    """Starts when it is made. The device is waited for where a stage ends and nowhere else.

    Args:
        device: Where the work is done.

    Attributes:
        seconds: Stage -> seconds so far.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}
        wait(device)
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Ends a stage: the time since the last one ended was its, beside what it had."""
        wait(self._device)
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now
