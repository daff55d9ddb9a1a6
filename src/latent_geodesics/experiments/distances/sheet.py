"""The nearest neighbours of every image as one sheet of pictures, which a table of names would not show."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from latent_geodesics.run.files import replacing
from latent_geodesics.run.names import one_line

__all__ = ["nearest", "save_neighbours"]

TILE = 80
GAP = 6
CAPTION = 16
MARGIN = 26
NAME_WIDTH = 168
MOST = 60
INK, SOFT, ACCENT = "#1d2733", "#5c6b7a", "#0072B2"


def nearest(distances: Float[np.ndarray, " n"], row: int, count: int) -> list[int]:
    """The `count` images nearest to image `row`, without itself; equal distances in their order."""
    return [int(other) for other in np.argsort(distances, kind="stable") if other != row][:count]


def save_neighbours(
    file: Path,
    matrix: Float[np.ndarray, "n n"],
    pictures: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    count: int,
) -> None:
    """Writes a line for each image: its name, itself, and those nearest to it with their distances below.

    Two columns of lines where there are more than eight images; at most sixty images.

    Args:
        file: Where to.
        matrix: Distances.
        pictures: The images as uint8 arrays [h w 3].
        names: Their names.
        count: How many neighbours.
    """
    shown, count = min(len(pictures), MOST), min(count, len(pictures) - 1)
    columns = 2 if shown > 8 else 1
    lines = -(-shown // columns)
    width, height = NAME_WIDTH + (count + 1) * (TILE + GAP) + MARGIN, TILE + CAPTION + GAP
    sheet = Image.new("RGB", (columns * width, lines * height), "white")
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(size=14), ImageFont.load_default(size=12)
    for row in range(shown):
        left, top = (row // lines) * width, (row % lines) * height
        pen.text(
            (left + NAME_WIDTH - 10, top + TILE // 2), one_line(names[row], most=24), fill=INK, font=font, anchor="rm"
        )
        pen.rectangle((left + NAME_WIDTH - 3, top, left + NAME_WIDTH + TILE + 2, top + TILE + 5), fill=ACCENT)
        for place, other in enumerate([row, *nearest(matrix[row], row, count)]):
            x = left + NAME_WIDTH + place * (TILE + GAP) + (GAP if place else 0)
            tile = Image.fromarray(pictures[other]).resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (x, top + 3))
            if place:
                centre = (x + TILE // 2, top + TILE + 4)
                pen.text(centre, f"{matrix[row, other]:.4g}", fill=SOFT, font=small, anchor="ma")
    with replacing(file) as partial:
        sheet.save(partial)
