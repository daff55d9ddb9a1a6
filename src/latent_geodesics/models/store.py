"""Files of what took long to compute: tensors, measurements of the machine, and hashes of weights.

A tensor's file is named by a hash of the image, the prompt, the model's weights and every setting, so a hit is always
right and nothing ever has to be invalidated. A hash of weights holds as long as every file that they were read from is
the one that was hashed: same path, size, times of change, and number on its disk; of weights that were loaded it holds
only if their dtypes and a sample of every tensor's values are as they were, so that a model that was changed after
loading, or is loaded in another precision, is hashed afresh.

Files are written beside their place and renamed, so that several processes and people may share the folder; a checksum
catches a damaged file, which then counts as absent. When the tensors outgrow their limit those that were not used for
longest go. A folder that cannot be used, whoever it belongs to, costs no more than the time to compute everything
again, and a warning.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Measured = TypeVar("Measured")
SEAL = "sha256"
"""The entry that tells whether the others are as they were written: a flipped bit would change numbers unseen."""

_NAME = "content"
_STALE = 24 * 3600.0  # seconds after which a half-written file is one that nobody writes on
FRESH = 2.0  # seconds: a file that was just changed may change again within the resolution of its times
SAMPLE = 1024  # values of a tensor
WEIGHTS = (".safetensors", ".bin", ".json")
_known: dict[str, str] = {}


def measured_once(file: Path, kind: Callable[..., Measured], measure: Callable[[], Measured]) -> Measured:
    """What a JSON file remembers of an earlier measurement, a dataclass; measured now and put there if it does not."""
    with suppress(TypeError):
        if (content := recall(file)) is not None:
            return kind(**content)
    # Not while the missing file is dealt with: what the measurement raises is told as it is.
    found = measure()
    remember(file, asdict(found))  # type: ignore[call-overload]
    return found


def recall(file: Path) -> dict[str, Any] | None:
    """What `remember` wrote into a file; None where there is none, or where not every bit of it is as it was."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        sound = content.pop(SEAL) == _sum_of(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if sound else None


def remember(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file that saves time later, and whose absence costs nothing else: where it cannot be, it is not."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, json.dumps({**content, SEAL: _sum_of(content)}, indent=2).encode() + b"\n")
    except OSError as error:
        log.warning("'%s' could not be written (%s), so it is found out again the next time.", file, error.strerror)


def _replace(file: Path, data: bytes) -> None:
    """Writes beside a file's place first: another process sees the whole file or none.

    The name is nobody else's, since processes of two containers may have the same number; the permissions are those of
    any new file, so that others may read it.
    """
    partial = file.with_name(f".{uuid4().hex}.part")
    try:
        partial.write_bytes(data)
        partial.replace(file)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _sum_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _digest(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().reshape(-1).contiguous()  # in the order of the axes, whatever the memory layout
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).digest()


def content_key(*parts: Any) -> str:
    """A hexadecimal sha256 of tensors (by shape and content) and of anything else by its `repr`."""
    total = hashlib.sha256()
    for part in parts:
        total.update(repr(tuple(part.shape) if isinstance(part, Tensor) else part).encode() + b"\0")
        total.update(_digest(part) if isinstance(part, Tensor) else b"")
    return total.hexdigest()


class TensorCache:
    """Tensors by key, in memory-safe files of a folder, which are at most `limit_mb` MB; without one none are kept."""

    def __init__(self, *, folder: Path | None, limit_mb: float = 2000.0) -> None:
        self.folder, self._limit = folder, limit_mb * 1e6
        self._warned = False

    def load(self, key: str) -> Tensor | None:
        """The tensor of a key, float32, or None when there is none or its file is damaged."""
        from safetensors import SafetensorError, safe_open

        if self.folder is None:
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
            log.warning("the cached tensor %s is damaged and is computed again", self._path(key))
            return None
        with suppress(OSError):  # it may be another user's
            self._path(key).touch()
        return content

    def store(self, contents: Mapping[str, Tensor]) -> None:
        """Keep tensors by key, as float32; a reader sees a whole file or none."""
        from safetensors.torch import save

        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for key, given in contents.items():
                content = given.detach().cpu().float().contiguous()
                _replace(self._path(key), save({_NAME: content}, metadata={"sha256": _digest(content).hex()}))
            self._shrink()
        except OSError as error:
            self._warn("written to", error)

    def _warn(self, what: str, error: OSError) -> None:
        """Says once that the folder is of no use."""
        if not self._warned:
            log.warning("the cache %s cannot be %s (%s): the run goes on without", self.folder, what, error)
        self._warned = True

    def _shrink(self) -> None:
        """Deletes what was not used for longest until the rest is small enough; another process may do so as well."""
        assert self.folder is not None
        for path in self.folder.glob(".*.part"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()
        files = []
        for path in self.folder.glob("*.safetensors"):
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
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"


def remembered(folder: Path | None, files: Sequence[Path], setting: Sequence[Any], find: Callable[[], str]) -> str:
    """The hash that `find` would give, from an earlier time if nothing has changed.

    Hashes are kept in this process, and in the folder where there is one. Nothing is remembered where there are no
    files, or one is not there. What else a hash depends on is told by the `repr` of `setting`.
    """
    key = _key(files, setting)
    if key is None:
        return find()
    if key not in _known:
        file = None if folder is None else folder / f"hash-{key[:32]}.json"
        content = (recall(file) if file is not None else None) or {}
        if content.get("key") == key:
            found = str(content["hash"])
        else:
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


def weights_hash(parts: Mapping[str, Any], *others: Any, folder: Path | None) -> str:
    """The sha256 of networks' weights, by name, as they are loaded, so of their dtypes too, and of what else is given.

    The others are tensors, or anything by its `repr`; hashes are remembered in the folder, if there is one.
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
        name = getattr(part.config, "_name_or_path", "")
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
