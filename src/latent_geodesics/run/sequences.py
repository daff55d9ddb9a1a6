"""A sequence on disk: every frame as PNG, a film, a sprite that pages scrub through, a row of a strip."""

import textwrap
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.images import to_pil
from latent_geodesics.run.files import one_line, replacing, title_of

FILM_FORMATS = ("mp4", "webp", "gif", "none")
SPRITE_SIDE = 192
CRF = "14"  # of H.264: no difference is seen

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


class Films:
    """How films are written.

    Args:
        fps: Frames a second, above 0.
        format: `mp4` (H.264), `webp`, `gif`, or `none` for no films.
    """

    def __init__(self, *, fps: float, format: Literal["mp4", "webp", "gif", "none"]) -> None:  # noqa: A002
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= 240:
            raise UserError(f"fps must be a number above 0, at most 240, got {fps!r}.")
        if format not in FILM_FORMATS:
            raise UserError(f"format must be one of {', '.join(FILM_FORMATS)}, got {format!r}.")
        self.fps, self.format = float(fps), format

    def save(self, folder: Path, stem: str, frames: Float[Tensor, "n 3 h w"]) -> list[str]:
        """Writes a film into a folder; returns the names of what was written."""
        if self.format == "none":
            return []
        name = f"{stem}.{self.format}"
        save_film(folder / name, frames, fps=self.fps)
        return [name]


def frame_name(number: int) -> str:
    """What the file of a frame is called."""
    return f"{number:04d}.png"


def save_frames(folder: Path, frames: Float[Tensor, "n 3 h w"]) -> list[str]:
    """Writes every frame in full resolution as `0000.png` and so on; returns the names."""
    names = [frame_name(number) for number in range(len(frames))]
    for name, frame in zip(names, frames, strict=True):
        save_frame(folder / name, frame)
    return names


def save_frame(file: Path, frame: Float[Tensor, "3 h w"]) -> None:
    """Writes an image in full resolution as PNG."""
    with replacing(file) as partial:
        to_pil(frame).save(partial, format="PNG", compress_level=4)


def save_film(file: Path, frames: Float[Tensor, "n 3 h w"], *, fps: float) -> None:
    """Writes a sequence as a film, by the ending of the file: `mp4` in H.264, `webp` or `gif` in a loop.

    Odd sizes lose their last row or column in `mp4`, whose colours are halved in resolution.
    """
    pictures = [to_pil(frame) for frame in frames]
    if file.suffix != ".mp4":
        save_loop(file, pictures, frame_ms=round(1000 / fps))
        return
    import av

    with replacing(file) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height = (max(2, side // 2 * 2) for side in pictures[0].size)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": CRF, "preset": "medium"}
        for picture in pictures:
            even = np.asarray(picture)[: stream.height, : stream.width]
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def save_sprite(file: Path, frames: Float[Tensor, "n 3 h w"]) -> Mapping[str, float]:
    """Writes the frames beside one another as one WebP; returns how many there are, and their width over height."""
    height, width = frames.shape[-2:]
    scale = min(1.0, SPRITE_SIDE / max(height, width), 16383 / (width * len(frames)))  # WebP's widest picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (size[0] * len(frames), size[1]))
    for number, frame in enumerate(frames):
        sheet.paste(to_pil(frame).resize(size, Image.Resampling.LANCZOS), (number * size[0], 0))
    with replacing(file) as partial:
        sheet.save(partial, format="WEBP", quality=85, method=4)
    return {"count": float(len(frames)), "aspect": size[0] / size[1]}


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
