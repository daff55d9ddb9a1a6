"""Pictures of sequences: strips of frames, a row a method, and animations."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from latent_geodesics.data.images import to_pil
from latent_geodesics.run.files import replacing
from latent_geodesics.run.names import one_line

__all__ = ["save_loop", "save_strip"]

TILE = 96
LABEL_WIDTH = 132
LETTERS = 18
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
    width = LABEL_WIDTH + columns * (TILE + GAP)
    sheet = Image.new("RGB", (width, len(rows) * (TILE + GAP) - GAP), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for line, (name, frames) in enumerate(rows.items()):
        top = line * (TILE + GAP)
        words = one_line(name.replace("_", " "), most=LETTERS)
        pen.text((6, top + TILE // 2), words, fill="#222222", font=font, anchor="lm")
        for number, frame in enumerate(frames):
            column = number * (columns - 1) / max(1, len(frames) - 1)
            sheet.paste(_scaled(frame, TILE), (LABEL_WIDTH + round(column * (TILE + GAP)), top))
    with replacing(file) as partial:
        sheet.save(partial, compress_level=COMPRESSION)


def save_loop(file: Path, pictures: Sequence[Image.Image], *, frame_ms: int = FRAME_MS) -> None:
    """Writes pictures as a looping WebP that shows each for some milliseconds, the first and the last for longer."""
    durations = [END_MS, *[frame_ms] * (len(pictures) - 2), END_MS]
    with replacing(file) as partial:
        pictures[0].save(
            partial, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=QUALITY, method=0
        )


def _scaled(frame: Float[Tensor, "3 h w"], size: int) -> Image.Image:
    return to_pil(frame).resize((size, size), Image.Resampling.BICUBIC)
