"""A folder of tensors that took long to compute, named by the content of what they were computed from.

A file's name is a hash of the image, the prompt, the model's weights and every setting, so a hit is always right and
nothing ever has to be invalidated. Files are written beside their place and renamed, so that several processes and
people may share the folder; the stored checksum catches a damaged file, which then counts as absent. When the folder
outgrows its limit the files that were not used for longest go. A folder that cannot be used, whoever it belongs to,
costs no more than the time to compute everything again, and a warning.
"""

import hashlib
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

__all__ = ["TensorCache", "content_key"]

_NAME = "content"
_STALE = 24 * 3600.0  # seconds after which a half-written file is one that nobody writes on
_log = logging.getLogger(__name__)


def _digest(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().reshape(-1).contiguous()  # in the order of the axes, whatever the memory layout
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).digest()


def content_key(*parts: Any) -> str:
    """A hexadecimal sha256 of tensors (by shape and content) and of anything else by its `repr`."""
    total = hashlib.sha256()
    for part in parts:
        is_tensor = isinstance(part, Tensor)
        total.update(repr(tuple(part.shape) if is_tensor else part).encode() + b"\0")
        total.update(_digest(part) if is_tensor else b"")
    return total.hexdigest()


class TensorCache:
    """Tensors by key, in memory-safe files of a folder.

    Args:
        folder: where the files lie; made when first needed. None keeps nothing.
        limit_mb: how large the files may be together, in 10^6 bytes.
    """

    def __init__(self, *, folder: Path | None, limit_mb: float = 2000.0) -> None:
        self._folder, self._limit = folder, limit_mb * 1e6
        self._warned = False

    @property
    def folder(self) -> Path | None:
        """Where the files lie, or None."""
        return self._folder

    @property
    def keeps(self) -> bool:
        """Whether there is a folder at all."""
        return self._folder is not None

    def load(self, key: str) -> Tensor | None:
        """The tensor of a key, float32, or None when there is none or its file is damaged."""
        from safetensors import SafetensorError, safe_open

        if self._folder is None:
            return None
        try:
            if not self._path(key).is_file():
                return None
            with safe_open(self._path(key), framework="pt") as file:
                content: Tensor = file.get_tensor(_NAME)
                intact = (file.metadata() or {}).get("sha256") == _digest(content).hex()
        except (SafetensorError, ValueError):
            intact = False
        except OSError as error:
            self._warn("read", error)
            return None
        if not intact:
            _log.warning("the cached tensor %s is damaged and is computed again", self._path(key))
            return None
        with suppress(OSError):  # it may be another user's
            self._path(key).touch()
        return content

    def store(self, contents: Mapping[str, Tensor]) -> None:
        """Keep tensors by key, as float32; a reader sees a whole file or none."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for key, content in contents.items():
                self._write(key, content)
            self._shrink()
        except OSError as error:
            self._warn("written to", error)

    def _warn(self, what: str, error: OSError) -> None:
        """Says once that the folder is of no use."""
        if not self._warned:
            _log.warning("the cache %s cannot be %s (%s): the run goes on without", self._folder, what, error)
        self._warned = True

    def _write(self, key: str, content: Tensor) -> None:
        from safetensors.torch import save

        content = content.detach().cpu().float().contiguous()
        data = save({_NAME: content}, metadata={"sha256": _digest(content).hex()})
        # With the permissions that any new file gets, so that others may read it.
        partial = self._path(key).with_name(f".{uuid4().hex}.part")
        try:
            partial.write_bytes(data)
            partial.replace(self._path(key))
        finally:
            partial.unlink(missing_ok=True)

    def _shrink(self) -> None:
        """Deletes what was not used for longest until the rest is small enough; another process may do so as well."""
        assert self._folder is not None
        for path in self._folder.glob(".*.part"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()
        files = []
        for path in self._folder.glob("*.safetensors"):
            with suppress(OSError):
                found = path.stat()
                files.append((found.st_mtime, found.st_size, path))
        excess = sum(size for _, size, _ in files) - self._limit
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            with suppress(OSError):  # it may be another user's
                path.unlink(missing_ok=True)
                excess -= size

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{key}.safetensors"
