"""Hashes of weights, remembered by the files that they were read from, so that no start hashes gigabytes again.

A remembered hash holds as long as every file is the one that was hashed: same path, size, times of change, and number
on its disk. Of weights that were loaded it holds only if their dtypes and a sample of every tensor's values are as they
were, so that a model that was changed after loading, or is loaded in another precision, is hashed afresh.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latent_geodesics.models.machine import recall, remember
from latent_geodesics.models.tensor_cache import content_key

__all__ = ["remembered", "weights_hash"]

FRESH = 2.0  # seconds: a file that was just changed may change again within the resolution of its times
SAMPLE = 1024  # values of a tensor
WEIGHTS = (".safetensors", ".bin", ".json")
_known: dict[str, str] = {}


def remembered(folder: Path | None, files: Sequence[Path], setting: Sequence[Any], find: Callable[[], str]) -> str:
    """The hash that `find` would give, from an earlier time if nothing has changed.

    Args:
        folder: Where hashes are kept, besides in this process; None keeps them here alone.
        files: What is hashed; none, or one that is not there, and nothing is remembered.
        setting: What else the hash depends on, told by its `repr`.
        find: Computes it.
    """
    key = _key(files, setting)
    if key is None:
        return find()
    if key not in _known:
        file = None if folder is None else folder / f"hash-{key[:32]}.json"
        found = None if file is None else _recalled(file, key)
        if found is None:
            found = find()
            if file is not None and _key(files, setting) == key:
                remember(file, {"key": key, "files": [str(each) for each in files], "hash": found})
        _known[key] = found
    return _known[key]


def _key(files: Sequence[Path], setting: Sequence[Any]) -> str | None:
    marks = []
    for file in files:
        try:
            found = file.stat()
        except OSError:
            return None
        if time.time() - max(found.st_mtime, found.st_ctime) < FRESH:
            return None
        marks.append((str(file.absolute()), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))
    return hashlib.sha256(repr((marks, list(setting))).encode()).hexdigest() if marks else None


def _recalled(file: Path, key: str) -> str | None:
    content = recall(file)
    return str(content["hash"]) if content is not None and content["key"] == key else None


def weights_hash(parts: Mapping[str, Any], *others: Any, folder: Path | None) -> str:
    """The sha256 of networks' weights as they are loaded, so of their dtypes too, and of what else is given.

    Args:
        parts: Name -> network of diffusers or transformers.
        others: Tensors, and anything else by its `repr`.
        folder: Where hashes are remembered, or None.
    """
    weights = [
        (f"{name}.{key}", value)
        for name, part in parts.items()
        for key, value in sorted(part.state_dict().items())
    ]  # fmt: skip
    items = [item for name, value in weights for item in (name, str(value.dtype), value)]
    setting = (_sample(weights), content_key(*others))
    return remembered(folder, _weight_files(parts.values()), setting, lambda: content_key(*items, *others))


def _weight_files(parts: Iterable[Any]) -> list[Path]:
    """The files that networks were read from, as they tell it themselves; none where one tells no folder."""
    files: list[Path] = []
    for part in parts:
        name = part.config._name_or_path if hasattr(part.config, "_name_or_path") else ""
        found = sorted(file for file in Path(name).glob("*") if file.suffix in WEIGHTS) if name else []
        if not found:
            return []
        files += found
    return files


def _sample(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names, dtypes, shapes and evenly spaced values of tensors: a quick look at whether they changed."""
    total = hashlib.sha256()
    for name, tensor in tensors:
        flat = tensor.detach().reshape(-1)
        count = min(len(flat), SAMPLE)
        places = torch.arange(count, device=flat.device) * (len(flat) - 1) // max(count - 1, 1)
        total.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        total.update(flat[places].cpu().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
