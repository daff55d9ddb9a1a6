"""A folder of inverted embeddings, named by the content of what they were computed from.

A file's name is a hash of the image, the prompt, the model's weights and every setting, so a hit is always right and
nothing ever has to be invalidated. Files are written beside their place and renamed, so that several processes may
share the folder; the stored checksum catches a damaged file, which then counts as absent.
"""

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["EmbeddingCache", "content_key"]

_log = logging.getLogger(__name__)


def _digest(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).digest()


def content_key(*parts: Any) -> str:
    """A hexadecimal sha256 of tensors (by shape and content) and of anything else by its `repr`."""
    total = hashlib.sha256()
    for part in parts:
        is_tensor = isinstance(part, Tensor)
        total.update(repr(tuple(part.shape) if is_tensor else part).encode() + b"\0")
        total.update(_digest(part) if is_tensor else b"")
    return total.hexdigest()


class EmbeddingCache:
    """Embeddings by key, in memory-safe files of a folder.

    Args:
        folder: where the files lie; made when first needed. None keeps nothing.
    """

    def __init__(self, *, folder: Path | None) -> None:
        self._folder = folder

    def load(self, key: str) -> Float[Tensor, "l c"] | None:
        """The embedding of a key, or None when there is none or its file is damaged."""
        from safetensors import SafetensorError, safe_open

        if self._folder is None or not self._path(key).is_file():
            return None
        try:
            with safe_open(self._path(key), framework="pt") as file:
                embedding: Tensor = file.get_tensor("embedding")
                intact = (file.metadata() or {}).get("sha256") == _digest(embedding).hex()
        except (SafetensorError, OSError, ValueError):
            intact = False
        if not intact:
            _log.warning("the cached embedding %s is damaged and is computed again", self._path(key))
            return None
        return embedding

    def store(self, key: str, embedding: Float[Tensor, "l c"]) -> None:
        """Keep an embedding; a reader sees the whole file or none."""
        from safetensors.torch import save

        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        content = embedding.detach().cpu().float().contiguous()
        data = save({"embedding": content}, metadata={"sha256": _digest(content).hex()})
        descriptor, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(name).replace(self._path(key))
        finally:
            Path(name).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{key}.safetensors"
