"""Films that are pictures: a folder of numbered frames, or one file of several (GIF, WebP, PNG, AVIF, a TIFF stack)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.file_order import numbered_images
from latent_geodesics.data.films import Film
from latent_geodesics.data.images import as_shown, fitted, read_image, readable, shown_size

ANIMATED_SUFFIXES = (".gif", ".webp", ".png", ".apng", ".avif", ".tif", ".tiff")
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")
GIF_TRAILER = b";"
# What browsers take for a frame that gives no time of its own, in milliseconds.
USUAL_DURATION = 100.0


def open_folder(folder: Path, size: tuple[int, int]) -> Film:
    """A folder of images, one a frame, in the order of their numbers.

    Raises:
        UserError: when the order is not plain (see `numbered_images`), or a file is damaged or holds several pictures.
    """
    files = numbered_images(folder)
    return Film(
        path=folder,
        sizes=[_frame_size(file) for file in files],
        read=lambda chosen: torch.stack([read_image(files[index], size=size) for index in chosen]),
    )


def _frame_size(file: Path) -> tuple[int, int]:
    with readable(file), Image.open(file) as opened:
        pictures = getattr(opened, "n_frames", 1)
        if pictures > 1 and opened.format in ANIMATED_FORMATS:
            raise UserError(
                f"'{file}' holds {pictures} pictures, but each file in a folder of frames is one frame: give "
                "data.video=<that file>, or a folder of single pictures."
            )
        return shown_size(opened)


def is_animation(file: Path) -> bool:
    """Whether a file holds pictures rather than a video stream, by its suffix or by what is in it."""
    if file.suffix.lower() in ANIMATED_SUFFIXES:
        return True
    Image.init()
    try:
        with Image.open(file, formats=[name for name in ANIMATED_FORMATS if name in Image.OPEN]):
            return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def open_animation(file: Path, size: tuple[int, int]) -> Film:
    """An animated picture, every frame as a viewer composes it."""
    frames: list[Image.Image] = []
    starts = [0.0]
    with readable(file, thing="video"), Image.open(file) as opened:
        if opened.format == "GIF" and not file.read_bytes().rstrip(b"\0").endswith(GIF_TRAILER):
            raise EOFError("it ends before its trailer")
        # A PNG may hold one more picture, for those who cannot show it animated.
        first = int(bool(getattr(opened, "default_image", False)))
        for number in range(first, getattr(opened, "n_frames", 1)):
            opened.seek(number)
            opened.load()
            frames.append(as_shown(opened, file))
            starts.append(starts[-1] + (float(opened.info.get("duration") or 0) or USUAL_DURATION) / 1000)

    def read(chosen: Sequence[int]) -> torch.Tensor:
        return torch.stack([fitted(frames[index], size) for index in chosen])

    return Film(path=file, sizes=[frame.size for frame in frames], times=starts[:-1], read=read)
