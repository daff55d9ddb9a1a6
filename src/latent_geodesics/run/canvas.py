"""What every figure of the project has in common (style, colours, written whole or not at all), and the grid of frames.

The grid shows sequences as papers print them: a row a method, a column a position, a block a pair, and no clutter.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from latent_geodesics.data.images import readable
from latent_geodesics.run.files import file_stem, inside, one_line, replacing

LONGEST = 36

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

TRUTH = "true_frames"
TILE = 0.85
"""Inches of the longer side of a frame."""
LABEL = 1.35
"""Inches of the column of names."""
GAP, BLOCK_GAP, HEADING, LEAST = 0.02, 0.12, 0.22, 0.3
DPI = 200
MOST_PIXELS = 2 * round(TILE * DPI)

Frames = Sequence[UInt8[np.ndarray, "h w 3"]]


def method_color(method: str, methods: Sequence[str]) -> str:
    """The colour that a method has in every figure of a run."""
    others = [name for name in methods if name not in COLORS]
    return COLORS[method] if method in COLORS else FURTHER_COLORS[others.index(method) % len(FURTHER_COLORS)]


def literal(text: object, *, most: int = LONGEST) -> str:
    """A text that others chose, such as an id, as figures take it to be drawn letter by letter, on one line.

    Dollar signs would else begin a formula, which may be none that can be read; a legend leaves out a name that begins
    with an underscore.
    """
    words = one_line(text, most=most).replace("$", r"\$")
    return f" {words}" if words.startswith("_") else words


def wrapped(text: object, *, width: int, lines: int | None = None) -> str:
    """The same as `literal`, on so many lines of at most `width` letters."""
    return "\n".join(
        map(literal, textwrap.wrap(one_line(text, most=400), width=width, max_lines=lines, placeholder=" …"))
    )


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Titles a panel and names its axes; the words are drawn as they are."""
    axes.set_title(literal(title, most=2 * LONGEST))
    axes.set_xlabel(literal(x, most=2 * LONGEST))
    axes.set_ylabel(literal(y, most=2 * LONGEST))


def legend_columns(names: Sequence[str], *, width: float, fontsize: float) -> int:
    """How many of the names stand beside one another in a legend of so many inches; at least one.

    A letter is about six tenths as wide as high, and a name's mark and the gaps take the width of six.
    """
    each = (max(map(len, names), default=0) + 6) * 0.6 * fontsize / 72
    return max(1, min(len(names), int(width / each)))


def legend_below(figure: Figure, *panels: Axes, fontsize: float = 8.5) -> None:
    """Names what panels show, below all of them, in as many lines as the width needs; they make the figure higher."""
    _legend(figure, panels, "outside lower center", fontsize)


def legend_above(figure: Figure, *panels: Axes, fontsize: float = 8.5) -> None:
    """The same above all of them, where a figure is higher than a screen."""
    _legend(figure, panels, "outside upper left", fontsize)


def _legend(figure: Figure, panels: Sequence[Axes], place: str, fontsize: float) -> None:
    entries = {name: line for axes in panels for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if not entries:
        return
    names = list(entries)
    columns = legend_columns(names, width=figure.get_figwidth(), fontsize=fontsize)
    figure.set_figheight(figure.get_figheight() + (-(-len(names) // columns) - 1) * 1.5 * fontsize / 72)
    figure.legend(entries.values(), names, loc=place, ncols=columns, fontsize=fontsize)


@contextmanager
def canvas(file: Path, *, size: tuple[float, float], margins: Mapping[str, float] | None = None) -> Iterator[Figure]:
    """A figure of `size` inches that is written to `file` when the block ends.

    Made without pyplot, which keeps figures in global state. Margins, as `Figure.subplots_adjust` takes them, are found
    where none are given, which takes as long as the drawing.
    """
    with mpl.rc_context(STYLE), replacing(file) as partial:
        figure = Figure(figsize=size, layout="constrained" if margins is None else None)
        yield figure
        if margins is not None:
            figure.subplots_adjust(**margins)
        figure.savefig(partial)


def shown_positions(frames: int, columns: int) -> list[float]:
    """Where along u a sequence of so many frames has those that a grid shows: both ends and others, evenly spread.

    With 17 frames and 7 columns: 0, 3/16, 5/16, 1/2, 11/16, 13/16 and 1.
    """
    spread = np.linspace(0, frames - 1, max(1, min(columns, frames)))
    return [round(float(place)) / max(1, frames - 1) for place in spread]


def frames_on_disk(folder: Path, pair: str, method: str, *, at: Sequence[float]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The frames that a run kept of a sequence nearest to some positions u, as small as a figure needs them.

    None if it kept none.
    """
    files, found = frame_files(folder, pair, method), []
    for file in [files[round(u * (len(files) - 1))] for u in at] if files else []:
        with readable(file), Image.open(inside(folder, file.relative_to(folder))) as picture:
            small = picture.convert("RGB")
        small.thumbnail((MOST_PIXELS, MOST_PIXELS))
        found.append(np.asarray(small))
    return found


def frame_files(folder: Path, pair: str, method: str) -> list[Path]:
    """The files of the frames that a run kept of a sequence, in their order."""
    place = folder / "frames" / file_stem(method) / file_stem(pair)
    if method == TRUTH and not place.is_dir():
        place = folder / "truth" / file_stem(pair)
    return sorted(place.glob("[0-9]*.png"))


def draw_grid(stem: Path, blocks: Mapping[str, Mapping[str, Frames]], *, at: Sequence[float]) -> bool:
    """Writes `<stem>.png` and `<stem>.pdf`; whether there was anything to draw.

    Args:
        stem: The files without their ending.
        blocks: Pair -> what a row is called -> frames, one for each position or none.
        at: The positions u of the columns.
    """
    rows = [
        (block, name, frames)
        for block, of_pair in blocks.items() for name, frames in of_pair.items() if len(frames)
    ]  # fmt: skip
    if not rows:
        return False
    sizes = [_inches(frames[0]) for _, _, frames in rows]
    pitch = max(width for width, _ in sizes) + GAP
    tops = np.cumsum([0.0, *(max(height, LEAST) + GAP for _, height in sizes)])
    tops += np.cumsum([0.0, *(BLOCK_GAP * (a[0] != b[0]) for a, b in pairwise(rows)), 0.0])
    width, height = LABEL + len(at) * pitch, HEADING + float(tops[-1])
    figure = Figure(figsize=(width, height), dpi=DPI)
    # One pair of axes in inches from the upper left corner: a pair for each frame takes twice the time.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    lefts = [LABEL + column * pitch for column in range(len(at))]
    for (_, name, frames), (wide, high), top in zip(rows, sizes, tops, strict=False):
        middle = HEADING + top + max(high, LEAST) / 2
        axes.text(LABEL - 0.08, middle, literal(name, most=60), fontsize=8, ha="right", va="center", wrap=True)
        for left, frame in zip(lefts, frames, strict=True):
            place = (left, left + wide, middle + high / 2, middle - high / 2)
            axes.imshow(frame, extent=place, aspect="auto")
    for u, left in zip(at, lefts, strict=True):
        axes.text(left + sizes[0][0] / 2, HEADING - 0.04, f"u = {u:.2g}", fontsize=8, ha="center", va="baseline")
    # The PDF holds the frames' own pixels, each frame as a picture that can be taken out.
    for ending, interpolation in (("png", "lanczos"), ("pdf", "none")):
        for image in axes.images:
            image.set_interpolation(interpolation)
        with mpl.rc_context({"image.composite_image": False}), replacing(stem.with_suffix(f".{ending}")) as partial:
            figure.savefig(partial, format=ending, facecolor="white")
    return True


def _inches(frame: UInt8[np.ndarray, "h w 3"]) -> tuple[float, float]:
    """Width and height of a frame in the figure."""
    high, wide = frame.shape[:2]
    return TILE * wide / max(high, wide), TILE * high / max(high, wide)
