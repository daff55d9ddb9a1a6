"""Pictures of sequences: strips of frames, a row a method, and animations."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from latent_geodesics.data.images import to_pil
from latent_geodesics.run.files import replacing
from latent_geodesics.run.names import one_line, title_of

TILE = 96
"""Pixels of the longer side of a frame."""
LABEL_WIDTH, LETTERS, LINE = 132, 16, 20
"""Of the names: pixels, letters a line, pixels a line."""
GAP = 2
FRAME_MS = 90
END_MS = 700
# Methods wait until pictures are written: these settings take a third of the defaults' time and hardly more space.
COMPRESSION = 4
QUALITY = 90


def save_strip(file: Path, rows: Mapping[str, Float[Tensor, "n 3 h w"]]) -> None:
    """Writes the sequences below one another, each row named on its left, as one image.

    A row of fewer frames than the longest has each under the position u that it belongs to.
    """
    columns = max(len(frames) for frames in rows.values())
    tiles = {name: [tile(frame, TILE) for frame in frames] for name, frames in rows.items()}
    wide = max(one.width for of_row in tiles.values() for one in of_row)
    labels = [textwrap.wrap(one_line(title_of(name), most=3 * LETTERS), LETTERS, max_lines=3) for name in rows]
    heights = [
        max(LINE * len(words), *(one.height for one in of_row))
        for words, of_row in zip(labels, tiles.values(), strict=True)
    ]
    size = LABEL_WIDTH + columns * (wide + GAP), sum(heights) + GAP * (len(heights) - 1)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    top = 0
    for words, of_row, height in zip(labels, tiles.values(), heights, strict=True):
        pen.text((6, top + height // 2), "\n".join(words), fill="#222222", font=font, anchor="lm")
        for number, one in enumerate(of_row):
            column = number * (columns - 1) / max(1, len(of_row) - 1)
            sheet.paste(one, (LABEL_WIDTH + round(column * (wide + GAP)), top + (height - one.height) // 2))
        top += height + GAP
    with replacing(file) as partial:
        sheet.save(partial, compress_level=COMPRESSION)


def save_loop(file: Path, pictures: Sequence[Image.Image], *, frame_ms: int = FRAME_MS) -> None:
    """Writes pictures as a looping WebP that shows each for some milliseconds, the first and the last for longer."""
    durations = [END_MS, *[frame_ms] * (len(pictures) - 2), END_MS]
    with replacing(file) as partial:
        pictures[0].save(
            partial, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=QUALITY, method=0
        )


def tile(frame: Float[Tensor, "3 h w"], side: int) -> Image.Image:
    """A frame with its longer side of so many pixels."""
    return ImageOps.contain(to_pil(frame), (side, side), Image.Resampling.BICUBIC)
