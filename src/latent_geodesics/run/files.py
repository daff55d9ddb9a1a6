r"""What a run writes: how its files are named, how the text of others stands in them, and that each is whole.

An id may be anything: a path, a name that a system reserves, hundreds of letters, or the name of a file that a run
writes itself. `file_stem` makes a name of it that stays in its folder and that no other id has. In CSV, Markdown and
LaTeX it is literal, never a part of the table's markup. HTML is escaped by the templates (see `pages`), text in figures
by `canvas.literal`.

A file is written under another name first, then renamed, so that one which is there is whole. One that a run reads
again is *sealed*: its sha256 stands behind its content, so that a flipped bit or a cut is found before anything is made
of it. Libraries that read zip archives (torch, NumPy) read a sealed one as any other.
"""

import csv
import hashlib
import json
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.sources import file_hash

if TYPE_CHECKING:
    import pandas as pd

METHOD_TITLES = {
    "adain_slerp": "AdaIN and slerp",
    "aid": "AID",
    "aid_inner": "AID, inner",
    "crossfade": "Cross-fade",
    "diffmorpher": "DiffMorpher",
    "freemorph": "FreeMorph",
    "geodesic_flat": "Geodesic in flat space",
    "geodesic_graph": "Geodesic of the graph",
    "geodesic_paper": "Geodesic, published descent",
    "geodesic_typical": "Geodesic of the typical set",
    "impus": "IMPUS",
    "lerp": "Lerp",
    "lol": "LOL",
    "nao": "NAO",
    "noise_diffusion": "NoiseDiffusion",
    "slerp": "Slerp",
    "slerp_retimed": "Slerp, re-timed",
    "smooth_diffusion": "Smooth Diffusion",
    "string_method": "String method",
    "the_two_images": "The two images",
    "true_frames": "True frames",
    "wang_golland": "Wang and Golland",
}
"""What people read of methods whose names do not say it."""

SOLVER_TITLES = {
    "PicardAnderson": "Picard-Anderson",
    "ControlPointDescent": "the paper's descent",
    "RungeKutta4": "Runge-Kutta",
}
"""What figures call the solvers, by their classes."""

PLAIN = re.compile(r"[a-z0-9_][a-z0-9_.-]*")
LONGEST = 120
KEPT = 60
DIGITS = 12
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
OWN = frozenset({"grid", "overview", "pipelines", "sweep", "toy"})
"""What the project calls its own figures, which lie beside those that are named after an id."""
DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})
"""Names that stand for devices on Windows, whatever suffix follows them."""

# Spreadsheets take a cell that begins so for a formula. The quotes before it are counted, so that it can be undone.
FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
MARKDOWN = {letter: f"&#{ord(letter)};" for letter in "|`*[]\\$~"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\textasciigrave{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "†": r"\dag{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # which could be an option of the line break before them
} | {letter: f"\\{letter}" for letter in "&%$#_{}"}  # fmt: skip

SEAL = b"\nsha256:"
SEAL_SIZE = len(SEAL) + 64
LONGEST_STEM = 32  # characters of a file's name in the name of the folder that it is written in
PARTIAL = re.compile(r"^\..*\.partial-")


def file_stem(*parts: str) -> str:
    """A file name without its suffix for an id, or for an id and what else tells files apart, such as a method.

    Plain names stay as they are and are joined by `_`: `pair-1`, `pair-1_slerp`; by `+` where one before the last has a
    `_` of its own, which could not be told from the joint. All others (with capitals, which some systems do not tell
    from small letters; with other signs, too long, reserved, empty) keep what is readable of them and end in `~` and
    twelve digits of a hash. The same parts always give the same name; different ones give different names, on systems
    that take capitals for small letters too.
    """
    joint = "+" if any("_" in part for part in parts[:-1]) else "_"
    joined = joint.join(parts)
    if all(map(_is_plain, parts)) and len(joined) <= LONGEST:
        return joined
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:DIGITS]
    letters = unicodedata.normalize("NFKD", joined).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^A-Za-z0-9_+-]+", "-", letters).strip("-+")[:KEPT]
    return f"{readable or 'name'}~{digest}"


def one_line(text: object, *, most: int | None = None) -> str:
    """A text for one line of at most `most` letters, the middle left out where it is longer; no control characters."""
    words = " ".join("".join(_shown(letter) for letter in str(text)).split())
    if most is None or len(words) <= most:
        return words
    tail = max(1, most // 3)
    return f"{words[: most - tail - 1]}\N{HORIZONTAL ELLIPSIS}{words[-tail:]}"


def _is_plain(part: str) -> bool:
    reserved = part in OWN or part.partition(".")[0] in DEVICES
    return PLAIN.fullmatch(part) is not None and not part.endswith(".") and ".partial" not in part and not reserved


def _shown(letter: str) -> str:
    """The letter itself, or what stands for one that is not drawn or that turns the line."""
    if letter.isspace():
        return " "
    return UNKNOWN if unicodedata.category(letter)[0] == "C" else letter


def title_of(name: str) -> str:
    """What people read of a method: `geodesic_paper` is "Geodesic, published descent"."""
    if name in METHOD_TITLES:
        return METHOD_TITLES[name]
    stem, mark, rest = name.partition("_published")
    if mark and stem in METHOD_TITLES:
        return f"{METHOD_TITLES[stem]}, as published{rest.replace('_', ' ')}"
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def csv_text(table: "pd.DataFrame", *, float_format: str | None = None) -> str:
    """A table as CSV, `guarded` and without its index."""
    safe = guarded(table)
    # The writer quotes line feeds, but not a carriage return alone, at which a reader would break the line.
    words = [*safe.columns, *safe.select_dtypes(exclude="number").to_numpy().ravel()]
    returns = any("\r" in word for word in words if isinstance(word, str))
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    return safe.to_csv(index=False, quoting=quoting, float_format=float_format)


def guarded(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table with a `'` before the words, headings among them, that a spreadsheet would take for formulas."""
    from pandas.api.types import is_numeric_dtype

    safe = table.rename(columns=_guarded)
    for place in range(safe.shape[1]):
        column = safe.iloc[:, place]
        if not is_numeric_dtype(column):
            safe.isetitem(place, column.map(_guarded).array)
    return safe


def unguarded(cell: str) -> str:
    """The word that `csv_text` wrote as `cell`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def markdown_text(text: object) -> str:
    """A text as a cell of a Markdown table, or as a paragraph. An underscore within a word means nothing there."""
    return re.sub(r"(?<!\w)_|_(?!\w)", "&#95;", "".join(MARKDOWN.get(letter, letter) for letter in one_line(text)))


def latex_text(text: object) -> str:
    """A text as LaTeX shows it."""
    return "".join(LATEX.get(letter, letter) for letter in one_line(text))


def _guarded(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


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
