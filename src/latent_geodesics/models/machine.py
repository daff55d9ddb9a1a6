"""The machine at hand: its processor, how many of its cores this process may run on, and what was measured of it."""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

__all__ = ["machine_cores", "measured_once", "processor"]

Measured = TypeVar("Measured")


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


def measured_once(file: Path, kind: Callable[..., Measured], measure: Callable[[], Measured]) -> Measured:
    """What a file remembers of an earlier measurement; measured now and put there if it does not.

    Args:
        file: A JSON file.
        kind: The dataclass of the measurement.
        measure: How it is made.
    """
    try:
        return kind(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        found = measure()
    file.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place first: another process sees the whole file or none.
    # No process number: containers that share the folder may have the same ones.
    partial = file.with_name(f".{file.stem}.{uuid4().hex}.part")
    partial.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")  # type: ignore[call-overload]
    partial.replace(file)
    return found
