"""Densities in the plane as figures show them: contours, score, the two ends, and what a path over them is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patheffects import withStroke

from latent_geodesics.data.scenes import Scene
from latent_geodesics.run.canvas import literal

SAND = LinearSegmentedColormap.from_list("sand", ["#FFFFFF", "#F3EBD3", "#DFCB94", "#BFA256"])
ARROW_COLOR = "#8A8476"
INK = "#1A1A1A"
RATIO = 1.25
MARGIN = 0.18
CELLS = 241
LEVELS = 12
ARROWS = 17
PRINT = {"savefig.dpi": 200}


@dataclass(frozen=True, kw_only=True)
class PlaneTrack:
    """A path in the plane, sampled.

    Attributes:
        method: what made it.
        u: positions, 1 at the second end; a path that is carried on goes further.
        points: the points there, [n 2].
        log_density: log p at the points, up to the constant of the density.
        every: draw a marker at each so manyth point, where the method has markers.
    """

    method: str
    u: np.ndarray
    points: np.ndarray
    log_density: np.ndarray
    every: int = 64

    def up_to_end(self) -> "PlaneTrack":
        """The part up to the second end."""
        inside = self.u <= 1 + 1e-9
        return replace(self, u=self.u[inside], points=self.points[inside], log_density=self.log_density[inside])

    def kept(self) -> dict[str, Any]:
        """The track with tensors in place of arrays, as a run keeps what it found."""
        return {name: torch.from_numpy(it) if isinstance(it, np.ndarray) else it for name, it in vars(self).items()}

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "PlaneTrack":
        """The track that was kept."""
        values: dict[str, Any] = {name: it.numpy() if isinstance(it, torch.Tensor) else it for name, it in kept.items()}
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class _Chart:
    """The density on a grid over what is drawn, relative to the most that it reaches there."""

    x: np.ndarray
    y: np.ndarray
    share: np.ndarray
    peak: float


def draw_map(axes: Axes, scene: Scene, tracks: Sequence[PlaneTrack], *, title: str) -> float:
    """Draws the density, its score and its two ends, without the paths, which only keep clear of the letters.

    Returns:
        The largest log-density in sight.
    """
    left, right, bottom, top = _framed(scene, tracks)
    chart = _chart(scene, (left, right, bottom, top))
    # What lies outside the support of the density shows the hatching behind the contours.
    axes.patch.set(facecolor="white", hatch="////", edgecolor="#DDDDDD", linewidth=0)
    levels = np.linspace(0, 1, LEVELS + 1)
    axes.contourf(chart.x, chart.y, chart.share, levels=levels, cmap=SAND, zorder=1, extend="max")
    axes.contour(chart.x, chart.y, chart.share, levels=levels[1:-1], colors="#A8935A", linewidths=0.45, zorder=2)
    _draw_arrows(axes, scene, (left, right, bottom, top))
    _draw_ends(axes, scene, tracks, reach=right - left)
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", title=literal(title, most=100))
    axes.grid(visible=False)
    axes.locator_params(nbins=5)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    return chart.peak


def _framed(scene: Scene, tracks: Sequence[PlaneTrack]) -> tuple[float, float, float, float]:
    """What is drawn: the scene's window, or a box around the paths, widened to one proportion for all scenes."""
    if scene.window is None:
        points = np.concatenate([track.points for track in tracks])
        points = points[np.isfinite(points).all(-1)]
        low, high = points.min(0), points.max(0)
        margin = MARGIN * float((high - low).max())
        left, right, bottom, top = low[0] - margin, high[0] + margin, low[1] - margin, high[1] + margin
    else:
        left, right, bottom, top = scene.window
    wide = max(right - left, RATIO * (top - bottom))
    tall = wide / RATIO
    x, y = (left + right) / 2, (bottom + top) / 2
    return x - wide / 2, x + wide / 2, y - tall / 2, y + tall / 2


def _grid(window: tuple[float, float, float, float], columns: int, rows: int) -> torch.Tensor:
    """Points [rows columns 2] over a window."""
    left, right, bottom, top = window
    x = torch.linspace(left, right, columns, dtype=torch.float64)
    y = torch.linspace(bottom, top, rows, dtype=torch.float64)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def _chart(scene: Scene, window: tuple[float, float, float, float]) -> _Chart:
    grid = _grid(window, CELLS, round(CELLS / RATIO))
    log_p = scene.density.log_prob(grid, torch.zeros_like(grid[..., 0])).detach().numpy()
    log_p = np.where(np.isposinf(log_p), np.nan, log_p)
    peak = float(np.nanmax(log_p))
    return _Chart(
        x=grid[..., 0].numpy(), y=grid[..., 1].numpy(), share=np.ma.masked_invalid(np.exp(log_p - peak)), peak=peak
    )


def _draw_arrows(axes: Axes, scene: Scene, window: tuple[float, float, float, float]) -> None:
    """The score, in arrows that grow with its size up to a limit: its range is far too large to be drawn as it is."""
    left, right, bottom, top = window
    step = (right - left) / ARROWS
    inner = (left + step / 2, right - step / 2, bottom + step / 2, top - step / 2)
    grid = _grid(inner, ARROWS, round(ARROWS / RATIO)).flatten(0, 1)
    score = scene.density.score(grid, torch.zeros_like(grid[:, 0])).detach().numpy()
    size = np.linalg.norm(score, axis=-1)
    shown = np.isfinite(size) & (size > 0)
    if not shown.any():
        return
    size, score, at = size[shown], score[shown], grid.numpy()[shown]
    length = 0.8 * step * size / (size + np.median(size))
    arrows = score / size[:, None] * length[:, None]
    axes.quiver(
        *at.T,
        *arrows.T,
        angles="xy",
        scale_units="xy",
        scale=1,
        pivot="mid",
        color=ARROW_COLOR,
        width=0.0026,
        headwidth=4.2,
        headlength=4.6,
        headaxislength=4.2,
        alpha=0.75,
        zorder=3,
    )


def _draw_ends(axes: Axes, scene: Scene, tracks: Sequence[PlaneTrack], *, reach: float) -> None:
    points = np.concatenate([track.points for track in tracks])
    for letter, end in (("A", scene.a.numpy()), ("B", scene.b.numpy())):
        axes.plot(*end, marker="o", markersize=8, color=INK, markeredgecolor="white", markeredgewidth=1.3, zorder=10)
        spot = _free_spot(end, points, 0.055 * reach)
        axes.text(
            spot[0],
            spot[1],
            letter,
            ha="center",
            va="center",
            fontsize=13,
            fontweight="bold",
            color=INK,
            zorder=11,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )


def _free_spot(end: np.ndarray, points: np.ndarray, away: float) -> np.ndarray:
    """Where around an end a letter is furthest from every path."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    spots = end + away * np.stack([np.cos(angle), np.sin(angle)], -1)
    gaps = np.linalg.norm(spots[:, None] - points[None, ::4], axis=-1)
    best: np.ndarray = spots[np.nanargmax(np.nanmin(gaps, axis=1))]
    return best
