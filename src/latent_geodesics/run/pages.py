"""Report pages: one HTML file that holds its own pictures, so that it can be mailed and opened anywhere.

Every kind of run ends in such a page. `Page` is one of sections (words, sequences, pictures, a table each), which is
what most experiments need; one with a layout of its own renders its own template, which extends `base.html`.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup, escape

from latent_geodesics.run.files import inside, write_text
from latent_geodesics.run.names import title_of

TITLED = ("method", "path", "pipeline", "solver", "status", "velocity")
"""Columns of a page's tables that hold names by which the code knows things; people read these in words."""
MEDIA = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp"}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a page; `file` is relative to the run's folder."""

    file: str
    caption: str


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


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page: paragraphs, sequences under one slider, pictures, a table whose columns are its headings.

    Attributes:
        players: The sequences, as `Rows.sequence` gives them.
    """

    title: str
    text: Sequence[str] = ()
    players: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[Picture] = ()
    table: pd.DataFrame | None = None


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
        table: pd.DataFrame | None = None,
        pictures: Mapping[str, str] | None = None,
        players: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Adds paragraphs, sequences under one slider, pictures (file in the run's folder -> caption), and a table."""
        shown = [Picture(file=file, caption=caption) for file, caption in (pictures or {}).items()]
        if table is not None:
            named = [name for name in TITLED if name in table.columns]
            table = table.assign(**{name: table[name].map(_titled) for name in named})
        self.sections.append(Section(title=title, text=text, pictures=shown, table=table, players=players))

    def write(self, folder: Path) -> None:
        """Writes `report.html` into the run's folder, where the pictures already are."""
        shown = {"title": self.title, "lead": self.lead, "facts": self.facts, "sections": self.sections}
        write_text(folder / "report.html", render_template("page.html", folder=folder, **shown))


def settings_of(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """What a run was set to, for those of the settings that it has; the power on the density as it was given."""
    power = "alpha_d" if config.get("alpha") is None else "alpha"
    wanted = [power if name == "alpha" else name for name in names]
    return {name: config[name] for name in wanted if name in config}


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
    environment.filters["number"] = number
    environment.filters["title"] = title_of
    environment.filters["breakable"] = _breakable
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
    if found == int(found) and abs(found) < 1e6:
        return str(int(found))
    return f"{found:.3g}" if abs(found) < 1000 else f"{found:,.0f}"


def _titled(cell: Any) -> Any:
    return title_of(cell) if isinstance(cell, str) else cell


def _breakable(name: object) -> Markup:
    """A column's name, escaped, that may go on in the next line after each underscore."""
    return escape(name).replace("_", Markup("_<wbr>"))


def _embedded(folder: Path, name: str) -> str:
    """A picture as a data address, so that the page needs no other file.

    Raises:
        UserError: for one outside the folder, which a run that someone else began may name.
    """
    file = inside(folder, name)
    return f"data:{MEDIA[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
