"""Figures of the toy: paths over the contours of a density in the plane, and the density along them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import AbstractPathEffect, Normal, Stroke

from latent_geodesics.data.scenes import Scene
from latent_geodesics.run.canvas import canvas, label, legend_below, literal, method_color
from latent_geodesics.run.plane_figures import PRINT, PlaneTrack, draw_map

NAMES = {
    "straight_line": "straight line",
    "geodesic": "geodesic",
    "geodesic_paper": "geodesic, the paper's descent",
    "carried_on": "carried on from its first velocity",
    "exact": "geodesic in closed form",
}
# What lies on top of what, and how: a path is told apart by its dashes as well as by its colour.
LOOKS: dict[str, dict[str, Any]] = {
    "straight_line": {"color": "#4D4D4D", "linewidth": 1.8, "zorder": 4},
    "geodesic": {"linewidth": 3.4, "zorder": 5},
    "geodesic_paper": {"linewidth": 1.9, "linestyle": (0, (4, 1.6)), "zorder": 6},
    "carried_on": {
        "color": "#CC79A7",
        "linewidth": 1.8,
        "marker": "o",
        "markersize": 4.6,
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
        "zorder": 7,
    },
    "exact": {"color": "#000000", "linewidth": 1.5, "linestyle": (0, (1, 2.2)), "zorder": 8},
}


def path_title(path: str) -> str:
    """What people read of a path."""
    return NAMES.get(path) or path.replace("_", " ")


def draw_scene(file: Path, scene: Scene, tracks: Sequence[PlaneTrack]) -> None:
    """Draws one scene: the map with its paths, and the density along each of them."""
    with mpl.rc_context(PRINT), canvas(file, size=(11.6, 4.9)) as figure:
        where, along = figure.subplots(1, 2, width_ratios=(1.12, 1))
        _draw_both(where, along, scene, tracks)
        where.set_title("a   " + where.get_title(loc="left"), loc="left")
        along.set_title("b   density along the paths", loc="left")
        legend_below(figure, where, fontsize=9)


def draw_gallery(file: Path, scenes: Sequence[tuple[Scene, Sequence[PlaneTrack]]], *, columns: int = 3) -> None:
    """Draws all scenes on one sheet, a map above the density along its paths."""
    columns = min(columns, len(scenes))
    rows = math.ceil(len(scenes) / columns)
    with mpl.rc_context(PRINT), canvas(file, size=(4.5 * columns, 5.4 * rows + 0.4)) as figure:
        cells = figure.subfigures(rows, columns, squeeze=False, wspace=0.03, hspace=0.03).flatten()
        drawn: list[Axes] = []
        for cell, (scene, tracks) in zip(cells, scenes, strict=False):
            where, along = cell.subplots(2, 1, height_ratios=(2.6, 1))
            _draw_both(where, along, scene, tracks)
            drawn.append(where)
        legend_below(figure, *drawn, fontsize=9)


def _draw_both(where: Axes, along: Axes, scene: Scene, tracks: Sequence[PlaneTrack]) -> None:
    peak = draw_map(where, scene, tracks, title=f"{scene.title}, α = {scene.alpha:g}")
    methods = [track.method for track in tracks]
    for track in tracks:
        look = _look(track, methods)
        _draw_track(where, track, track.points[:, 0], track.points[:, 1], look | {"path_effects": _halo(look)})
        _draw_track(along, track, track.u, np.exp(track.log_density - peak), look)
    last = max(float(track.u[-1]) for track in tracks)
    if last > 1:
        along.axvline(1, color="#999999", linewidth=0.8, zorder=1)
    label(along, "", "position u", "p(γ(u)) / max p")
    along.set_xlim(0, last)
    along.set_ylim(bottom=0)
    along.set_xticks([0, 0.25, 0.5, 0.75, 1], ["A", "¼", "½", "¾", "B"])


def _look(track: PlaneTrack, methods: Sequence[str]) -> dict[str, Any]:
    look = {"color": method_color(track.method, methods), "linewidth": 1.8, "zorder": 5} | LOOKS.get(track.method, {})
    if "marker" in look:
        look["markevery"] = track.every
    return look | {"label": literal(path_title(track.method)), "solid_capstyle": "round"}


def _draw_track(axes: Axes, track: PlaneTrack, x: np.ndarray, y: np.ndarray, look: dict[str, Any]) -> None:
    """A line; of a path that is carried on, dots up to the second end, where it runs along another, a line beyond."""
    beyond = track.u > 1
    if not beyond.any():
        axes.plot(x, y, **look)
        return
    axes.plot(x[~beyond], y[~beyond], **(look | {"linestyle": "none", "label": None, "path_effects": None}))
    last = int(np.flatnonzero(~beyond)[-1])
    axes.plot(x[last:], y[last:], **look)


def _halo(look: dict[str, Any]) -> list[AbstractPathEffect]:
    """A white edge around a plain line, so that it stands off what it crosses."""
    plain = "linestyle" not in look and "marker" not in look
    return [Stroke(linewidth=look["linewidth"] + 1.4, foreground="white"), Normal()] if plain else []
