"""Moving pictures, whatever file they come from: frames of one size, and the choice of some of them.

Here are also those that are pictures: a folder of numbered frames, or one file of several (GIF, WebP, PNG, AVIF, a TIFF
stack). `data.video_streams` has those that FFmpeg reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.data.file_order import numbered_images
from latent_geodesics.data.images import SMALLEST_SIDE, as_shown, fitted, read_image, readable, shown_size

ANIMATED_SUFFIXES = (".gif", ".webp", ".png", ".apng", ".avif", ".tif", ".tiff")
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")
GIF_TRAILER = b";"
# What browsers take for a frame that gives no time of its own, in milliseconds.
USUAL_DURATION = 100.0
FEWEST_FRAMES = 3
# Rounded times, say to milliseconds, differ by less; a frame that is missing by more.
UNEVEN = 1.5


@dataclass(frozen=True, kw_only=True)
class Film:
    """A film whose frames are known and still to be read.

    Attributes:
        path: Its file or folder.
        sizes: Width and height of each frame as it is shown, in pixels.
        times: When each frame is shown, in seconds, increasing; none where frames have only an order.
        read: The frames of those numbers, [n 3 h w] in [0, 1].
        remarks: What was done to it that is not plain reading, in words.
    """

    path: Path
    sizes: Sequence[tuple[int, int]]
    times: Sequence[float] = ()
    read: Callable[[Sequence[int]], Float[Tensor, "n 3 h w"]]
    remarks: tuple[str, ...] = ()

    @property
    def uneven(self) -> str:
        """In words, how unevenly the frames are timed; nothing where they are not."""
        gaps = np.diff(self.times)
        if not len(gaps) or gaps.max() <= UNEVEN * gaps.min():
            return ""
        return (
            f"its frames are {gaps.min():.3g} to {gaps.max():.3g} s apart, as where a recorder drops some: those that "
            "are there count as one step apart"
        )

    def spread(self, frames: int | None) -> list[int]:
        """The numbers of at most so many frames, evenly spaced in time, the first and the last among them."""
        count = len(self.sizes)
        if frames is None or frames >= count:
            return list(range(count))
        places = np.linspace(0, count - 1, frames)
        if self.uneven:
            wanted = np.linspace(self.times[0], self.times[-1], frames)
            places = np.interp(wanted, self.times, np.arange(count))
        return [int(place) for place in np.unique(places.round())]

    def check(self) -> None:
        """Raises a `UserError` for a film of too few frames, of frames that differ in size, or that are too small."""
        sizes = self.sizes
        if len(sizes) < FEWEST_FRAMES:
            raise UserError(
                f"The video '{self.path}' has {counted(len(sizes), 'frame')}: give a longer one, of at least "
                f"{FEWEST_FRAMES} frames."
            )
        if len(set(sizes)) > 1:
            number = next(index for index, size in enumerate(sizes) if size != sizes[0])
            (width, height), (other_width, other_height) = sizes[0], sizes[number]
            raise UserError(
                f"The frames of '{self.path}' differ in size ({width} x {height} pixels at first, {other_width} x "
                f"{other_height} in frame {number + 1}): bring them to one size."
            )
        if min(sizes[0]) < SMALLEST_SIDE:
            width, height = sizes[0]
            raise UserError(
                f"The frames of '{self.path}' have {width} x {height} pixels, too few to encode: give frames of at "
                f"least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels."
            )


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
