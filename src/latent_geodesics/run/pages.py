"""Report pages: one HTML file that holds its own pictures, so that it can be mailed and opened anywhere.

Every kind of run ends in such a page. `Page` is one of sections (words, sequences, pictures, a table each), which is
what most experiments need; one with a layout of its own renders its own template, which extends `base.html`.

A comparison of runs is laid out here too, as Markdown, LaTeX for a paper, and the cells of a page, each from the same
lines.
"""

import base64
import math
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup, escape
from PIL import Image

from latent_geodesics.run.compare.settings import setting_title
from latent_geodesics.run.files import inside, latex_text, markdown_text, title_of, write_text
from latent_geodesics.run.results import KNOWN, STAGE_COLUMNS, column_title
from latent_geodesics.run.sections import Given, Picture, Section, Timeline
from latent_geodesics.run.statistics import Interval

if TYPE_CHECKING:
    from latent_geodesics.run.compare.tables import ComparisonTable, Row

TITLED = ("method", "path", "pipeline", "solver", "status", "velocity")
"""Columns of a page's tables that hold names by which the code knows things; people read these in words."""
MEDIA = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp"}

STRIP_SCALE = 0.65
"""Of a strip's pixels: 17 frames stand in a page of full width."""
LONGEST_WORDS = 36
"""Letters of a cell on one line."""
OPEN = "†"
ARROWS = {"higher": "↑", "lower": "↓"}
LATEX_ARROWS = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
LATEX_SETTINGS = {"tau": r"$\tau$", "alpha": r"$\alpha$", "alpha_d": r"$\alpha d$"}
HEADING_LETTERS = 12
"""In a line of a LaTeX table's heading, so that a paper's seven columns and its methods fit its width."""
NETWORKS = ("lpips_alex", "lpips_vgg", "lpips_squeeze", "lpips_squeeze_fp16", "clevr")
PAPER = ("log_density_mean", "length", "ppl_seq_{}", "pdv_{}", "truth_{}", "ghosting", "seconds")
"""What a paper's table has of a run's columns; perceptual ones by the first of the networks that measured."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table that is more than its text.

    Attributes:
        mark: `best` or `second` of its column, or nothing.
        link: Where it leads, relative to the page.
    """

    text: str
    mark: str = ""
    link: str | None = None


class PageLike(Protocol):
    """A report that can be written into a run's folder."""

    def write(self, folder: Path) -> None:
        """Writes `report.html`."""
        ...


class Page:
    """The report of a run, a section after another.

    Args:
        title: The heading.
        lead: What the page shows, in a sentence or two.
        facts: Settings and counts that a reader needs to judge the rest, name -> value.
    """

    def __init__(self, title: str, lead: str, facts: Mapping[str, Any]) -> None:
        self.title, self.lead, self.facts = title, lead, facts
        self.sections: list[Section] = []

    def section(
        self,
        title: str,
        *text: str,
        given: Given | None = None,
        table: pd.DataFrame | None = None,
        pictures: Mapping[str, str] | None = None,
        players: Sequence[Mapping[str, Any]] = (),
        timeline: Timeline | None = None,
    ) -> None:
        """Adds a `Section`, with pictures as file in the run's folder -> caption."""
        shown = [Picture(file=file, caption=caption) for file, caption in (pictures or {}).items()]
        if table is not None:
            named = [name for name in TITLED if name in table.columns]
            table = table.assign(**{name: table[name].map(_titled) for name in named})
        self.sections.append(
            Section(
                title=title, text=text, given=given, players=players, timeline=timeline, pictures=shown, table=table
            )
        )

    def write(self, folder: Path) -> None:
        """Writes `report.html` into the run's folder, where the pictures already are."""
        shown = {"title": self.title, "lead": self.lead, "facts": self.facts, "sections": self.sections}
        write_text(folder / "report.html", render_template("page.html", folder=folder, **shown))


def settings_of(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """What a run was set to, for those of the settings that it has; the power on the density as it was given.

    The model is called by the last part of its name or path.
    """
    power = "alpha_d" if config.get("alpha") is None else "alpha"
    wanted = [power if name == "alpha" else name for name in names]
    found = {name: config[name] for name in wanted if name in config}
    if isinstance(model := found.get("model"), Mapping):
        found["model"] = Path(str(model.get("path_or_name", "?"))).name
    return found


def render_template(name: str, *, folder: Path, **values: Any) -> str:
    """A template of this package with `values`; its filter `embedded` turns a file of `folder` into its own bytes.

    All values are escaped: they are text, never markup.
    """
    environment = Environment(
        loader=PackageLoader("latent_geodesics.run"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = lambda file: _embedded(folder, file)
    environment.filters["strip_width"] = lambda file: _strip_width(inside(folder, file))
    environment.filters["number"] = number
    environment.filters["title"] = title_of
    environment.filters["heading"] = lambda name: " ".join(filter(None, heading(name)))
    environment.filters["breakable"] = _breakable
    environment.filters["wordy"] = _wordy
    return environment.get_template(name).render(**values)


def number(value: Any) -> str:
    """A cell of a table: numbers to three digits, a dash for none, words as they are."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, Cell):
        return value.text
    found = float(value)
    if math.isnan(found):
        return "-"
    if math.isinf(found):
        return str(found)
    whole = found == int(found) or abs(found) >= 999.5  # what three digits would round to a thousand
    return f"{found + 0.0:,.0f}" if whole else f"{found:.3g}"  # -0 as 0


def _titled(cell: Any) -> Any:
    return title_of(cell) if isinstance(cell, str) else cell


def _wordy(table: pd.DataFrame) -> list[bool]:
    """Which columns of a table hold sentences, that need several lines."""
    return [any(isinstance(cell, str) and len(cell) > LONGEST_WORDS for cell in cells) for _, cells in table.items()]


def _breakable(name: object) -> Markup:
    """A column's name, escaped, that may go on in the next line after each underscore."""
    return escape(name).replace("_", Markup("_<wbr>"))


def _strip_width(file: Path) -> int:
    """To how many pixels a strip may shrink with the window; below that it scrolls, so that its names stay readable."""
    with Image.open(file) as opened:
        return round(STRIP_SCALE * opened.width)


def _embedded(folder: Path, name: str) -> str:
    """A picture as a data address, so that the page needs no other file.

    Raises:
        UserError: for one outside the folder, which a run that someone else began may name.
    """
    file = inside(folder, name)
    return f"data:{MEDIA[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How a format writes words that others chose, and marks."""

    text: Callable[[object], str]
    marks: Mapping[str, str]


MARKDOWN = _Form(text=markdown_text, marks={"best": "**{}**", "second": "*{}*", "": "{}"})
LATEX = _Form(text=latex_text, marks={"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "": "{}"})


def heading(name: str, arrows: Mapping[str, str] | None = None) -> tuple[str, str]:
    """What people read of a column, and the arrow that says which way is better."""
    better = KNOWN[name].better if name in KNOWN else None
    return column_title(name), (ARROWS if arrows is None else arrows).get(better or "", "")


def markdown(table: "ComparisonTable") -> str:
    """A Markdown table, notes below it; best in bold, second best in italics."""
    headings = [" ".join(filter(None, (markdown_text(words), arrow))) for words, arrow in map(heading, table.columns)]
    settings = [markdown_text(setting_title(name)) for name in table.varied]
    first = ["method", *settings, *headings, "n", "failed"]
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
    chosen = [name for name in chosen if any(np.isfinite(row.cells[name].mean) for row in table.rows)] or chosen
    counts = len({_pairs(row) for row in table.rows}) > 1 or any(row.failed for row in table.rows)
    further = ["n", "failed"] if counts else []
    settings = [LATEX_SETTINGS.get(name, latex_text(setting_title(name).replace("_", " "))) for name in table.varied]
    spec = "l" * (1 + len(settings)) + "r" * (len(chosen) + len(further))
    few = {name: words for name in chosen if (words := _few(table.rows, name))}
    headings = []
    for name in chosen:
        words, arrow = heading(name, LATEX_ARROWS)
        headings.append((words + few.get(name, ""), arrow))
    head = _wrapped(["Method", *settings], headings, further)
    body = []
    for row, names, cells in _lines(table, chosen, LATEX, counted=few):
        ends = [str(_pairs(row)), str(row.failed)] if counts else []
        body.append([*names, *(cell.text for cell in cells), *ends])
    across = rf"\multicolumn{{{len(spec)}}}{{p{{0.95\linewidth}}}}"
    marked = any(name in row.open for row in table.rows for name in chosen)
    shown = [note for note in table.notes if marked or not note.startswith(OPEN)]
    notes = [rf"{across}{{\footnotesize {latex_text(note)}}} \\" for note in shown]
    pairs = max(map(_pairs, table.rows), default=0)
    over = f"{pairs} pair{'' if pairs == 1 else 's'}"
    return "\n".join(
        [f"% Means over {over}. Best in bold, second best underlined, by what is printed. Needs booktabs.",
         r"{\footnotesize\setlength{\tabcolsep}{2.5pt}%",
         rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}", r"\toprule", *map(_line, head), r"\midrule", *map(_line, body),
         r"\bottomrule", *notes, r"\end{tabular}}", ""]
    )  # fmt: skip


def page_table(table: "ComparisonTable", columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table as a page shows it, with cells that are marked; of some columns, or of all."""
    chosen = list(table.columns if columns is None else columns)
    plain = _Form(text=str, marks=dict.fromkeys(("best", "second", ""), "{}"))
    settings = list(map(setting_title, table.varied))
    first = ["method", *settings, *(" ".join(filter(None, heading(name))) for name in chosen), "n", "failed"]
    rows = [[*names, *cells, _pairs(row), row.failed] for row, names, cells in _lines(table, chosen, plain)]
    return pd.DataFrame(rows, columns=first, dtype=object)


def _lines(
    table: "ComparisonTable", columns: Sequence[str], form: _Form, counted: Collection[str] = ()
) -> Iterator[tuple["Row", list[str], list[Cell]]]:
    """Each row with its names and its numbers as text.

    A number of fewer pairs than `n` says of how many, but in columns whose heading does, which are `counted`.
    """
    ranks = {column: table.rank(column) for column in columns}
    for index, row in enumerate(table.rows):
        cells = []
        for column in columns:
            cell, mark = row.cells[column], ranks[column].get(index, "")
            if column in STAGE_COLUMNS:  # nobody asks for less than a millisecond
                rounded = {name: round(getattr(cell, name), 3) for name in ("mean", "low", "high")}
                cell = replace(cell, **rounded)
            few = "" if column in counted or cell.n in (0, _pairs(row)) else f" (n = {cell.n})"
            open_ = f" {_dagger(form)}" if column in row.open else ""
            cells.append(Cell(text=form.marks[mark].format(_number(cell, form)) + open_ + few, mark=mark))
        yield (
            row,
            [form.text(title_of(row.method)), *(form.text(row.words[name]) for name in table.varied)],
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


def _few(rows: Sequence["Row"], column: str) -> str:
    """Of how many pairs a column's numbers are, for its heading, where they are of as many in all rows and of few."""
    counts = {row.cells[column].n for row in rows} - {0}
    if len(counts) != 1 or all(counts == {_pairs(row)} for row in rows):
        return ""
    return f" (n = {counts.pop()})"


def _of_papers(columns: Sequence[str]) -> list[str]:
    network = next((name for name in NETWORKS if any(column.endswith(f"_{name}") for column in columns)), NETWORKS[-1])
    return [name for name in (wanted.format(network) for wanted in PAPER) if name in columns]


def _wrapped(names: Sequence[str], headings: Sequence[tuple[str, str]], further: Sequence[str]) -> list[list[str]]:
    """The head of a LaTeX table on as many lines as its words need, the last line of each at the bottom."""
    wrapped = [[name] for name in names]
    for words, arrow in headings:
        whole = words.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
        lines = textwrap.wrap(whole, HEADING_LETTERS, break_long_words=False) or [""]
        lines = [latex_text(line.replace("\N{NO-BREAK SPACE}", " ")) for line in lines]
        wrapped.append([*lines[:-1], " ".join(filter(None, (lines[-1], arrow)))])
    wrapped += [[name] for name in further]
    height = max(map(len, wrapped))
    padded = [[""] * (height - len(lines)) + lines for lines in wrapped]
    return [list(line) for line in zip(*padded, strict=True)]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
