"""The diagram of both pipelines, with the images that a run made at each step (the paper's Figure 2).

Everything is placed on one sheet in inches, from its lower left corner.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import Tensor

from latent_geodesics.data.images import as_uint8
from latent_geodesics.experiments.pipelines.results import PipelineResult
from latent_geodesics.methods import EncodedPairs
from latent_geodesics.run.canvas import canvas, literal, wrapped
from latent_geodesics.run.plane_figures import PRINT

__all__ = ["draw_pipelines"]

SHEET = (16.2, 8.9)
BOUNDARY, INITIAL, INK, SOFT, WIRE = "#0072B2", "#B5477F", "#1D2733", "#5C6B7A", "#3C4650"
SIDE = 1.2
GAP = 0.13
COLUMNS = (0.35, 2.45, 4.55)
BOX_LEFT, BOX_WIDTH = 6.55, 2.35
POINTS_LEFT = 9.65
POINT_SIDE = 1.16
Image = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True, kw_only=True)
class _Entrance:
    """One input image on its way into the latent space, all of it as pictures.

    Attributes:
        letter: A or B.
        prompt: What it shows.
        image: The input.
        clean: Its clean latent, decoded: the autoencoder's reconstruction.
        noisy: Its latent at tau, decoded as if it were clean.
    """

    letter: str
    prompt: str
    image: Image
    clean: Image
    noisy: Image


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
    batch = pairs.batch
    a, b = (
        _Entrance(letter=letter, prompt=prompt, image=_picture(image), clean=_picture(through), noisy=_picture(noisy))
        for letter, prompt, image, through, noisy in zip(
            "AB",
            (batch.pairs[0].prompt_a, batch.pairs[0].prompt_b),
            (batch.images_a[0], batch.images_b[0]),
            clean,
            interpolation.noisy[[0, -1]],
            strict=True,
        )
    )
    with mpl.rc_context(PRINT), canvas(file, size=SHEET) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, SHEET[0]), ylim=(0, SHEET[1]))
        axes.set_axis_off()
        solved = _draw_interpolation(axes, a, b, interpolation, tau=pairs.tau, shown=shown)
        axes.plot([0.35, SHEET[0] - 0.35], [4.28, 4.28], color="#DFE5EA", linewidth=1)
        _draw_extrapolation(axes, b, extrapolation, solved, shown=shown)
        words = "Latents are shown through the decoder, noisy ones as if clean.  Paths lie on a sphere."
        note = f"{words}  Density: {literal(pairs.density, most=200)}."
        axes.text(0.35, 0.22, note, fontsize=8.5, color=SOFT, va="center")


def _draw_interpolation(
    axes: Axes, a: _Entrance, b: _Entrance, made: PipelineResult, *, tau: float, shown: int
) -> tuple[float, float]:
    upper, lower = 6.75, 5.0
    _heading(axes, 8.62, "a   Interpolation: a boundary value problem", BOUNDARY)
    _column_heads(axes, 8.08, tau)
    _entrance(axes, a, upper)
    _entrance(axes, b, lower)
    middle = (upper + lower + SIDE) / 2
    conditions = "$\\gamma(0) = x_A,\\quad \\gamma(1) = x_B$"
    solved = _box(axes, middle, BOUNDARY, "boundary value problem", conditions, made)
    for row, bend in ((upper, -0.18), (lower, 0.18)):
        _arrow(axes, (COLUMNS[2] + SIDE + 0.06, row + SIDE / 2), (BOX_LEFT - 0.06, middle), bend=bend)
    _exit(axes, made, upper, lower, BOUNDARY, middle, shown=shown)
    return solved


def _draw_extrapolation(
    axes: Axes, b: _Entrance, made: PipelineResult, solved: tuple[float, float], *, shown: int
) -> None:
    row = 2.05
    centre = row + SIDE / 2
    _heading(axes, 3.98, "b   Extrapolation: an initial value problem", INITIAL)
    _entrance(axes, b, row)
    _box(axes, centre, INITIAL, "initial value problem", "$\\gamma(0) = x_B,\\quad \\gamma'(0) = v$", made)
    _arrow(axes, (COLUMNS[2] + SIDE + 0.06, centre), (BOX_LEFT - 0.06, centre))
    _velocity(axes, solved, centre)
    _exit(axes, made, 2.62, 0.87, INITIAL, centre, shown=shown)


def _picture(image: Float[Tensor, "3 h w"]) -> Image:
    picture: Image = as_uint8(image)
    return picture


def _heading(axes: Axes, y: float, words: str, color: str) -> None:
    axes.text(0.35, y, words, fontsize=14, fontweight="bold", color=color, va="center")


def _column_heads(axes: Axes, y: float, tau: float) -> None:
    for x, words in zip(COLUMNS, ("image", "clean latent", f"noisy latent, τ = {tau:g}"), strict=True):
        axes.text(x + SIDE / 2, y, words, fontsize=10, color=SOFT, ha="center", va="bottom")


def _entrance(axes: Axes, ends: _Entrance, y: float) -> None:
    """An image, its clean latent and its noisy one, from left to right."""
    for x, image in zip(COLUMNS, (ends.image, ends.clean, ends.noisy), strict=True):
        _thumbnail(axes, image, x, y, SIDE)
    for x, words in ((COLUMNS[0], "encode"), (COLUMNS[1], "DDIM\ninversion")):
        start, end = x + SIDE + 0.06, x + COLUMNS[1] - COLUMNS[0] - 0.06
        _arrow(axes, (start, y + SIDE / 2), (end, y + SIDE / 2))
        axes.text(
            (start + end) / 2,
            y + SIDE / 2 + 0.1,
            words,
            fontsize=9,
            color=INK,
            ha="center",
            va="bottom",
            linespacing=1.05,
        )
    _letter(axes, ends.letter, COLUMNS[0], y)
    for x, symbol in ((COLUMNS[1], f"$z_{ends.letter}$"), (COLUMNS[2], f"$x_{ends.letter}$")):
        axes.text(x + SIDE / 2, y - 0.08, symbol, fontsize=12, color=INK, ha="center", va="top")
    prompt = wrapped(f"“{ends.prompt}”", width=32, lines=2)
    axes.text(COLUMNS[0], y - 0.1, prompt, fontsize=8.5, color=SOFT, ha="left", va="top")


def _exit(
    axes: Axes, made: PipelineResult, upper: float, lower: float, color: str, middle: float, *, shown: int
) -> None:
    """Some points of a path, evenly spread, at tau above, decoded below."""
    chosen = list(range(0, len(made.u), (len(made.u) - 1) // (shown - 1)))
    positions, noisy_ones, images = made.u[chosen].tolist(), made.noisy[chosen], made.images[chosen]
    top, bottom = upper + (SIDE - POINT_SIDE), lower
    for index, (u, noisy, image) in enumerate(zip(positions, noisy_ones, images, strict=True)):
        x = POINTS_LEFT + index * (POINT_SIDE + GAP)
        _thumbnail(axes, _picture(noisy), x, top, POINT_SIDE)
        _thumbnail(axes, _picture(image), x, bottom, POINT_SIDE, edge=color)
        _arrow(axes, (x + POINT_SIDE / 2, top - 0.06), (x + POINT_SIDE / 2, bottom + POINT_SIDE + 0.06))
        axes.text(x + POINT_SIDE / 2, top + POINT_SIDE + 0.07, f"u = {u:.4g}", fontsize=9.5, color=INK, ha="center")
    right = POINTS_LEFT + len(chosen) * (POINT_SIDE + GAP) - GAP
    # Beside the second arrow, where there is room between two of them.
    x = POINTS_LEFT + POINT_SIDE + GAP / 2
    axes.text(
        x,
        (top + bottom + POINT_SIDE) / 2,
        "DDIM,\ndecode",
        fontsize=9,
        color=INK,
        ha="center",
        va="center",
        linespacing=1.05,
    )
    axes.text(
        right, bottom - 0.09, "images along the path", fontsize=10, color=color, ha="right", va="top", fontweight="bold"
    )
    fork = POINTS_LEFT - 0.08
    _arrow(axes, (BOX_LEFT + BOX_WIDTH + 0.06, middle), (fork, top + POINT_SIDE / 2), bend=0.0, color=color)


def _box(axes: Axes, y: float, color: str, title: str, conditions: str, made: PipelineResult) -> tuple[float, float]:
    """The problem that is solved; returns the middle of the box's lower edge."""
    height = 1.72
    axes.add_patch(
        FancyBboxPatch(
            (BOX_LEFT, y - height / 2),
            BOX_WIDTH,
            height,
            boxstyle="round,pad=0,rounding_size=0.12",
            linewidth=1.6,
            edgecolor=color,
            facecolor=mpl.colors.to_rgba(color, 0.07),
        )
    )
    x = BOX_LEFT + BOX_WIDTH / 2
    axes.text(x, y + 0.58, title, fontsize=10.5, fontweight="bold", color=INK, ha="center", va="center")
    equation = "$\\gamma'' + \\alpha\\,|\\gamma'|^2\\,P_{\\!\\gamma'}\\nabla\\log p = 0$"
    axes.text(x, y + 0.22, equation, fontsize=11.5, color=INK, ha="center", va="center")
    axes.text(x, y - 0.16, conditions, fontsize=11, color=INK, ha="center", va="center")
    cost = f"{made.solver}\n{made.row['evaluations']:,} score evaluations"
    axes.text(x, y - 0.56, cost, fontsize=8.5, color=SOFT, ha="center", va="center", linespacing=1.15)
    return x, y - height / 2


def _velocity(axes: Axes, start: tuple[float, float], centre: float) -> None:
    """The velocity at the second end, from one problem to the other."""
    x, y = start
    _arrow(axes, (x, y - 0.05), (x, centre + 0.91), color=INITIAL)
    axes.text(x + 0.12, 4.62, "$v = \\gamma'(1)$, scaled", fontsize=10.5, color=INITIAL, ha="left", va="center")


def _thumbnail(axes: Axes, image: Image, x: float, y: float, side: float, *, edge: str = "#C8CFD6") -> None:
    axes.imshow(image, extent=(x, x + side, y, y + side), interpolation="lanczos", aspect="auto", zorder=3)
    axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=edge, linewidth=1.2, zorder=4))


def _letter(axes: Axes, letter: str, x: float, y: float) -> None:
    axes.text(
        x + 0.09,
        y + SIDE - 0.09,
        letter,
        fontsize=10.5,
        fontweight="bold",
        color="white",
        ha="left",
        va="top",
        zorder=6,
        bbox={"boxstyle": "round,pad=0.22", "facecolor": INK, "edgecolor": "none"},
    )


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], *, bend: float = 0.0, color: str = WIRE
) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=13,
            linewidth=1.4,
            color=color,
            shrinkA=0,
            shrinkB=0,
            zorder=5,
            connectionstyle=f"arc3,rad={bend}",
        )
    )
