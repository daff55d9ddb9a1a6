"""A sequence on disk: every frame as PNG, a film, and a sprite that pages scrub through."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.images import to_pil
from latent_geodesics.run.files import replacing
from latent_geodesics.run.strips import save_loop

FILM_FORMATS = ("mp4", "webp", "gif", "none")
SPRITE_SIDE = 192
CRF = "14"  # of H.264: no difference is seen


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


def save_frames(folder: Path, frames: Float[Tensor, "n 3 h w"]) -> list[str]:
    """Writes every frame in full resolution as `0000.png` and so on; returns the names."""
    names = [f"{number:04d}.png" for number in range(len(frames))]
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
