"""A figure of sequences as papers print it: a row a method, a column a position, a block a pair, and no clutter."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from latent_geodesics.data.images import readable
from latent_geodesics.run.canvas import literal
from latent_geodesics.run.files import inside, replacing
from latent_geodesics.run.names import file_stem

TRUTH = "true_frames"
TILE = 0.85
"""Inches of the longer side of a frame."""
LABEL = 1.35
"""Inches of the column of names."""
GAP, BLOCK_GAP, HEADING, LEAST = 0.02, 0.12, 0.22, 0.3
DPI = 200
MOST_PIXELS = 2 * round(TILE * DPI)

Item = TypeVar("Item")
Frames = Sequence[UInt8[np.ndarray, "h w 3"]]


def frames_on_disk(folder: Path, pair: str, method: str, *, columns: int) -> list[UInt8[np.ndarray, "h w 3"]]:
    """So many of the frames that a run kept of a sequence, evenly spaced in u, as small as a figure needs them.

    None if it kept none; all of them where there are fewer.
    """
    place = folder / "frames" / file_stem(method) / file_stem(pair)
    if method == TRUTH and not place.is_dir():
        place = folder / "truth" / file_stem(pair)
    files, found = sorted(place.glob("[0-9]*.png")), []
    for file in _spaced(files, min(columns, len(files))):
        with readable(file), Image.open(inside(folder, file.relative_to(folder))) as picture:
            small = picture.convert("RGB")
        small.thumbnail((MOST_PIXELS, MOST_PIXELS))
        found.append(np.asarray(small))
    return found


def draw_grid(stem: Path, blocks: Mapping[str, Mapping[str, Frames]], *, columns: int) -> bool:
    """Writes `<stem>.png` and `<stem>.pdf`; whether there was anything to draw.

    Args:
        stem: The files without their ending.
        blocks: Pair -> what a row is called -> frames, evenly spaced in u; as many for each as there are.
        columns: How many of the frames are shown, both ends among them.
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
    width, height = LABEL + columns * pitch, HEADING + float(tops[-1])
    figure = plt.Figure(figsize=(width, height), dpi=DPI)
    for line, ((_, name, frames), (wide, high), top) in enumerate(zip(rows, sizes, tops, strict=False)):
        middle = (height - HEADING - top - max(high, LEAST) / 2) / height
        figure.text((LABEL - 0.08) / width, middle, literal(name, most=60), fontsize=8, ha="right", va="center",
                    wrap=True)  # fmt: skip
        for column, frame in enumerate(_spaced(frames, columns)):
            left = (LABEL + column * pitch) / width
            axes = figure.add_axes((left, middle - high / 2 / height, wide / width, high / height))
            axes.imshow(frame, interpolation="lanczos")
            axes.set_axis_off()
            if line == 0:
                axes.set_title(f"u = {column / (columns - 1):.2g}", fontsize=8, pad=3)
    for ending in ("png", "pdf"):
        with replacing(stem.with_suffix(f".{ending}")) as partial:
            figure.savefig(partial, format=ending, facecolor="white")
    return True


def _spaced(items: Sequence[Item], count: int) -> list[Item]:
    """So many of some items, evenly spaced, both ends among them; an item may stand more than once."""
    return [items[round(at * (len(items) - 1))] for at in np.linspace(0, 1, count)]


def _inches(frame: UInt8[np.ndarray, "h w 3"]) -> tuple[float, float]:
    """Width and height of a frame in the figure."""
    high, wide = frame.shape[:2]
    return TILE * wide / max(high, wide), TILE * high / max(high, wide)
