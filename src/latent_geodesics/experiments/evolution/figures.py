"""How paths evolve while they are solved for: from light, at first, to dark, at last (the paper's Figure 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from latent_geodesics.data.scenes import Scene
from latent_geodesics.experiments.evolution.paths import Stage
from latent_geodesics.run.canvas import canvas, label, literal, method_color, wrapped
from latent_geodesics.run.plane_figures import PRINT, Track, draw_map

__all__ = ["Evolution", "draw_evolution"]

MEASURES = {
    "length": ("length", "relative length"),
    "residual": ("residual", "mean geodesic gradient"),
    "log_density_min": ("least log-density", "nats above A"),
    "log_density_mean": ("mean log-density", "nats above A"),
}
THUMBNAIL = 1.02


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """What one solver did with one pair, at some of its iterates.

    Attributes:
        method: its name in tables, which gives it its colour.
        title: its name in figures.
        stages: its iterates, measured, in order.
        frames: the image in the middle of each of them, uint8 [h w 3]; none for a scene in the plane.
    """

    method: str
    title: str
    stages: Sequence[Stage]
    frames: Sequence[np.ndarray] = ()


def draw_evolution(file: Path, evolutions: Sequence[Evolution], *, title: str, scene: Scene | None = None) -> None:
    """Draws the course of every solver: paths where they are in the plane, log-density, four measures, images."""
    frames = max(len(evolution.frames) for evolution in evolutions)
    strips = len(evolutions) * (THUMBNAIL + 0.42) + 0.3 if frames else 0.0
    width, height = 14.5 if scene else 12.5, 3.0 * len(evolutions) + 0.9
    with mpl.rc_context(PRINT), canvas(file, size=(width, height + strips)) as figure:
        figure.suptitle(literal(title, most=160), x=0.008, ha="left", fontweight="bold", fontsize=12)
        if frames:
            top, bottom = figure.subfigures(2, 1, height_ratios=(height, strips), hspace=0.02, squeeze=False).flatten()
            _draw_courses(top, evolutions, scene=scene)
            _draw_frames(bottom, evolutions, columns=frames)
        else:
            _draw_courses(figure, evolutions, scene=scene)


def shades(method: str, methods: Sequence[str]) -> LinearSegmentedColormap:
    """From a light to a dark shade of a method's colour."""
    color = np.array(to_rgb(method_color(method, methods)))
    return LinearSegmentedColormap.from_list(method, [0.22 * color + 0.78, color, 0.5 * color])


def _draw_courses(figure: Figure | SubFigure, evolutions: Sequence[Evolution], *, scene: Scene | None) -> None:
    rows, maps = len(evolutions), 1 if scene else 0
    ratios = [1.15] * maps + [1.3, 1, 1]
    grid = figure.add_gridspec(2 * rows, len(ratios), width_ratios=ratios)
    methods = [evolution.method for evolution in evolutions]
    shared: Axes | None = None
    for row, evolution in enumerate(evolutions):
        colors = _colors(evolution, methods)
        place = slice(2 * row, 2 * row + 2)
        if scene:
            _draw_paths(figure.add_subplot(grid[place, 0]), evolution, scene, colors)
        along = figure.add_subplot(grid[place, maps], sharey=shared)
        shared = shared or along
        for stage, color in zip(evolution.stages, colors, strict=True):
            along.plot(stage.u, stage.log_density, color=color, linewidth=1.7)
        label(along, "log-density along the path" if scene else evolution.title, "position u", "nats above A")
        along.set_xlim(0, 1)
        _draw_scale(figure, along, evolution, methods)
    for index, (measure, (title, unit)) in enumerate(MEASURES.items()):
        row, column = divmod(index, 2)
        axes = figure.add_subplot(grid[rows * row : rows * (row + 1), maps + 1 + column])
        _draw_measure(axes, evolutions, measure, methods)
        label(axes, title, "score evaluations", unit)
        if index == 0:
            axes.legend(fontsize=8, loc="upper right")


def _draw_paths(axes: Axes, evolution: Evolution, scene: Scene, colors: np.ndarray) -> None:
    """The path at each stage, over the density."""
    tracks = [
        Track(method=evolution.method, u=stage.u, points=stage.points, log_density=stage.log_density)
        for stage in evolution.stages
    ]
    draw_map(axes, scene, tracks, title=evolution.title)
    for track, color in zip(tracks, colors, strict=True):
        axes.plot(*track.points.T, color=color, linewidth=1.9, zorder=5, solid_capstyle="round")


def _draw_scale(figure: Figure | SubFigure, axes: Axes, evolution: Evolution, methods: Sequence[str]) -> None:
    """What the shades mean."""
    bar = figure.colorbar(
        ScalarMappable(norm=_norm(evolution), cmap=shades(evolution.method, methods)), ax=axes, pad=0.02, aspect=26
    )
    bar.set_label("score evaluations", fontsize=8)
    first, last = evolution.stages[0].evaluations, evolution.stages[-1].evaluations
    ticks = [value for value in (10, 30, 100, 300, 1000, 3000, 10000) if 1.25 * first < value < 0.8 * last]
    bar.set_ticks([first, *ticks, last], labels=[f"{value:,}" for value in (first, *ticks, last)])
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)


def _draw_measure(axes: Axes, evolutions: Sequence[Evolution], measure: str, methods: Sequence[str]) -> None:
    for evolution in evolutions:
        x = [stage.evaluations for stage in evolution.stages]
        y = [getattr(stage, measure) for stage in evolution.stages]
        look: dict[str, Any] = {"color": method_color(evolution.method, methods), "label": literal(evolution.title)}
        axes.plot(x, y, marker="o", markersize=4, linewidth=1.6, markeredgecolor="white", markeredgewidth=0.6, **look)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if measure == "residual":
        axes.set_yscale("log")


def _draw_frames(figure: SubFigure, evolutions: Sequence[Evolution], *, columns: int) -> None:
    """The image in the middle of the path at each stage, a row a solver."""
    grid = figure.subplots(len(evolutions), columns, squeeze=False)
    figure.suptitle(
        "the image in the middle of the path, after so many score evaluations",
        x=0.008,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    methods = [evolution.method for evolution in evolutions]
    for row, evolution in zip(grid, evolutions, strict=True):
        for axes in row:
            axes.set_axis_off()
        for axes, frame, stage in zip(row, evolution.frames, evolution.stages, strict=False):
            axes.imshow(frame, interpolation="lanczos")
            axes.set_title(f"{stage.evaluations:,}", fontsize=9, fontweight="normal", loc="center", pad=3)
        row[0].text(
            -0.14,
            0.5,
            wrapped(evolution.title, width=14),
            transform=row[0].transAxes,
            ha="right",
            va="center",
            fontsize=9.5,
            fontweight="bold",
            color=method_color(evolution.method, methods),
        )


def _norm(evolution: Evolution) -> LogNorm:
    first, last = evolution.stages[0].evaluations, evolution.stages[-1].evaluations
    return LogNorm(vmin=max(1, first), vmax=max(last, first + 1))


def _colors(evolution: Evolution, methods: Sequence[str]) -> Float[np.ndarray, "n 4"]:
    norm, cmap = _norm(evolution), shades(evolution.method, methods)
    return np.array([cmap(float(norm(max(1, stage.evaluations)))) for stage in evolution.stages])
