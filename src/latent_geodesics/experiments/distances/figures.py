"""Figures of distances between images: with the images themselves wherever a point or a line stands for one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image, ImageOps

from latent_geodesics.data import in_batches
from latent_geodesics.experiments.distances.embedding import Embedding
from latent_geodesics.run.canvas import canvas, label, literal

Pictures = Sequence[np.ndarray]
"""Images as uint8 arrays [h w 3]."""

COLORS = {
    "geodesic": "#0072B2",
    "spherical": "#009E73",
    "euclidean": "#8C8C8C",
    "autoencoder": "#E69F00",
    "pixels": "#CC79A7",
    "perceptual_clevr": "#D55E00",
}
NAMES = {
    "geodesic": "geodesic",
    "spherical": "spherical",
    "euclidean": "Euclidean, noisy latents",
    "autoencoder": "Euclidean, clean latents",
    "pixels": "pixels",
    "perceptual_clevr": "perceptual",
}
FAMILY_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#4D4D4D", "#B8860B")
TILE = 56  # pixels: a thumbnail as it is drawn
MOST = 60


def draw_heat_map(file: Path, matrix: Float[np.ndarray, "n n"], pictures: Pictures) -> None:
    """Draws the matrix with the images along both sides."""
    n = len(matrix)
    side = float(np.clip(0.36 * n, 5.0, 16.0))
    with canvas(file, size=(side + 1.6, side + 0.9)) as figure:
        axes = figure.subplots()
        shown = axes.imshow(np.where(np.eye(n) > 0, np.nan, matrix), cmap="viridis_r")
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        size = 0.86 * side * 72 / n
        for place, picture in enumerate(pictures):
            _thumbnail(axes, picture, (place, -1.05), size)
            _thumbnail(axes, picture, (-1.05, place), size)
        axes.set_xlim(-1.7, n - 0.5)
        axes.set_ylim(n - 0.5, -1.7)
        figure.colorbar(shown, ax=axes, shrink=0.8, label="geodesic distance, relative to the reference density")


def draw_embedding(file: Path, embedding: Embedding, pictures: Pictures, families: Sequence[str]) -> None:
    """Draws the plane of the embedding, each image at its point, the images of a motion joined in their order."""
    with canvas(file, size=(10.5, 8.2)) as figure:
        axes = figure.subplots()
        points = embedding.points
        axes.scatter(
            points[:, 0], points[:, 1], s=1, color="#333333"
        )  # thumbnails alone would leave the limits as they are
        named = list(dict.fromkeys(family for family in families if families.count(family) > 1 and family))
        for number, family in enumerate(named):
            rows = [row for row, other in enumerate(families) if other == family]
            color = FAMILY_COLORS[number % len(FAMILY_COLORS)]
            axes.plot(*points[rows].T, color=color, linewidth=2, alpha=0.75, label=literal(family), zorder=1)
        size = float(np.clip(170 / np.sqrt(len(pictures)), 18, 64))
        for row, picture in enumerate(pictures):
            number = named.index(families[row]) if families[row] in named else -1
            frame = FAMILY_COLORS[number % len(FAMILY_COLORS)] if number >= 0 else "#333333"
            _thumbnail(axes, picture, (points[row, 0], points[row, 1]), size, frame=frame)
        first, second = (f"axis {axis + 1} ({share:.0%})" for axis, share in enumerate(embedding.shares[:2]))
        label(axes, "", first, second)
        axes.margins(0.09)
        axes.set_aspect("equal", adjustable="datalim")
        if named:
            axes.legend(fontsize=8.5, loc="best")


def draw_levels(file: Path, level: Float[np.ndarray, " n"], pictures: Pictures) -> None:
    """Draws the images over the log-density that the fit gives each, most probable on the right."""
    with canvas(file, size=(12, 3.4)) as figure:
        axes = figure.subplots()
        width = max(float(np.ptp(level)), 1e-9) / 20
        heights: list[tuple[float, int]] = []
        for row in np.argsort(level):
            taken = {height for place, height in heights if abs(place - level[row]) < width}
            height = min(set(range(len(level))) - taken)
            heights.append((float(level[row]), height))
            _thumbnail(axes, pictures[row], (level[row], height), 34.0)
        top = max(height for _, height in heights)
        axes.set_ylim(-0.6, top + 0.6)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.05)
        axes.set_xlim(level.min() - width, level.max() + width)
        label(axes, "", "log-density at the noise level, nats above the reference", "")


def draw_ranks(file: Path, ranks: pd.DataFrame, families: pd.DataFrame) -> None:
    """Draws every measure of every distance with its interval, and how the distances grow along the motions."""
    titles = {
        "family_spearman": "frames of a motion: Spearman",
        "family_triplets": "frames of a motion: triplets right",
        "grade_kendall": "graded pairs: Kendall's tau-b",
    }
    measures = [measure for measure in titles if measure in set(ranks["measure"])]
    panels = len(measures) + (not families.empty)
    if not panels:
        return
    with canvas(file, size=(4.1 * panels, 3.6)) as figure:
        grid = figure.subplots(1, panels, squeeze=False)[0]
        for axes, measure in zip(grid, measures, strict=False):
            rows = ranks[ranks["measure"] == measure].iloc[::-1]
            for place, (_, row) in enumerate(rows.iterrows()):
                color = COLORS[row["distance"]]
                axes.plot([row["low"], row["high"]], [place, place], color=color, linewidth=2.5, alpha=0.55)
                axes.plot(row["value"], place, "o", color=color, markersize=7)
            shown = [NAMES[name] for name in rows["distance"]] if axes is grid[0] else [""] * len(rows)
            axes.set_yticks(range(len(rows)), shown)
            label(axes, titles[measure], "95 % bootstrap interval", "")
        if not families.empty:
            _growth(grid[-1], families, [name for name in COLORS if name in families])


def draw_reliability(
    file: Path,
    *,
    loops: Float[np.ndarray, " t"],
    asymmetry: Float[np.ndarray, " r"],
    matrix: Float[np.ndarray, " k"],
    arcs: Float[np.ndarray, " k"],
) -> None:
    """Draws the closure errors of loops, the distance both ways, and how the geodesic distance differs from the arc."""
    with canvas(file, size=(12.5, 3.5)) as figure:
        closure, both, against = figure.subplots(1, 3)
        if len(loops):
            closure.hist(loops, bins=41, color="#0072B2", alpha=0.8)
        closure.axvline(0, color="#333333", linewidth=0.8)
        label(closure, "log-density around a loop of three", "nats; 0 for a gradient", "loops")
        if len(asymmetry):
            both.scatter(range(len(asymmetry)), np.maximum(asymmetry, 1e-12), color="#D55E00", s=30)
            both.set_yscale("log")
            both.set_xticks([])
        label(both, "solved in both directions", "pairs", "|d(a,b) - d(b,a)| / d(a,b)")
        against.scatter(arcs, matrix, s=11, color="#0072B2", alpha=0.55)
        label(against, "geodesic against spherical", "arc on the sphere", "geodesic distance")


def draw_line_integrals(file: Path, checks: pd.DataFrame) -> None:
    """Draws the true error of the line integral beside the stated one, density by density."""
    with canvas(file, size=(7.2, 4.6)) as figure:
        axes = figure.subplots()
        markers = ("o", "s", "^", "D", "v", "P", "X")
        for number, (name, rows) in enumerate(checks.groupby("density", sort=False)):
            color, marker = FAMILY_COLORS[number % len(FAMILY_COLORS)], markers[number % len(markers)]
            stated, true = rows["stated_error"].clip(lower=1e-16), rows["true_error"].clip(lower=1e-16)
            title = f"{name}, d = {rows['dimension'].iloc[0]}"
            axes.plot(stated, true, marker=marker, color=color, label=title, markersize=6, linewidth=1)
        reach = np.array([1e-8, 1.0])
        axes.plot(reach, reach, color="#333333", linewidth=0.8, linestyle="--")
        axes.text(2e-8, 3e-7, "stated = true", fontsize=8, color="#333333")
        axes.set_xscale("log")
        axes.set_yscale("log")
        label(axes, "", "stated quadrature error, nats", "true error, nats")
        axes.legend(fontsize=8, loc="lower right")


def _growth(axes: Axes, families: pd.DataFrame, distances: Sequence[str]) -> None:
    """Each distance over its value between the two ends of the motion, against the part of the motion between."""
    gaps = (families["position_a"] - families["position_b"]).abs()
    for name in distances:
        ends = families[gaps > 0.999].set_index("family")[name]
        share = families[name] / families["family"].map(ends)
        mean = share.groupby((gaps * 8).round() / 8).mean()
        axes.plot([0.0, *mean.index], [0.0, *mean], color=COLORS[name], marker="o", markersize=3.5, label=NAMES[name])
    axes.plot([0, 1], [0, 1], color="#333333", linewidth=0.8, linestyle="--")
    label(axes, "growth along a motion", "part of the motion", "distance over that of its ends")
    axes.legend(fontsize=7.5)


def _thumbnail(
    axes: Axes, picture: np.ndarray, place: tuple[float, float], points: float, *, frame: str | None = None
) -> None:
    """Draws an image, its longer side of so many points, around a place in data coordinates."""
    scaled = np.asarray(ImageOps.contain(Image.fromarray(picture), (TILE, TILE), Image.Resampling.LANCZOS))
    box = OffsetImage(scaled, zoom=points / TILE, dpi_cor=True)
    look = {"edgecolor": frame, "linewidth": 1.4} if frame else {"linewidth": 0}
    axes.add_artist(
        AnnotationBbox(box, place, frameon=frame is not None, pad=0.12, bboxprops=look, annotation_clip=False)
    )


def nearest(distances: Float[np.ndarray, " n"], row: int, count: int) -> list[int]:
    """The `count` images nearest to image `row`, without itself; equal distances in their order."""
    return [int(other) for other in np.argsort(distances, kind="stable") if other != row][:count]


def draw_neighbours(
    file: Path, matrix: Float[np.ndarray, "n n"], pictures: Pictures, names: Sequence[str], *, count: int
) -> None:
    """Draws a line for each image: its name, itself, and the `count` nearest to it with their distances below.

    Two columns of lines where there are more than eight images; at most sixty images.
    """
    shown, count = range(min(len(pictures), MOST)), min(count, len(pictures) - 1)
    columns = 2 if len(shown) > 8 else 1
    lines = -(-len(shown) // columns)
    with canvas(file, size=(columns * (0.85 * count + 2.4), 1.05 * lines + 0.2)) as figure:
        grid = figure.subplots(1, columns, squeeze=False)[0]
        for axes, rows in zip(grid, in_batches(shown, lines), strict=True):
            for line, row in enumerate(rows):
                for place, other in enumerate([row, *nearest(matrix[row], row, count)]):
                    _thumbnail(axes, pictures[other], (place, line), 52, frame=None if place else "#0072B2")
                    if place:
                        axes.text(place, line + 0.4, f"{matrix[row, other]:.4g}", ha="center", va="top", fontsize=7.5)
            axes.set_yticks(range(len(rows)), [literal(names[row], most=24) for row in rows])
            axes.set(xticks=[], xlim=(-0.6, count + 0.6), ylim=(lines - 0.3, -0.5))
            axes.tick_params(length=0)
            axes.grid(visible=False)
            for spine in axes.spines.values():
                spine.set_visible(False)
