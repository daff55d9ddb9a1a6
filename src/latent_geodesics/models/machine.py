"""The machine at hand: its processor, how many of its cores this process may run on, and what was measured of it."""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

__all__ = ["machine_cores", "measured_once", "processor", "recall", "remember"]

log = logging.getLogger(__name__)

Measured = TypeVar("Measured")
SEAL = "sha256"
"""The entry that tells whether the others are as they were written: a flipped bit would change numbers unseen."""


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
    known = _recalled(file, kind)
    if known is not None:
        return known
    # Not while the missing file is dealt with: what the measurement raises is told as it is.
    found = measure()
    remember(file, asdict(found))  # type: ignore[call-overload]
    return found


def _recalled(file: Path, kind: Callable[..., Measured]) -> Measured | None:
    content = recall(file)
    try:
        return None if content is None else kind(**content)
    except TypeError:
        return None


def recall(file: Path) -> dict[str, Any] | None:
    """What `remember` wrote into a file; None where there is none, or where not every bit of it is as it was."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        sound = content.pop(SEAL) == _digest(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if sound else None


def remember(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file that saves time later, and whose absence costs nothing else: where it cannot be, it is not."""
    # Beside its place first: another process sees the whole file or none. A name of its own, since processes of two
    # containers may have the same number.
    partial = file.with_name(f".{file.stem}.{uuid4().hex}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({**content, SEAL: _digest(content)}, indent=2) + "\n", encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        log.warning("'%s' could not be written (%s), so it is found out again the next time.", file, error.strerror)
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
