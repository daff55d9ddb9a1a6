"""The folder in which training works: one training at a time, results sealed, several processes in step."""

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.files import DamagedFileError, clear_partials, file_hash, read_sealed, seal, write_bytes

__all__ = ["alone_in", "files_below", "hash_of_shards", "load", "save", "wait_for_first"]

LOCK = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other trainings out of a folder while it lasts.

    Raises:
        UserError: when one is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"Another training is at work in '{folder}': wait for it, or choose another task.work_dir."
        ) from None
    try:
        clear_partials(folder)
        yield
    finally:
        lock.release()


def wait_for_first(*, leads: bool, done: Callable[[], bool]) -> None:
    """Waits until the first process has noted that something is done: the others read what it wrote."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        return
    parent = os.getppid()
    while not leads and not done():
        if os.getppid() != parent:  # whoever started the processes is gone
            raise KeyboardInterrupt
        time.sleep(1.0)


def files_below(folder: Path, *, without: Sequence[str] = ()) -> list[Path]:
    """All files in a folder and below, but those of the given names."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in without]


def hash_of_shards(folder: Path) -> str:
    """A hash of the frames in a folder and of their records; that of nothing where there are none."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("shard-*")):
        total.update(f"{path.name} {file_hash(path)}\n".encode())
    return total.hexdigest()


def load(file: Path) -> Any:
    """What `save` wrote.

    Raises:
        UserError: when the file is missing or damaged.
    """
    try:
        return torch.load(io.BytesIO(read_sealed(file)), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{file} is missing: run stage '{file.parent.name}' first (task.stages)") from None
    except DamagedFileError as error:
        raise UserError(f"{file} is damaged ({error}): run stage '{file.parent.name}' again (task.stages)") from error


def save(values: Mapping[str, Any] | torch.Tensor, file: Path) -> None:
    """Writes tensors, numbers and mappings of them, whole and sealed."""
    written = io.BytesIO()
    torch.save(values, written)
    write_bytes(file, seal(written.getvalue()))
