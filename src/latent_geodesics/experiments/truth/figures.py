"""Figures of errors against the truth: along the sequence, by kind of motion, and as tracks over the floor."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from latent_geodesics.experiments.truth.errors import ERRORS
from latent_geodesics.experiments.truth.floor import FloorTrack
from latent_geodesics.run.canvas import canvas, label, legend_below, literal, method_color
from latent_geodesics.run.files import title_of

REFERENCE_COLORS = ("#222222", "#777777", "#AAAAAA", "#CCCCCC")
REFERENCE_LINES: tuple[Any, ...] = ("--", (0, (1, 1)), (0, (4, 1, 1, 1)), ":")
MOST_TRACKS = 8


def draw_along(file: Path, frames: pd.DataFrame, *, references: Sequence[str]) -> None:
    """Draws every error against the position u, a line a method, the mean over the pairs; references in grey."""
    errors = [name for name in ERRORS if name in frames and frames[name].notna().any()]
    methods = list(dict.fromkeys(frames["method"]))
    with _panels(file, len(errors), width=4.1, height=3.1) as panels:
        for axes, error in zip(panels, errors, strict=True):
            means = frames.groupby(["method", "u"], sort=True)[error].mean()
            for method in methods:
                values = means[method].dropna()
                axes.plot(values.index, values, label=_name(method), **_look(method, methods, references))
            axes.set_ylim(bottom=0)
            label(axes, ERRORS[error], "position u", "")


def draw_groups(file: Path, pairs: pd.DataFrame, *, references: Sequence[str]) -> None:
    """Draws the mean error of every method for each kind of motion, over the inner frames."""
    errors = [name for name in ERRORS if name in pairs and pairs[name].notna().any()]
    methods, groups = (list(dict.fromkeys(pairs[column])) for column in ("method", "group"))
    with _panels(file, len(errors), width=3.9, height=0.34 * len(groups) + 1.1, names=0.9, sharey=True) as panels:
        for axes, error in zip(panels, errors, strict=True):
            means = pairs.groupby(["method", "group"], sort=False)[error].mean()
            for method in methods:
                look = _look(method, methods, references)
                values = [means.get((method, group), float("nan")) for group in groups]
                marker = "|" if method in references else "o"
                size = 90 if method in references else 30
                axes.scatter(
                    values, range(len(groups)), s=size, marker=marker, color=look["color"], label=_name(method)
                )
            axes.set_yticks(range(len(groups)), [_name(group) for group in groups])
            axes.set_xlim(left=0)
            axes.locator_params(axis="x", nbins=4)  # small errors have long numbers
            label(axes, ERRORS[error], "", "")
        panels[0].invert_yaxis()


def draw_tracks(
    file: Path, tracks: Mapping[str, Mapping[str, Sequence[FloorTrack]]], *, references: Sequence[str]
) -> None:
    """Draws, for each pair, the true course of its objects over the floor and where every method shows them.

    Args:
        file: Where to.
        tracks: Pair -> method -> the course of each object.
        references: The methods that are none.
    """
    shown = dict(list(tracks.items())[:MOST_TRACKS])
    if not shown:
        return
    with _panels(file, len(shown), width=4.0, height=3.7) as panels:
        for axes, (pair, methods) in zip(panels, shown.items(), strict=True):
            _draw_pair(axes, methods, references)
            label(axes, pair, "x on the floor", "y on the floor")


@contextmanager
def _panels(
    file: Path, count: int, *, width: float, height: float, names: float = 0.0, **shared: Any
) -> Iterator[list[Axes]]:
    """Panels of so many inches, at most four in a row, with `names` inches beside them and one legend below."""
    columns = min(4, count)
    lines = -(-count // columns)
    with canvas(file, size=(width * columns + names, height * lines + 0.5)) as figure:
        grid = list(figure.subplots(lines, columns, squeeze=False, **shared).flat)
        for axes in grid[count:]:
            axes.axis("off")
        yield grid[:count]
        legend_below(figure, grid[0], fontsize=9)


def _draw_pair(axes: Axes, methods: Mapping[str, Sequence[FloorTrack]], references: Sequence[str]) -> None:
    names = list(methods)
    for number, one in enumerate(methods[names[0]]):
        axes.plot(*one.true.T, color="#000000", linewidth=7, alpha=0.16, solid_capstyle="round", zorder=0,
                  label="true course" if number == 0 else None)  # fmt: skip
    for method, objects in methods.items():
        look = _look(method, names, references)
        for number, one in enumerate(objects):
            axes.plot(*one.found.T, marker="o", markersize=3, label=_name(method) if number == 0 else None, **look)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.12)


def _look(method: str, methods: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    if method in references:
        number = list(references).index(method)
        style = {"color": REFERENCE_COLORS[number % 4], "linestyle": REFERENCE_LINES[number % 4]}
        return style | {"linewidth": 1.4, "zorder": 1}
    shown = [name for name in methods if name not in references]
    return {"color": method_color(method, shown), "linewidth": 1.8, "zorder": 2}


def _name(name: str) -> str:
    return literal(title_of(name))
