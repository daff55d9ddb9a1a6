"""A folder of tensors that took long to compute, named by the content of what they were computed from.

A file's name is a hash of the image, the prompt, the model's weights and every setting, so a hit is always right and
nothing ever has to be invalidated. Files are written beside their place and renamed, so that several processes may
share the folder; the stored checksum catches a damaged file, which then counts as absent. When the folder outgrows its
limit the files that were not used for longest go.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["TensorCache", "content_key"]

_NAME = "content"
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

        if self._folder is None or not self._path(key).is_file():
            return None
        try:
            with safe_open(self._path(key), framework="pt") as file:
                content: Tensor = file.get_tensor(_NAME)
                intact = (file.metadata() or {}).get("sha256") == _digest(content).hex()
            self._path(key).touch()
        except (SafetensorError, OSError, ValueError):
            intact = False
        if not intact:
            _log.warning("the cached tensor %s is damaged and is computed again", self._path(key))
            return None
        return content

    def store(self, contents: Mapping[str, Tensor]) -> None:
        """Keep tensors by key, as float32; a reader sees a whole file or none."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        for key, content in contents.items():
            self._write(key, content)
        self._shrink()

    def _write(self, key: str, content: Tensor) -> None:
        from safetensors.torch import save

        content = content.detach().cpu().float().contiguous()
        data = save({_NAME: content}, metadata={"sha256": _digest(content).hex()})
        descriptor, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(name).replace(self._path(key))
        finally:
            Path(name).unlink(missing_ok=True)

    def _shrink(self) -> None:
        """Deletes what was not used for longest until the rest is small enough; another process may do so as well."""
        assert self._folder is not None
        files = []
        for path in self._folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):
                found = path.stat()
                files.append((found.st_mtime, found.st_size, path))
        excess = sum(size for _, size, _ in files) - self._limit
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{key}.safetensors"
