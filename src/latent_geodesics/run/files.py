"""Writing files so that one which is there is whole: under another name first, then renamed; and telling damaged ones.

A file that a run reads again is *sealed*: its sha256 stands behind its content, so that a flipped bit or a cut is found
before anything is made of it. Libraries that read zip archives (torch, NumPy) read a sealed one as any other.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.sources import file_hash

SEAL = b"\nsha256:"
SEAL_SIZE = len(SEAL) + 64
LONGEST_STEM = 32  # characters of a file's name in the name of the folder that it is written in
PARTIAL = re.compile(r"^\..*\.partial-")


class DamagedFileError(ValueError):
    """A file is not what was written: cut, changed, or of another kind."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a place to write to, which takes the place of `path` when the block ends well.

    It has the same name, which is how libraries know the format, in a hidden folder of its own beside `path`: no
    pattern that finds finished files finds it, no other process writes it, and a long name gets no longer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.stem[:LONGEST_STEM]}.partial-"))
    try:
        yield folder / path.name
        (folder / path.name).replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_partial(path: Path) -> bool:
    """Whether a file or folder is one that `replacing` writes in, which a process that was killed leaves behind."""
    return PARTIAL.match(path.name) is not None


def clear_partials(folder: Path) -> None:
    """Deletes what killed processes left half-written in a folder and below; nobody else may be at work in it."""
    for path in sorted(folder.rglob(".*.partial-*")):
        if is_partial(path):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file of bytes."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def inside(folder: Path, name: str | Path) -> Path:
    """The file of that name in a folder, or below it.

    Raises:
        UserError: where the name, or a link in its place, leads out of the folder.
    """
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"'{file}' leads out of the folder '{folder}', whose files alone are read: take it out.")
    return file


def is_whole(file: Path, digest: str) -> bool:
    """Whether a file is there, with the sha256 that it had."""
    return file.is_file() and file_hash(file) == digest


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a mapping as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def seal(content: bytes) -> bytes:
    """The content with its seal behind it."""
    return content + SEAL + hashlib.sha256(content).hexdigest().encode("ascii")


def read_sealed(path: Path) -> bytes:
    """The content of a sealed file, without the seal.

    Raises:
        DamagedFileError: when the seal is missing or the content is not what was sealed.
        OSError: when the file cannot be read.
    """
    whole = path.read_bytes()
    content = whole[:-SEAL_SIZE]
    if not whole[-SEAL_SIZE:].startswith(SEAL):
        raise DamagedFileError("its checksum is missing")
    if seal(content) != whole:
        raise DamagedFileError("its checksum is wrong")
    return content
