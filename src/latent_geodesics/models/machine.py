"""The machine at hand, asked without torch: its processor, the cores that this process may run on, its files."""

import hashlib
import os
import platform
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any


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


def file_hash(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def __getattr__(name: str) -> Any:
    # Where it was before version 0.2; its module of today imports torch.
    if name == "measured_once":
        return getattr(import_module("latent_geodesics.models.store"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
