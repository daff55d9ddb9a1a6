"""Curves of a sweep: what each method's numbers do as one setting varies."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from latent_geodesics.run.canvas import canvas, label, legend_above, literal, method_color, wrapped
from latent_geodesics.run.compare.settings import is_swept, setting_title
from latent_geodesics.run.compare.tables import ComparisonTable, Row
from latent_geodesics.run.files import title_of
from latent_geodesics.run.pages import number
from latent_geodesics.run.results import by_part
from latent_geodesics.run.statistics import Interval

PANELS_A_ROW = 4
TITLE_LETTERS = 34  # of a title that fit above a panel
LETTERS = 40  # of names below an axis that fit beside one another
LARGEST_RATIO = 20  # of swept values beyond which the axis is logarithmic
DASHES = ("-", "--", ":", "-.")


def sweep_axes(table: ComparisonTable) -> list[str]:
    """The varied settings, first the one that curves are drawn against, with numbers if there is such a one.

    Empty where no curve says anything: all that varies names the runs or says which images there are.
    """
    swept = [name for name in table.varied if is_swept(name)]
    numeric = [name for name in swept if all(is_number(row.settings[name]) for row in table.rows)]
    return list(dict.fromkeys([*numeric, *swept, *table.varied])) if swept else []


def draw_sweep(file: Path, table: ComparisonTable, *, titles: dict[str, str]) -> None:
    """Draws every column against the first swept setting, a colour a method, a dash each further setting's value.

    Args:
        file: The picture.
        table: A table with `sweep_axes`.
        titles: Column -> words for the panel; a column without words is left out.
    """
    axis, *further = sweep_axes(table)
    ordered = [name for part in by_part(table.columns).values() for name in part]
    columns = [name for name in ordered if name in titles and _says_something(table, name)]
    if not columns:
        return
    lines = -(-len(columns) // PANELS_A_ROW)
    width = min(len(columns), PANELS_A_ROW)
    methods = list(dict.fromkeys(row.method for row in table.rows))
    families = list(dict.fromkeys(tuple(row.words[name] for name in further) for row in table.rows))
    places = [row.settings[axis] for row in table.rows]
    order = None if all(map(is_number, places)) else list(dict.fromkeys(row.words[axis] for row in table.rows))
    with canvas(file, size=(4.0 * width, 3.1 * lines + 0.4)) as figure:
        panels = figure.subplots(lines, width, squeeze=False).flatten()
        shifts = _shifts(len(methods) * len(families))
        for panel, column in zip(panels, columns, strict=False):
            for shift, (method, (place, family)) in zip(shifts, product(methods, enumerate(families)), strict=True):
                rows = [row for row in table.rows if row.method == method
                        and tuple(row.words[name] for name in further) == family]  # fmt: skip
                name = literal(", ".join([title_of(method), *family]), most=2 * TITLE_LETTERS)
                look = {"color": method_color(method, methods), "linestyle": DASHES[place % len(DASHES)]}
                _curve(panel, rows, column, axis, order, look | {"label": name}, shift=shift)
            _scale(panel, places, order)
            label(panel, "", setting_title(axis), "")
            panel.set_title(wrapped(titles[column], width=TITLE_LETTERS))
        for panel in panels[len(columns) :]:
            panel.set_axis_off()
        legend_above(figure, panels[0], fontsize=11)


def _shifts(count: int) -> list[float]:
    """How far beside a word each of several curves has its mean, so that their intervals do not hide one another."""
    step = min(0.14, 0.7 / count)
    return [step * (number - (count - 1) / 2) for number in range(count)]


def _curve(
    panel: Axes,
    rows: Sequence[Row],
    column: str,
    axis: str,
    order: Sequence[str] | None,
    look: dict[str, Any],
    *,
    shift: float,
) -> None:
    """The means of some rows over a swept setting; `order` holds its values where they are no numbers."""
    if not rows:
        return
    if order is not None:
        places = [order.index(row.words[axis]) + shift for row in rows]
        _points(panel, places, [row.cells[column] for row in rows], look)
        return
    places = [row.settings[axis] for row in rows]
    ranked = np.argsort(np.asarray(places, dtype=float))
    x, cells = [places[index] for index in ranked], [rows[index].cells[column] for index in ranked]
    panel.plot(x, [cell.mean for cell in cells], marker="o", markersize=3.5, **look)
    panel.fill_between(
        x, [cell.low for cell in cells], [cell.high for cell in cells], color=look["color"], alpha=0.12, linewidth=0
    )


def _points(panel: Axes, places: Sequence[float], cells: Sequence[Interval], look: dict[str, Any]) -> None:
    """Names have no order, so nothing joins them; each mean has its interval as a bar."""
    means = np.array([cell.mean for cell in cells])
    bars = np.array([[cell.mean - cell.low, cell.high - cell.mean] for cell in cells]).T
    shown = look | {"linestyle": "none"}
    panel.errorbar(places, means, yerr=np.nan_to_num(bars).clip(min=0), fmt="o", markersize=5, capsize=3, **shown)


def _scale(panel: Axes, places: Sequence[Any], order: Sequence[str] | None) -> None:
    """A logarithmic axis where the swept numbers span orders of magnitude; zero is kept on it; words as they are."""
    if order is not None:
        names = [literal(name, most=24) for name in order]
        slanted: dict[str, Any] = {"rotation": 30, "ha": "right"} if sum(map(len, names)) > LETTERS else {}
        panel.set_xticks(range(len(order)), names, **slanted)
        return
    positive = [float(place) for place in places if place > 0]
    if not positive or max(positive) < LARGEST_RATIO * min(positive):
        return
    if min(map(float, places)) < 0:
        return
    if len(positive) < len(places):
        panel.set_xscale("symlog", linthresh=min(positive))
    else:
        panel.set_xscale("log")


def _says_something(table: ComparisonTable, column: str) -> bool:
    """Whether a column has numbers, and not the same one everywhere."""
    means = [row.cells[column].mean for row in table.rows]
    return len({number(mean) for mean in means if np.isfinite(mean)}) > 1


def is_number(value: Any) -> bool:
    """Whether a setting's value is a number, so that it has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)
