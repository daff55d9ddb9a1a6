"""What all manifests have in common: CSV files with a line for each thing, which has an id and files with checksums."""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

from latent_geodesics.errors import UserError

__all__ = ["matches_checksum", "read_rows"]


def read_rows(manifest: Path, *, required: Sequence[str], thing: str) -> list[dict[str, str]]:
    """The lines of a manifest, each with an id of its own.

    Args:
        manifest: The CSV file.
        required: The columns that it must have.
        thing: What a line stands for, in the singular, such as `pair`.

    Raises:
        UserError: when the file or a column is missing, it has no lines, or an id stands twice.
    """
    if not manifest.is_file():
        raise UserError(f"The manifest '{manifest}' does not exist: set data.manifest to a CSV file of {thing}s.")
    with manifest.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in required if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"The manifest '{manifest}' lacks the column(s) {', '.join(missing)}: its first line must name "
                f"{', '.join(required)}."
            )
        rows = list(reader)
    if not rows:
        raise UserError(f"The manifest '{manifest}' lists no {thing}s: add a line for each {thing}.")
    seen: set[str] = set()
    for row in rows:
        if row["id"] in seen:
            raise UserError(f"The manifest '{manifest}' names the {thing} '{row['id']}' twice: give each its own id.")
        seen.add(row["id"])
    return rows


def matches_checksum(file: Path, expected: str | None) -> bool:
    """Whether a file has the sha256 that a manifest gives; without one any file does."""
    return not expected or hashlib.sha256(file.read_bytes()).hexdigest() == expected
