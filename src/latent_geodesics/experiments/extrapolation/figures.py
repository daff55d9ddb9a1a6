"""Figures of extrapolation: one for each path that leaves an image, and an overview of all of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from latent_geodesics.metrics.plausibility import RealLatents
from latent_geodesics.run.canvas import canvas, label, legend_below, literal

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


def path_title(method: str) -> str:
    """What people read of a method, in figures and tables alike."""
    return NAMES.get(method, method)


def draw_departure(
    file: Path, curves: pd.DataFrame, until: Mapping[str, float], *, real: RealLatents, words: str
) -> None:
    """Draws one departure: log-density, level against real images, norm against their shell, and speed.

    Args:
        file: Where to.
        curves: Its rows of `curves.csv`.
        until: Method -> the position up to which its path is plausible; NaN where its start is not.
        real: The reference images, whose ranges are drawn, and the bounds of what counts as plausible.
        words: What stands above.
    """
    with canvas(file, size=(15, 3.6)) as figure:
        along, levels, norms, steady = figure.subplots(1, 4)
        levels.axhspan(float(real.levels.min()), float(real.levels.max()), color="#DCE6EE", zorder=0)
        norms.axhspan(float(real.norms.min()), float(real.norms.max()), color="#DCE6EE", zorder=0)
        for axes, bounds in ((levels, (real.least_level,)), (norms, real.shell)):
            for bound in bounds:
                axes.axhline(bound, color="#7A8794", linewidth=0.9, linestyle="--")
        for method, last in until.items():
            curve, look = curves[curves["method"] == method], _look(method)
            for axes, column in ((along, "log_density"), (levels, "level"), (norms, "norm"), (steady, "speed")):
                axes.plot(curve["u"], curve[column], linewidth=1.8, linestyle=STYLES.get(method, "-"), **look)
            if last < 1:  # a dot where the path leaves what is plausible
                at = float(np.interp(last, curve["u"], curve["level"]))
                levels.plot([last], [at], "o", color=look["color"], markersize=6, zorder=5)
        label(along, "log-density, own prompt", "position u", "nats above the start")
        label(levels, "log-density, no prompt", "position u", "nats above the median real image")
        label(norms, "distance to the shell", "position u", "norm |x| / √d")
        label(steady, "speed", "position u", "|g'(u)| over |g'(0)|")
        steady.set_ylim(0, 1.5)
        low, high = norms.get_ylim()
        norms.set_ylim(low - 0.02, high + 0.02)
        legend_below(figure, along, fontsize=8)
        # As a title of the whole figure, so that the layout keeps room for it; the legend stands below.
        figure.suptitle(words, x=0.005, ha="left", fontsize=8, color="#555555")


def draw_overview(file: Path, table: pd.DataFrame) -> None:
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
                until = rows["plausible_until"].fillna(0.0).astype(float)
                panels[0, column].scatter(until, at, s=26, **_look(method))
                panels[1, column].scatter(rows["log_density_end"].astype(float), at, s=26, **_look(method))
            for axes in panels[:, column]:
                axes.set_yticks(range(len(pairs)), [literal(pair) for pair in pairs], fontsize=8)
                axes.set_ylim(len(pairs) - 0.5, -0.5)
            panels[0, column].set_xlim(-0.04, 1.04)
            panels[1, column].axvline(0, color="#333333", linewidth=0.8)
            label(panels[0, column], kind.replace("_", " "), "plausible up to u", "")
            label(panels[1, column], "", "log-density at the end, nats above the start", "")
        legend_below(figure, panels[0, 0])


def _look(method: str) -> dict[str, Any]:
    return {"color": COLORS.get(method, SPARE), "label": literal(path_title(method))}
