"""Writing files so that one which is there is whole: under another name first, then renamed."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latent_geodesics.errors import UserError

__all__ = ["inside", "replacing", "write_json", "write_text"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a name to write to, which takes the place of `path` when the block ends well.

    The name keeps the suffix, which is how image libraries know the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def inside(folder: Path, name: str | Path) -> Path:
    """The file of that name in a folder, or below it.

    Raises:
        UserError: where the name, or a link in its place, leads out of the folder.
    """
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"'{file}' leads out of the folder '{folder}', whose files alone are read: take it out.")
    return file


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a mapping as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")
