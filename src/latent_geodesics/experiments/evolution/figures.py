"""How paths evolve while they are solved for: from light, at first, to dark, at last (the paper's Figure 5)."""

from collections.abc import Sequence
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
from latent_geodesics.experiments.evolution.subjects import WatchedSolver
from latent_geodesics.run.canvas import canvas, label, literal, method_color, wrapped
from latent_geodesics.run.plane_figures import PRINT, PlaneTrack, draw_map

TITLES = {
    "length": ("length", "relative length"),
    "residual": ("residual", "mean geodesic gradient"),
    "log_density_min": ("least log-density", "nats above A"),
    "log_density_mean": ("mean log-density", "nats above A"),
}
THUMBNAIL = 1.02


def draw_evolution(file: Path, watched: Sequence[WatchedSolver], *, title: str, scene: Scene | None = None) -> None:
    """Draws the course of every solver: paths where they are in the plane, log-density, four measures, images."""
    frames = max(len(solver.frames) for solver in watched)
    strips = len(watched) * (THUMBNAIL + 0.42) + 0.3 if frames else 0.0
    width, height = 14.5 if scene else 12.5, 3.0 * len(watched) + 0.9
    with mpl.rc_context(PRINT), canvas(file, size=(width, height + strips)) as figure:
        figure.suptitle(literal(title, most=160), x=0.008, ha="left", fontweight="bold", fontsize=12)
        if frames:
            top, bottom = figure.subfigures(2, 1, height_ratios=(height, strips), hspace=0.02, squeeze=False).flatten()
            _draw_courses(top, watched, scene=scene)
            _draw_frames(bottom, watched, columns=frames)
        else:
            _draw_courses(figure, watched, scene=scene)


def shades(method: str, methods: Sequence[str]) -> LinearSegmentedColormap:
    """From a light to a dark shade of a method's colour."""
    color = np.array(to_rgb(method_color(method, methods)))
    return LinearSegmentedColormap.from_list(method, [0.22 * color + 0.78, color, 0.5 * color])


def _draw_courses(figure: Figure | SubFigure, watched: Sequence[WatchedSolver], *, scene: Scene | None) -> None:
    rows, maps = len(watched), 1 if scene else 0
    ratios = [1.15] * maps + [1.3, 1, 1]
    grid = figure.add_gridspec(2 * rows, len(ratios), width_ratios=ratios)
    methods = [solver.method for solver in watched]
    shared: Axes | None = None
    for row, solver in enumerate(watched):
        colors = _colors(solver, methods)
        place = slice(2 * row, 2 * row + 2)
        if scene:
            _draw_paths(figure.add_subplot(grid[place, 0]), solver, scene, colors)
        along = figure.add_subplot(grid[place, maps], sharey=shared)
        shared = shared or along
        for stage, color in zip(solver.stages, colors, strict=True):
            along.plot(stage.u, stage.log_density, color=color, linewidth=1.7)
        label(along, "log-density along the path" if scene else solver.title, "position u", "nats above A")
        along.set_xlim(0, 1)
        _draw_scale(figure, along, solver, methods)
    for index, (measure, (title, unit)) in enumerate(TITLES.items()):
        row, column = divmod(index, 2)
        axes = figure.add_subplot(grid[rows * row : rows * (row + 1), maps + 1 + column])
        _draw_measure(axes, watched, measure, methods)
        label(axes, title, "score evaluations", unit)
        if index == 0:
            axes.legend(fontsize=8, loc="best")


def _draw_paths(axes: Axes, solver: WatchedSolver, scene: Scene, colors: np.ndarray) -> None:
    tracks = [
        PlaneTrack(method=solver.method, u=stage.u, points=stage.points, log_density=stage.log_density)
        for stage in solver.stages
    ]
    draw_map(axes, scene, tracks, title=solver.title)
    for track, color in zip(tracks, colors, strict=True):
        axes.plot(*track.points.T, color=color, linewidth=1.9, zorder=5, solid_capstyle="round")


def _draw_scale(figure: Figure | SubFigure, axes: Axes, solver: WatchedSolver, methods: Sequence[str]) -> None:
    bar = figure.colorbar(
        ScalarMappable(norm=_norm(solver), cmap=shades(solver.method, methods)), ax=axes, pad=0.02, aspect=26
    )
    bar.set_label("score evaluations", fontsize=8)
    first, last = solver.stages[0].evaluations, solver.stages[-1].evaluations
    ticks = [value for value in (10, 30, 100, 300, 1000, 3000, 10000) if 1.25 * first < value < 0.8 * last]
    bar.set_ticks([first, *ticks, last], labels=[f"{value:,}" for value in (first, *ticks, last)])
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)


def _draw_measure(axes: Axes, watched: Sequence[WatchedSolver], measure: str, methods: Sequence[str]) -> None:
    for solver in watched:
        x = [stage.evaluations for stage in solver.stages]
        y = [getattr(stage, measure) for stage in solver.stages]
        look: dict[str, Any] = {"color": method_color(solver.method, methods), "label": literal(solver.title)}
        axes.plot(x, y, marker="o", markersize=4, linewidth=1.6, markeredgecolor="white", markeredgewidth=0.6, **look)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if measure == "residual":
        axes.set_yscale("log")


def _draw_frames(figure: SubFigure, watched: Sequence[WatchedSolver], *, columns: int) -> None:
    """The image in the middle of the path at each stage, a row a solver."""
    grid = figure.subplots(len(watched), columns, squeeze=False)
    figure.suptitle(
        "the image in the middle of the path, after so many score evaluations",
        x=0.008,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    methods = [solver.method for solver in watched]
    for row, solver in zip(grid, watched, strict=True):
        for axes in row:
            axes.set_axis_off()
        for axes, frame, stage in zip(row, solver.frames, solver.stages, strict=False):
            axes.imshow(frame, interpolation="lanczos")
            axes.set_title(f"{stage.evaluations:,}", fontsize=9, fontweight="normal", loc="center", pad=3)
        row[0].text(
            -0.14,
            0.5,
            wrapped(solver.title, width=14),
            transform=row[0].transAxes,
            ha="right",
            va="center",
            fontsize=9.5,
            fontweight="bold",
            color=method_color(solver.method, methods),
        )


def _norm(solver: WatchedSolver) -> LogNorm:
    first, last = solver.stages[0].evaluations, solver.stages[-1].evaluations
    return LogNorm(vmin=max(1, first), vmax=max(last, first + 1))


def _colors(solver: WatchedSolver, methods: Sequence[str]) -> Float[np.ndarray, "n 4"]:
    norm, cmap = _norm(solver), shades(solver.method, methods)
    return np.array([cmap(float(norm(max(1, stage.evaluations)))) for stage in solver.stages])
