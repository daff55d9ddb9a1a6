"""What every figure of the project has in common: style, colours, and that it is written whole or not at all."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latent_geodesics.run.files import replacing
from latent_geodesics.run.names import one_line

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
    entries = {name: line for axes in panels for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if not entries:
        return
    names = list(entries)
    columns = legend_columns(names, width=figure.get_figwidth(), fontsize=fontsize)
    figure.set_figheight(figure.get_figheight() + (-(-len(names) // columns) - 1) * 1.5 * fontsize / 72)
    figure.legend(entries.values(), names, loc="outside lower center", ncols=columns, fontsize=fontsize)


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
