"""Paths beside one another as one looping animation, so that an eye can compare them frame by frame."""

from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from latent_geodesics.data.images import to_pil
from latent_geodesics.run.names import one_line
from latent_geodesics.run.strips import save_loop

__all__ = ["save_side_by_side"]

TILE, GAP, HEADING = 160, 6, 22
FRAME_MS = 140


def save_side_by_side(file: Path, paths: Mapping[str, Float[Tensor, "k 3 h w"]]) -> None:
    """Writes sequences of equally many frames as one looping WebP, a column a sequence, its name above it."""
    columns = [list(frames) for frames in paths.values()]
    sheets = [_sheet(list(paths), frames) for frames in zip(*columns, strict=True)]
    save_loop(file, sheets, frame_ms=FRAME_MS)


def _sheet(names: list[str], frames: tuple[Float[Tensor, "3 h w"], ...]) -> Image.Image:
    sheet = Image.new("RGB", (len(names) * (TILE + GAP) - GAP, TILE + HEADING), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for column, (name, frame) in enumerate(zip(names, frames, strict=True)):
        left = column * (TILE + GAP)
        pen.text(
            (left + 2, HEADING // 2), one_line(name.replace("_", " "), most=24), fill="#222222", font=font, anchor="lm"
        )
        sheet.paste(to_pil(frame).resize((TILE, TILE), Image.Resampling.BICUBIC), (left, HEADING))
    return sheet
