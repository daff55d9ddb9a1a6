"""Figures: what the path of each method is like, and how its solver came to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from latent_geodesics.run.canvas import canvas, label, legend_below, legend_columns, literal, method_color
from latent_geodesics.run.files import title_of

PAIR_WIDTH, PAIR_HEIGHT = 15.0, 2.9  # inches, without what lies below the panels
PAIR_MARGINS = {"left": 0.045, "right": 0.99, "wspace": 0.27}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What is drawn of one method on one pair; the solver's history is empty for a path in closed form.

    Attributes:
        u: Positions on the path.
        log_density: log p(g(u)) - log p(g(0)), in nats.
        speed: |g'(u)| over its mean.
        evaluations: Score evaluations spent by each iteration.
        lengths: Length after each iteration, relative to the density at the start.
        residuals: Mean norm of the geodesic gradient after each iteration.
    """

    method: str
    u: np.ndarray
    log_density: np.ndarray
    speed: np.ndarray
    evaluations: np.ndarray
    lengths: np.ndarray
    residuals: np.ndarray


def draw_pair(file: Path, curves: Sequence[Curve], *, density: str) -> None:
    """Draws one pair: log-density along the paths, speed, and, where some were solved, how length and residual fell."""
    names = [curve.method for curve in curves]
    # Of what is below, the words on the axes take half an inch, and a line of the legend or the last one 0.17.
    columns = legend_columns(list(map(title_of, names)), width=0.94 * PAIR_WIDTH, fontsize=8)
    below = 0.7 + 0.17 * -(-len(names) // columns)
    height = PAIR_HEIGHT + below
    margins = PAIR_MARGINS | {"bottom": below / height, "top": 1 - 0.4 / height}
    with canvas(file, size=(PAIR_WIDTH, height), margins=margins) as figure:
        solved = any(len(curve.evaluations) for curve in curves)
        along, steady, *solving = figure.subplots(1, 4 if solved else 2)
        for curve in curves:
            look: dict[str, Any] = {
                "color": method_color(curve.method, names),
                "label": literal(title_of(curve.method)),
            }
            along.plot(curve.u, curve.log_density, **look)
            steady.plot(curve.u, curve.speed, **look)
            for axes, values in zip(solving, (curve.lengths, curve.residuals), strict=False):
                _history(axes, curve, values, look)
        label(along, "log-density along the path", "position u", "nats above the first image")
        label(steady, "speed", "position u", "|g'(u)| over its mean")
        if solved:
            label(solving[0], "length while solving", "score evaluations", "relative length")
            label(solving[1], "residual while solving", "score evaluations", "mean geodesic gradient")
        steady.set_ylim(0, max(1.5, *(float(np.nanmax(curve.speed)) * 1.1 for curve in curves)))
        if any((curve.residuals > 0).any() for curve in curves):
            solving[1].set_yscale("log")
        handles, words = along.get_legend_handles_labels()
        place = (0.5, 0.17 / height)
        figure.legend(handles, words, loc="lower center", bbox_to_anchor=place, ncols=columns, fontsize=8, borderpad=0)
        figure.text(
            0.995,
            0.005,
            literal(f"density: {density}", most=200),
            ha="right",
            va="bottom",
            fontsize=7.5,
            color="#555555",
        )


def draw_overview(file: Path, table: pd.DataFrame, *, against: str = "slerp") -> None:
    """Draws, for every pair, what each method gains over the spherical line."""
    columns = {
        "log_density_mean": "mean log-density (nats)",
        "log_density_min": "least log-density (nats)",
        "length": "relative length",
        "ppl_seq_clevr": "perceptual path length",
    }
    columns = {column: title for column, title in columns.items() if column in table.columns}
    names = list(dict.fromkeys(table["method"]))
    shown = [name for name in names if name != against]
    reference = table[table["method"] == against].set_index("pair")
    if reference.empty or not shown or not columns:
        return
    with canvas(file, size=(4.1 * len(columns), 0.24 * len(reference) + 1.8)) as figure:
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, (column, title) in zip(panels, columns.items(), strict=True):
            for name in shown:
                rows = table[table["method"] == name].set_index("pair").reindex(reference.index)
                gain = rows[column].astype(float) - reference[column].astype(float)
                color = method_color(name, names)
                axes.scatter(gain, range(len(gain)), s=22, color=color, label=literal(title_of(name)), alpha=0.85)
            axes.axvline(0, color="#333333", linewidth=0.8)
            axes.locator_params(axis="x", nbins=4)  # small differences have long numbers
            label(axes, title, f"difference from {title_of(against)}", "")
        panels[0].set_yticks(range(len(reference)), [literal(pair) for pair in reference.index], fontsize=7.5)
        panels[0].invert_yaxis()
        legend_below(figure, panels[-1], fontsize=8)


def _history(axes: Axes, curve: Curve, values: np.ndarray, look: dict[str, Any]) -> None:
    """A solver's history as a line; a path in closed form has none."""
    if len(values):
        axes.plot(np.maximum(curve.evaluations, 1), values, **look)
        axes.set_xscale("log")
