"""Figures of extrapolation: one for each path that leaves an image, and an overview of all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from latent_geodesics.run.canvas import canvas, label, legend_below, literal

__all__ = ["COLORS", "Band", "PathCurve", "color_of", "draw_departure", "draw_overview"]

COLORS = {"parallel": "#0072B2", "adaptive": "#E69F00", "rk4": "#CC79A7", "slerp": "#009E73", "lerp": "#8C8C8C"}
STYLES = {"parallel": "-", "adaptive": (0, (4, 2.5)), "rk4": (0, (1.5, 2)), "slerp": "-", "lerp": "-"}
NAMES = {
    "parallel": "geodesic (parallel)",
    "adaptive": "geodesic (adaptive)",
    "rk4": "geodesic (RK4)",
    "slerp": "great circle",
    "lerp": "straight line",
}
SPARE = "#7A5195"


@dataclass(frozen=True, kw_only=True)
class Band:
    """What the real images' latents have: their range, and the bounds of what counts as plausible."""

    levels: tuple[float, float]
    least_level: float
    norms: tuple[float, float]
    shell: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PathCurve:
    """What is drawn of one path.

    Attributes:
        u: Positions.
        log_density: Under the path's own condition, in nats above its start.
        level: Without a prompt, in nats above the median of the real latents.
        norm: `|x| / sqrt(d)`.
        speed: `|g'(u)|` over its value at the start.
        until: The position up to which the path is plausible; NaN where its start is not.
    """

    method: str
    u: np.ndarray
    log_density: np.ndarray
    level: np.ndarray
    norm: np.ndarray
    speed: np.ndarray
    until: float


def color_of(method: str) -> str:
    """The colour that a method has in every figure."""
    return COLORS.get(method, SPARE)


def draw_departure(file: Path, curves: Sequence[PathCurve], *, band: Band, density: str, angle: float) -> None:
    """Draws one departure: log-density, level against real images, norm against their shell, and speed."""
    with canvas(file, size=(15, 3.6)) as figure:
        along, levels, norms, steady = figure.subplots(1, 4)
        levels.axhspan(*band.levels, color="#DCE6EE", zorder=0)
        levels.axhline(band.least_level, color="#7A8794", linewidth=0.9, linestyle="--")
        norms.axhspan(*band.norms, color="#DCE6EE", zorder=0)
        for bound in band.shell:
            norms.axhline(bound, color="#7A8794", linewidth=0.9, linestyle="--")
        for curve in curves:
            look = _look(curve.method)
            along.plot(curve.u, curve.log_density, **look)
            levels.plot(curve.u, curve.level, **look)
            norms.plot(curve.u, curve.norm, **look)
            steady.plot(curve.u, curve.speed, **look)
            _mark(levels, curve)
        label(along, "log-density, own prompt", "position u", "nats above the start")
        label(levels, "log-density, no prompt", "position u", "nats above the median real image")
        label(norms, "distance to the shell", "position u", "norm |x| / √d")
        label(steady, "speed", "position u", "|g'(u)| over |g'(0)|")
        steady.set_ylim(0, 1.5)
        low, high = norms.get_ylim()
        norms.set_ylim(low - 0.02, high + 0.02)
        legend_below(figure, along, fontsize=8)
        words = (
            f"the path turns by {angle:.2f} rad · density: {literal(density, most=200)} · blue band: the real "
            "images; dashed: what counts as plausible"
        )
        # As a label of the whole figure, so that the layout keeps room for it.
        figure.supxlabel(words, x=0.995, ha="right", fontsize=7.5, color="#555555")


def draw_overview(file: Path, table: pd.DataFrame, titles: Mapping[str, str]) -> None:
    """Draws how far each path stays plausible, and how its density ends, a panel a kind of velocity."""
    kinds, methods = list(dict.fromkeys(table["velocity"])), list(dict.fromkeys(table["method"]))
    tallest = max(table[table["velocity"] == kind]["pair"].nunique() for kind in kinds)
    size = (3.9 * len(kinds), 2 * (0.42 * tallest + 1.2))
    with canvas(file, size=size) as figure:
        panels = figure.subplots(2, len(kinds), squeeze=False)
        for column, kind in enumerate(kinds):
            part = table[table["velocity"] == kind]
            pairs = list(dict.fromkeys(part["pair"]))
            for place, method in enumerate(methods):
                rows = part[part["method"] == method].set_index("pair").reindex(pairs)
                at = np.arange(len(pairs)) + 0.16 * (place - (len(methods) - 1) / 2)
                look: dict[str, Any] = {"color": color_of(method), "label": NAMES.get(method, literal(method))}
                panels[0, column].scatter(rows["plausible_until"].fillna(0.0).astype(float), at, s=26, **look)
                panels[1, column].scatter(rows["log_density_end"].astype(float), at, s=26, **look)
            for axes in panels[:, column]:
                axes.set_yticks(range(len(pairs)), [literal(pair) for pair in pairs], fontsize=8)
                axes.set_ylim(len(pairs) - 0.5, -0.5)
            panels[0, column].set_xlim(-0.04, 1.04)
            panels[1, column].axvline(0, color="#333333", linewidth=0.8)
            label(panels[0, column], titles.get(kind, kind), "plausible up to u", "")
            label(panels[1, column], "", "log-density at the end, nats above the start", "")
        legend_below(figure, panels[0, 0])


def _look(method: str) -> dict[str, Any]:
    return {
        "color": color_of(method),
        "linestyle": STYLES.get(method, "-"),
        "label": NAMES.get(method, literal(method)),
        "linewidth": 1.8,
    }


def _mark(axes: Axes, curve: PathCurve) -> None:
    """A dot where a path leaves what is plausible."""
    if curve.until < 1:
        level = float(np.interp(curve.until, curve.u, curve.level))
        axes.plot([curve.until], [level], "o", color=color_of(curve.method), markersize=6, zorder=5)
