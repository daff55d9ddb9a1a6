"""What all manifests have in common: tables of text with a line for each thing, which has an id and files.

A manifest is a CSV file in UTF-8, or in UTF-16 with a byte-order mark; its first line names the columns, in any order,
and tells whether a comma, a semicolon or a tab separates the cells. Spaces around a cell do not count. Columns that
nothing here knows are left alone. A cell that holds the separator stands between double quotes.
"""

import codecs
import csv
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from latent_geodesics.core.errors import LIKE, MISTYPED, UserError, counted, nearest

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
# Longer marks first: that of UTF-32 begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """A line of a manifest.

    Attributes:
        manifest: The file.
        line: The line's number, from 1; the last one where a cell goes over several.
        cells: Column name -> text, without the spaces around it.
    """

    manifest: Path
    line: int
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        """The cell's text; empty where the manifest has no such column."""
        return self.cells.get(column, "")

    @property
    def place(self) -> str:
        """The line in words, for messages."""
        return f"line {self.line} of '{self.manifest}'"

    def path(self, column: str) -> Path:
        """The file or folder that a cell names, relative to the manifest; a backslash separates folders as a slash.

        Raises:
            UserError: when the cell is empty, or there is no such file or folder.
        """
        if not self[column]:
            raise UserError(f"The cell {column} of '{self['id']}' in {self.place} is empty: name a file in it.")
        written = self.manifest.parent / self[column]
        read = written if written.exists() else self.manifest.parent / self[column].replace("\\", "/")
        if read.exists():
            return read
        siblings = [file.name for file in read.parent.iterdir()] if read.parent.is_dir() else []
        raise UserError(
            f"The cell {column} of '{self['id']}' in {self.place} names '{read}', which does not exist: "
            f"{_did_you_mean(read.name, siblings) or 'paths are relative to the manifest.'}"
        )

    def check(self, column: str, file: Path) -> None:
        """Raises a `UserError` where a file has another sha256 than a cell gives; an empty one fits any file."""
        expected = self[column].lower()
        if expected and hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise UserError(
                f"The file '{file}' of '{self['id']}' does not match its checksum in {self.place}: restore the file, "
                "correct the manifest, or set data.verify=false."
            )


def read_columns(manifest: Path) -> tuple[str, ...]:
    """The columns that the first line of a manifest names.

    Raises:
        UserError: when it is no CSV file.
    """
    return _read_table(manifest, ()).columns


def read_rows(
    manifest: Path,
    *,
    required: Sequence[str],
    optional: Sequence[str] = (),
    thing: str,
    option: str = "data.manifest",
    files: Sequence[str] = (),
) -> list[ManifestRow]:
    """The lines of a manifest, each with an id of its own; lines without any text are left out.

    Args:
        manifest: The CSV file.
        required: The columns that it must have; their cells may be empty.
        optional: The others that are read.
        thing: What a line stands for, in the singular, such as `pair`.
        option: What the user sets to name the manifest.
        files: Columns of files, by whose names a line without an id is called: `a--b`, and `a--b-2` where that is
            taken. Without such columns every line must have an id.

    Raises:
        UserError: when the file or a column is missing, a column's name is doubled or looks mistyped, it has no lines,
            a line has fewer or more cells than the first, an id is missing or stands twice, or it is no CSV file.
    """
    if not manifest.is_file():
        raise UserError(f"The manifest '{manifest}' does not exist: set {option} to a CSV file of {thing}s.")
    table = _read_table(manifest, required)
    _check_columns(table, required=required, optional=optional)
    rows = [_row(table, number, cells) for number, cells in table.lines]
    if not rows:
        raise UserError(f"The manifest '{manifest}' lists no {thing}s: add a line for each {thing}.")
    seen: dict[str, ManifestRow] = {}
    named = {row["id"] for row in rows}
    for place, row in enumerate(rows):
        if not row["id"] and not files:
            raise UserError(f"The {thing} in {row.place} has no id: give each its own.")
        if not row["id"]:
            written = [part for column in files for part in row[column].replace("\\", "/").split("|")]
            name = _unused("--".join(PurePosixPath(part.strip()).stem for part in written), named)
            named.add(name)
            rows[place] = row = replace(row, cells={**row.cells, "id": name})
        if row["id"] in seen:
            raise UserError(
                f"The manifest '{manifest}' names the {thing} '{row['id']}' twice, in lines {seen[row['id']].line} and "
                f"{row.line}: give each its own id."
            )
        seen[row["id"]] = row
    return rows


def _unused(name: str, taken: Collection[str]) -> str:
    """The name, with a number behind it where it is taken."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A manifest's cells: `unnamed` columns follow the named ones; `lines` have their numbers."""

    manifest: Path
    separator: str
    columns: tuple[str, ...]
    unnamed: int
    lines: list[tuple[int, list[str]]]


def _read_table(manifest: Path, required: Sequence[str]) -> _Table:
    lines = [f"{line}\n" for line in _text(manifest).split("\n")]
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    separator = _separator(lines[first], required)
    if lines[first].lower().startswith("sep="):  # a line for spreadsheets
        separator, lines[first] = lines[first][4:5], "\n"
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    found = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                found.append((reader.line_num, stripped))
    except csv.Error as error:
        raise UserError(
            f"The manifest '{manifest}' is no CSV file from line {reader.line_num} on ({error}): a cell that begins "
            'with a double quote must end with one, and one inside it is written "".'
        ) from error
    header = found[0][1] if found else []
    named = 1 + max((place for place, name in enumerate(header) if name), default=-1)
    return _Table(
        manifest=manifest,
        separator=SEPARATORS.get(separator, separator),
        columns=tuple(header[:named]),
        unnamed=len(header) - named,
        lines=found[1:],
    )


def _separator(header: str, required: Sequence[str]) -> str:
    """What separates the names in a first line: that which gives most of those wanted, or most names at all."""

    def names(separator: str) -> int:
        cells = {cell.strip() for row in csv.reader([header], delimiter=separator) for cell in row}
        return len(cells & {*required}) if required else len(cells)

    return max(SEPARATORS, key=names)


def _text(manifest: Path) -> str:
    content = manifest.read_bytes()
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"The manifest '{manifest}' is no CSV file in UTF-8 (line {line} has other bytes): save it as 'CSV UTF-8'."
        ) from error
    if "\0" in text:
        raise UserError(f"The manifest '{manifest}' is no CSV file (it holds zero bytes): save it as 'CSV UTF-8'.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _check_columns(table: _Table, *, required: Sequence[str], optional: Sequence[str]) -> None:
    manifest, columns = table.manifest, table.columns
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"The first line of '{manifest}' names the column '{twice}' twice: name each once.")
    unknown = [name for name in columns if name not in (*required, *optional)]
    missing = [name for name in required if name not in columns]
    if missing:
        hints = [hint for name in missing if (hint := _did_you_mean(name, unknown, of=name))]
        raise UserError(
            f"The manifest '{manifest}' lacks {counted(len(missing), 'column')} ({', '.join(missing)}): its first line "
            f"must name {'; '.join([', '.join(required), *hints])}{'' if hints else '.'}"
        )
    absent = [name for name in optional if name not in columns]
    for name in unknown:
        hint = _did_you_mean(name, absent, least=MISTYPED)  # others are somebody's own
        if hint:
            raise UserError(f"The first line of '{manifest}' names the column '{name}', which is not known: {hint}")


def _did_you_mean(name: str, known: Iterable[str], *, of: str | None = None, least: float = LIKE) -> str:
    """The known name that is most like another, in words; nothing where there is none like it."""
    near = nearest(name, known, least=least)
    if near is None:
        return ""
    return f"did you mean {of} by '{near}'?" if of else f"did you mean '{near}'?"


def _row(table: _Table, line: int, cells: list[str]) -> ManifestRow:
    """A line as a row; one of another length is refused, since no one can say which cells belong to which column."""
    named = len(table.columns)
    if len(cells) not in (named, named + table.unnamed) or any(cells[named:]):
        remedy = (
            f'a text that holds a {table.separator} stands between double quotes, as in "a red cube, shiny"'
            if len(cells) > named
            else "write a cell for every column, empty where there is nothing"
        )
        raise UserError(
            f"Line {line} of '{table.manifest}' has {counted(len(cells), 'cell')}, but the first line names "
            f"{counted(named, 'column')}: {remedy}."
        )
    return ManifestRow(manifest=table.manifest, line=line, cells=dict(zip(table.columns, cells[:named], strict=True)))
