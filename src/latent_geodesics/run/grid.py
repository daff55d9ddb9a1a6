"""A figure of sequences as papers print it: a row a method, a column a position, a block a pair, and no clutter."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from latent_geodesics.run.canvas import literal
from latent_geodesics.run.files import replacing
from latent_geodesics.run.names import file_stem, title_of

TRUTH = "true_frames"
TILE = 0.85
"""Inches of a frame."""
LABEL = 1.35
"""Inches of the column of names."""
GAP = 0.02


def frames_on_disk(folder: Path, pair: str, method: str) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The frames that a run kept of a sequence; none if it kept none."""
    place = folder / "frames" / file_stem(method) / file_stem(pair)
    if method == TRUTH and not place.is_dir():
        place = folder / "truth" / file_stem(pair)
    found = []
    for file in sorted(place.glob("[0-9]*.png")):
        with Image.open(file) as picture:
            found.append(np.asarray(picture.convert("RGB")))
    return found


def draw_grid(
    stem: Path, blocks: Mapping[str, Mapping[str, Sequence[UInt8[np.ndarray, "h w 3"]]]], *, columns: int
) -> None:
    """Writes `<stem>.png` and `<stem>.pdf`.

    Args:
        stem: The files without their ending.
        blocks: Pair -> method -> frames, evenly spaced in u; as many for each as there are.
        columns: How many of the frames are shown, both ends among them.
    """
    shown = {
        pair: {name: frames for name, frames in of_pair.items() if len(frames)} for pair, of_pair in blocks.items()
    }
    shown = {pair: of_pair for pair, of_pair in shown.items() if of_pair}
    rows = sum(map(len, shown.values()))
    if not rows:
        return
    spaces = len(shown) - 1
    height, width = rows * (TILE + GAP) + spaces * 0.12 + 0.22, LABEL + columns * (TILE + GAP)
    figure = plt.Figure(figsize=(width, height), dpi=200)
    top = height - 0.22
    for block, of_pair in enumerate(shown.values()):
        for name, frames in of_pair.items():
            top -= TILE + GAP
            figure.text((LABEL - 0.08) / width, (top + TILE / 2) / height, literal(title_of(name)), fontsize=8,
                        ha="right", va="center", wrap=True)  # fmt: skip
            for column, at in enumerate(np.linspace(0, 1, columns)):
                left = LABEL + column * (TILE + GAP)
                axes = figure.add_axes((left / width, top / height, TILE / width, TILE / height))
                axes.imshow(frames[round(at * (len(frames) - 1))], interpolation="lanczos")
                axes.set_axis_off()
                if block == 0 and name == next(iter(of_pair)):
                    axes.set_title(f"u = {at:.2g}", fontsize=8, pad=3)
        top -= 0.12
    for ending in ("png", "pdf"):
        with replacing(stem.with_suffix(f".{ending}")) as partial:
            figure.savefig(partial, format=ending, facecolor="white")
