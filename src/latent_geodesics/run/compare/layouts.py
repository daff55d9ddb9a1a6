"""A comparison as people read it: Markdown, LaTeX for a paper, and the cells of a page, each from the same lines."""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from latent_geodesics.run.markup import latex_text, markdown_text
from latent_geodesics.run.names import title_of
from latent_geodesics.run.pages import Cell, number
from latent_geodesics.run.results import KNOWN, STAGE_COLUMNS
from latent_geodesics.run.statistics import Interval

if TYPE_CHECKING:
    from latent_geodesics.run.compare.tables import ComparisonTable, Row

OPEN = "†"
ARROWS = {"higher": "↑", "lower": "↓"}
LATEX_ARROWS = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
LATEX_SETTINGS = {"tau": r"$\tau$", "alpha": r"$\alpha$", "alpha_d": r"$\alpha d$"}
HEADING_LETTERS = 18
NETWORKS = ("lpips_alex", "lpips_vgg", "lpips_squeeze", "lpips_squeeze_fp16", "clevr")
PAPER = ("log_density_mean", "length", "ppl_seq_{}", "pdv_{}", "truth_{}", "ghosting", "seconds")
"""What a paper's table has of a run's columns; perceptual ones by the first of the networks that measured."""


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How a format writes words that others chose, and marks."""

    text: Callable[[object], str]
    marks: Mapping[str, str]


MARKDOWN = _Form(text=markdown_text, marks={"best": "**{}**", "second": "*{}*", "": "{}"})
LATEX = _Form(text=latex_text, marks={"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "": "{}"})


def heading(name: str, arrows: Mapping[str, str] | None = None) -> tuple[str, str]:
    """What people read of a column, and the arrow that says which way is better."""
    column = {**KNOWN, **STAGE_COLUMNS}.get(name)
    if column is None:
        return name, ""
    return column.title, (ARROWS if arrows is None else arrows).get(column.better or "", "")


def markdown(table: "ComparisonTable") -> str:
    """A Markdown table, notes below it; best in bold, second best in italics."""
    headings = [" ".join(filter(None, (markdown_text(words), arrow))) for words, arrow in map(heading, table.columns)]
    first = ["method", *map(markdown_text, table.varied), *headings, "n", "failed"]
    lines = [first, ["---"] * len(first)]
    for row, names, cells in _lines(table, table.columns, MARKDOWN):
        lines.append([*names, *(cell.text for cell in cells), str(_pairs(row)), str(row.failed)])
    shown = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([*shown, *(f"\n{markdown_text(note)}" for note in table.notes)]) + "\n"


def latex(table: "ComparisonTable", columns: Sequence[str] | None = None) -> str:
    """A LaTeX tabular for booktabs that goes into a paper as it is: means, best in bold, second best underlined.

    Args:
        table: The comparison.
        columns: Which of its columns; those that papers show if not given, or all if it has none of these.
    """
    chosen = list(columns or _of_papers(table.columns) or table.columns)
    counts = len({_pairs(row) for row in table.rows}) > 1 or any(row.failed for row in table.rows)
    further = ["n", "failed"] if counts else []
    settings = [LATEX_SETTINGS.get(name, latex_text(name.replace("_", " "))) for name in table.varied]
    spec = "l" * (1 + len(settings)) + "r" * (len(chosen) + len(further))
    head = _wrapped(["Method", *settings], [heading(name, LATEX_ARROWS) for name in chosen], further)
    body = []
    for row, names, cells in _lines(table, chosen, LATEX):
        ends = [str(_pairs(row)), str(row.failed)] if counts else []
        body.append([*names, *(cell.text for cell in cells), *ends])
    across = rf"\multicolumn{{{len(spec)}}}{{p{{0.95\linewidth}}}}"
    marked = any(name in row.open for row in table.rows for name in chosen)
    shown = [note for note in table.notes if marked or not note.startswith(OPEN)]
    notes = [rf"{across}{{\footnotesize {latex_text(note)}}} \\" for note in shown]
    pairs = max(map(_pairs, table.rows), default=0)
    return "\n".join(
        [f"% Means over {pairs} pairs. Best in bold, second best underlined, by what is printed. Needs booktabs.",
         rf"\begin{{tabular}}{{{spec}}}", r"\toprule", *map(_line, head), r"\midrule", *map(_line, body),
         r"\bottomrule", *notes, r"\end{tabular}", ""]
    )  # fmt: skip


def page_table(table: "ComparisonTable", columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table as a page shows it, with cells that are marked; of some columns, or of all."""
    chosen = list(table.columns if columns is None else columns)
    plain = _Form(text=str, marks=dict.fromkeys(("best", "second", ""), "{}"))
    first = ["method", *table.varied, *(" ".join(filter(None, heading(name))) for name in chosen), "n", "failed"]
    rows = [[*names, *cells, _pairs(row), row.failed] for row, names, cells in _lines(table, chosen, plain)]
    return pd.DataFrame(rows, columns=first, dtype=object)


def _lines(
    table: "ComparisonTable", columns: Sequence[str], form: _Form
) -> Iterator[tuple["Row", list[str], list[Cell]]]:
    """Each row with its names and its numbers as text. A number of fewer pairs than `n` says of how many."""
    ranks = {column: table.rank(column) for column in columns}
    for index, row in enumerate(table.rows):
        cells = []
        for column in columns:
            cell, mark = row.cells[column], ranks[column].get(index, "")
            few = "" if cell.n in (0, _pairs(row)) else f" (n = {cell.n})"
            open_ = f" {_dagger(form)}" if column in row.open else ""
            cells.append(Cell(text=form.marks[mark].format(_number(cell, form)) + open_ + few, mark=mark))
        yield (
            row,
            [form.text(title_of(row.method)), *(form.text(str(row.settings[name])) for name in table.varied)],
            cells,
        )


def _number(cell: Interval, form: _Form) -> str:
    return _paper_number(cell.mean) if form is LATEX else interval_text(cell)


def interval_text(cell: Interval) -> str:
    """A mean with its interval, where it has one."""
    if not np.isfinite(cell.low) or cell.low == cell.high:
        return number(cell.mean)
    return f"{number(cell.mean)} [{number(cell.low)}, {number(cell.high)}]"


def _paper_number(value: float) -> str:
    """A number to the digits of `number`, with the zeros that it leaves out."""
    if not np.isfinite(value):
        return "--" if np.isnan(value) else rf"${'-' if value < 0 else ''}\infty$"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    digits, _, exponent = text.partition("e")
    if exponent:
        return rf"${digits}\cdot10^{{{int(exponent)}}}$"
    return f"$-${digits[1:]}" if digits.startswith("-") else digits


def _dagger(form: _Form) -> str:
    return r"$^\dagger$" if form is LATEX else OPEN


def _pairs(row: "Row") -> int:
    return max((cell.n for cell in row.cells.values()), default=0)


def _of_papers(columns: Sequence[str]) -> list[str]:
    network = next((name for name in NETWORKS if any(column.endswith(f"_{name}") for column in columns)), NETWORKS[-1])
    return [name for name in (wanted.format(network) for wanted in PAPER) if name in columns]


def _wrapped(names: Sequence[str], headings: Sequence[tuple[str, str]], further: Sequence[str]) -> list[list[str]]:
    """The head of a LaTeX table on as many lines as its words need, the last line of each at the bottom."""
    wrapped = [[name] for name in names]
    for words, arrow in headings:
        lines = [latex_text(line) for line in textwrap.wrap(words, HEADING_LETTERS, break_on_hyphens=False) or [""]]
        wrapped.append([*lines[:-1], " ".join(filter(None, (lines[-1], arrow)))])
    wrapped += [[name] for name in further]
    height = max(map(len, wrapped))
    padded = [[""] * (height - len(lines)) + lines for lines in wrapped]
    return [list(line) for line in zip(*padded, strict=True)]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
