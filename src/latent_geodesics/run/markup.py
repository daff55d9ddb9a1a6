r"""Text that others chose as a cell of a table: literal in CSV, Markdown and LaTeX, never a part of the table's markup.

HTML is escaped by the templates (see `pages`), text in figures by `canvas.literal`.
"""

import csv
import re
from typing import Any, Literal

import pandas as pd

from latent_geodesics.run.names import one_line

# Spreadsheets take a cell that begins so for a formula. The quotes before it are counted, so that it can be undone.
FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
MARKDOWN = {letter: f"&#{ord(letter)};" for letter in "|`*[]\\$~"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\textasciigrave{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "†": r"\dag{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # which could be an option of the line break before them
} | {letter: f"\\{letter}" for letter in "&%$#_{}"}  # fmt: skip


def csv_text(table: pd.DataFrame, *, float_format: str | None = None) -> str:
    """A table as CSV, `guarded` and without its index."""
    safe = guarded(table)
    # The writer quotes line feeds, but not a carriage return alone, at which a reader would break the line.
    words = [*safe.columns, *safe.select_dtypes(exclude="number").to_numpy().ravel()]
    returns = any("\r" in word for word in words if isinstance(word, str))
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    return safe.to_csv(index=False, quoting=quoting, float_format=float_format)


def guarded(table: pd.DataFrame) -> pd.DataFrame:
    """A table with a `'` before the words, headings among them, that a spreadsheet would take for formulas."""
    safe = table.rename(columns=_guarded)
    for place in range(safe.shape[1]):
        column = safe.iloc[:, place]
        if not pd.api.types.is_numeric_dtype(column):
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
