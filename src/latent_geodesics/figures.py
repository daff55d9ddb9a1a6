"""Figures: what the path of each method is like, and how its solver came to it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latent_geodesics.files import replacing

__all__ = ["Curve", "draw_overview", "draw_pair", "method_color"]

COLORS = {"geodesic": "#0072B2", "geodesic_paper": "#D55E00", "slerp": "#009E73", "lerp": "#8C8C8C"}
FURTHER_COLORS = ("#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#4D4D4D", "#B8860B")
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "font.size": 9.5,
    "figure.dpi": 120,
    "svg.fonttype": "none",
}


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


def method_color(method: str, methods: Sequence[str]) -> str:
    """The colour that a method has in every figure of a run."""
    others = [name for name in methods if name not in COLORS]
    return COLORS[method] if method in COLORS else FURTHER_COLORS[others.index(method) % len(FURTHER_COLORS)]


def draw_pair(file: Path, curves: Sequence[Curve], *, density: str) -> None:
    """Draws one pair: log-density along the paths, speed, and length and residual while solving."""
    names = [curve.method for curve in curves]
    with _figure(file, size=(15, 3.5)) as figure:
        along, steady, lengths, residuals = figure.subplots(1, 4)
        for curve in curves:
            look: dict[str, Any] = {"color": method_color(curve.method, names), "label": curve.method.replace("_", " ")}
            along.plot(curve.u, curve.log_density, **look)
            steady.plot(curve.u, curve.speed, **look)
            _history(lengths, curve, curve.lengths, look)
            _history(residuals, curve, curve.residuals, look)
        _label(along, "log-density along the path", "position u", "nats above the first image")
        _label(steady, "speed", "position u", "|g'(u)| over its mean")
        _label(lengths, "length while solving", "score evaluations", "relative length")
        _label(residuals, "residual while solving", "score evaluations", "mean geodesic gradient")
        steady.set_ylim(0, max(1.5, *(float(np.nanmax(curve.speed)) * 1.1 for curve in curves)))
        if any((curve.residuals > 0).any() for curve in curves):
            residuals.set_yscale("log")
        along.legend(fontsize=8)
        figure.text(0.995, 0.005, f"density: {density}", ha="right", va="bottom", fontsize=7.5, color="#555555")


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
    with _figure(file, size=(4.1 * len(columns), 0.24 * len(reference) + 1.6)) as figure:
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, (column, title) in zip(panels, columns.items(), strict=True):
            for name in shown:
                rows = table[table["method"] == name].set_index("pair").reindex(reference.index)
                gain = rows[column].astype(float) - reference[column].astype(float)
                color = method_color(name, names)
                axes.scatter(gain, range(len(gain)), s=22, color=color, label=name.replace("_", " "), alpha=0.85)
            axes.axvline(0, color="#333333", linewidth=0.8)
            _label(axes, title, f"difference from {against}", "")
        panels[0].set_yticks(range(len(reference)), list(reference.index), fontsize=7.5)
        panels[0].invert_yaxis()
        panels[-1].legend(fontsize=8, loc="best")


def _history(axes: Axes, curve: Curve, values: np.ndarray, look: dict[str, Any]) -> None:
    """A solver's history as a line; a path in closed form has none."""
    if len(values):
        axes.plot(np.maximum(curve.evaluations, 1), values, **look)
        axes.set_xscale("log")


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


@contextmanager
def _figure(file: Path, *, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure that is written when the block ends; made without pyplot, which keeps figures in global state."""
    with mpl.rc_context(STYLE), replacing(file) as partial:
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        figure.savefig(partial)
