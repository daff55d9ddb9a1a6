"""The diagram of both pipelines, with the images that a run made at each step (the paper's Figure 2).

Everything is placed on one sheet in inches, from its lower left corner.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import Tensor

from latent_geodesics.data.images import as_uint8
from latent_geodesics.experiments.pipelines.results import PipelineResult
from latent_geodesics.methods import EncodedPairs
from latent_geodesics.run.canvas import canvas, literal, wrapped
from latent_geodesics.run.plane_figures import PRINT

SHEET = (16.2, 8.9)
BOUNDARY, INITIAL, INK, SOFT, WIRE = "#0072B2", "#B5477F", "#1D2733", "#5C6B7A", "#3C4650"
SIDE, POINT_SIDE, GAP = 1.2, 1.16, 0.13
COLUMNS = (0.35, 2.45, 4.55)
BOX_LEFT, BOX_WIDTH, BOX_HEIGHT = 6.55, 2.35, 1.72
POINTS_LEFT = 9.65
Image = Float[Tensor, "3 h w"]
Place = tuple[float, float]


def draw_pipelines(
    file: Path,
    pairs: EncodedPairs,
    clean: Float[Tensor, "2 3 h w"],
    interpolation: PipelineResult,
    extrapolation: PipelineResult,
    *,
    shown: int,
) -> None:
    """Draws interpolation, the boundary value problem, above extrapolation, the initial value problem.

    Args:
        file: Where to.
        pairs: The encoded pair.
        clean: Both images through the autoencoder alone.
        interpolation: From the first image to the second.
        extrapolation: From the second image on.
        shown: How many images of each are shown, evenly spread, both ends included.
    """
    pair, batch = pairs.batch.pairs[0], pairs.batch
    # Each image, its clean latent and its noisy one, all as pictures.
    a = (batch.images_a[0], clean[0], interpolation.noisy[0])
    b = (batch.images_b[0], clean[1], interpolation.noisy[-1])
    upper, lower, single = 6.75, 5.0, 2.05
    middle, centre = (upper + lower + SIDE) / 2, single + SIDE / 2
    with mpl.rc_context(PRINT), canvas(file, size=SHEET) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, SHEET[0]), ylim=(0, SHEET[1]))
        axes.set_axis_off()
        _heading(axes, 8.62, "a   Interpolation: a boundary value problem", BOUNDARY)
        for x, words in zip(COLUMNS, ("image", "clean latent", f"noisy latent, τ = {pairs.tau:g}"), strict=True):
            _say(axes, x + SIDE / 2, 8.08, words, 10, color=SOFT, va="bottom")
        for letter, prompt, images, y in (("A", pair.prompt_a, a, upper), ("B", pair.prompt_b, b, lower)):
            _draw_entrance(axes, letter, prompt, images, y)
            bend = -0.18 if y == upper else 0.18
            _arrow(axes, (COLUMNS[2] + SIDE + 0.06, y + SIDE / 2), (BOX_LEFT - 0.06, middle), bend=bend)
        ends = "$\\gamma(0) = x_A,\\quad \\gamma(1) = x_B$"
        _draw_problem(axes, middle, BOUNDARY, "boundary value problem", ends, interpolation)
        _draw_points(axes, interpolation, (upper, lower), BOUNDARY, middle, shown=shown)
        axes.plot([0.35, SHEET[0] - 0.35], [4.28, 4.28], color="#DFE5EA", linewidth=1)
        _heading(axes, 3.98, "b   Extrapolation: an initial value problem", INITIAL)
        _draw_entrance(axes, "B", pair.prompt_b, b, single)
        _arrow(axes, (COLUMNS[2] + SIDE + 0.06, centre), (BOX_LEFT - 0.06, centre))
        start = "$\\gamma(0) = x_B,\\quad \\gamma'(0) = v$"
        _draw_problem(axes, centre, INITIAL, "initial value problem", start, extrapolation)
        # The velocity at the second end, from one problem to the other.
        x = BOX_LEFT + BOX_WIDTH / 2
        _arrow(axes, (x, middle - BOX_HEIGHT / 2 - 0.05), (x, centre + 0.91), color=INITIAL)
        _say(axes, x + 0.12, 4.62, "$v = \\gamma'(1)$, scaled", 10.5, color=INITIAL, ha="left")
        _draw_points(axes, extrapolation, (2.62, 0.87), INITIAL, centre, shown=shown)
        words = "Latents are shown through the decoder, noisy ones as if clean.  Paths lie on a sphere."
        _say(axes, 0.35, 0.22, f"{words}  Density: {literal(pairs.density, most=200)}.", 8.5, color=SOFT, ha="left")


def _draw_entrance(axes: Axes, letter: str, prompt: str, images: Sequence[Image], y: float) -> None:
    """An image, its clean latent and its noisy one, from left to right."""
    for x, image in zip(COLUMNS, images, strict=True):
        _thumbnail(axes, image, (x, y), SIDE)
    for x, words in ((COLUMNS[0], "encode"), (COLUMNS[1], "DDIM\ninversion")):
        start, end = x + SIDE + 0.06, x + COLUMNS[1] - COLUMNS[0] - 0.06
        _arrow(axes, (start, y + SIDE / 2), (end, y + SIDE / 2))
        _say(axes, (start + end) / 2, y + SIDE / 2 + 0.1, words, 9, va="bottom", linespacing=1.05)
    badge = {"boxstyle": "round,pad=0.22", "facecolor": INK, "edgecolor": "none"}
    look = {"fontweight": "bold", "color": "white", "zorder": 6, "bbox": badge}
    _say(axes, COLUMNS[0] + 0.09, y + SIDE - 0.09, letter, 10.5, ha="left", va="top", **look)
    for x, name in ((COLUMNS[1], "z"), (COLUMNS[2], "x")):
        _say(axes, x + SIDE / 2, y - 0.08, f"${name}_{letter}$", 12, va="top")
    quoted = wrapped(f"“{prompt}”", width=32, lines=2)
    _say(axes, COLUMNS[0], y - 0.1, quoted, 8.5, color=SOFT, ha="left", va="top")


def _draw_problem(axes: Axes, y: float, color: str, title: str, conditions: str, made: PipelineResult) -> None:
    """The problem that is solved, and what that cost."""
    corner, x = (BOX_LEFT, y - BOX_HEIGHT / 2), BOX_LEFT + BOX_WIDTH / 2
    look: dict[str, Any] = {"linewidth": 1.6, "edgecolor": color, "facecolor": mpl.colors.to_rgba(color, 0.07)}
    axes.add_patch(FancyBboxPatch(corner, BOX_WIDTH, BOX_HEIGHT, boxstyle="round,pad=0,rounding_size=0.12", **look))
    _say(axes, x, y + 0.58, title, 10.5, fontweight="bold")
    _say(axes, x, y + 0.22, "$\\gamma'' + \\alpha\\,|\\gamma'|^2\\,P_{\\!\\gamma'}\\nabla\\log p = 0$", 11.5)
    _say(axes, x, y - 0.16, conditions, 11)
    cost = f"{made.solver}\n{made.row['evaluations']:,} score evaluations"
    _say(axes, x, y - 0.56, cost, 8.5, color=SOFT, linespacing=1.15)


def _draw_points(axes: Axes, made: PipelineResult, rows: Place, color: str, middle: float, *, shown: int) -> None:
    """Some points of a path, evenly spread, at tau in the upper row, decoded in the lower."""
    top, bottom = rows[0] + (SIDE - POINT_SIDE), rows[1]
    chosen = range(0, len(made.u), (len(made.u) - 1) // (shown - 1))
    for number, frame in enumerate(chosen):
        x = POINTS_LEFT + number * (POINT_SIDE + GAP)
        _thumbnail(axes, made.noisy[frame], (x, top), POINT_SIDE)
        _thumbnail(axes, made.images[frame], (x, bottom), POINT_SIDE, edge=color)
        _arrow(axes, (x + POINT_SIDE / 2, top - 0.06), (x + POINT_SIDE / 2, bottom + POINT_SIDE + 0.06))
        position = f"u = {float(made.u[frame]):.4g}"
        _say(axes, x + POINT_SIDE / 2, top + POINT_SIDE + 0.07, position, 9.5, va="baseline")
    right = POINTS_LEFT + len(chosen) * (POINT_SIDE + GAP) - GAP
    # Beside the second arrow, where there is room between two of them.
    beside = POINTS_LEFT + POINT_SIDE + GAP / 2, (top + bottom + POINT_SIDE) / 2
    _say(axes, *beside, "DDIM,\ndecode", 9, linespacing=1.05)
    look = {"color": color, "ha": "right", "va": "top", "fontweight": "bold"}
    _say(axes, right, bottom - 0.09, "images along the path", 10, **look)
    _arrow(axes, (BOX_LEFT + BOX_WIDTH + 0.06, middle), (POINTS_LEFT - 0.08, top + POINT_SIDE / 2), color=color)


def _heading(axes: Axes, y: float, words: str, color: str) -> None:
    _say(axes, 0.35, y, words, 14, color=color, ha="left", fontweight="bold")


def _say(axes: Axes, x: float, y: float, words: str, size: float, **look: Any) -> None:
    usual: dict[str, Any] = {"fontsize": size, "color": INK, "ha": "center", "va": "center"}
    axes.text(x, y, words, **(usual | look))


def _thumbnail(axes: Axes, image: Image, corner: Place, side: float, *, edge: str = "#C8CFD6") -> None:
    high, wide = image.shape[-2:]
    across, up = (side * each / max(high, wide) for each in (wide, high))
    left, bottom = corner[0] + (side - across) / 2, corner[1] + (side - up) / 2
    extent = (left, left + across, bottom, bottom + up)
    axes.imshow(as_uint8(image), extent=extent, interpolation="lanczos", aspect="auto", zorder=3)
    axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=edge, linewidth=1.2, zorder=4))


def _arrow(axes: Axes, start: Place, end: Place, *, bend: float = 0.0, color: str = WIRE) -> None:
    look: dict[str, Any] = {"linewidth": 1.4, "color": color, "shrinkA": 0, "shrinkB": 0, "zorder": 5}
    look |= {"arrowstyle": "-|>", "mutation_scale": 13, "connectionstyle": f"arc3,rad={bend}"}
    axes.add_patch(FancyArrowPatch(start, end, **look))
