"""Films as tensors: a video file (whatever FFmpeg reads), an animated picture, or a folder of numbered frames.

Frames are read as single images are: shown as a viewer or player shows them, cropped around their centre to the wanted
proportions and resized. A film with more frames than are asked for gives those evenly spaced in time, its first and
its last among them; a frame that repeats the one before it, as slow recordings hold them, is left out, since a path
has no direction there. Times serve that choice alone: frames that a recorder dropped leave no gap in the path.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.data.films import FEWEST_FRAMES, Film
from latent_geodesics.data.picture_films import is_animation, open_animation, open_folder
from latent_geodesics.data.video_streams import open_stream


@dataclass(frozen=True, kw_only=True)
class FilmFrames:
    """The frames of a film.

    Attributes:
        frames: In [0, 1].
        remark: What of the film a person would not expect in them, in words; nothing for most.
    """

    frames: Float[Tensor, "n 3 h w"]
    remark: str = ""


def read_video(path: str | Path, *, size: tuple[int, int], frames: int | None = None) -> Float[Tensor, "n 3 h w"]:
    """Reads the frames of one film as float32 RGB in [0, 1]; see `read_film`."""
    return read_film(path, size=size, frames=frames).frames


def read_film(path: str | Path, *, size: tuple[int, int], frames: int | None = None) -> FilmFrames:
    """Reads the frames of one film as float32 RGB in [0, 1], with a remark where they are not simply its frames.

    Args:
        path: A video file; an animated GIF, WebP, PNG or AVIF, or a TIFF stack; or a folder of images, in the order of
            the numbers in their names.
        size: Height and width of the result in pixels.
        frames: Take at most so many, evenly spaced in time, at least 3; all of them if not given.

    Raises:
        UserError: when it is missing, no video, damaged or cut short; when its frames differ in size, are less than 8
            pixels a side, or have no plain order; when it is of high dynamic range, or turned by no right angle; when
            it has, or shows, fewer than 3 different frames.
    """
    if frames is not None and frames < FEWEST_FRAMES:
        raise UserError(f"data.frames must be at least {FEWEST_FRAMES} (two ends and one between), got {frames}.")
    film = _open(Path(path), size)
    film.check()
    chosen = film.spread(frames)
    video = film.read(chosen)
    changed = (video[1:] != video[:-1]).flatten(1).any(1)
    kept = video[torch.cat([torch.ones(1, dtype=torch.bool), changed])]
    if len(kept) < FEWEST_FRAMES:
        raise UserError(
            f"The video '{path}' shows only {counted(len(kept), 'different frame')} among {len(chosen)}: a path needs "
            f"at least {FEWEST_FRAMES}; give a video in which something moves."
        )
    remarks = [*film.remarks, *filter(None, [film.uneven])]
    if len(kept) < len(video):
        remarks.append(f"{len(video) - len(kept)} of {len(video)} frames repeat the one before and are left out")
    return FilmFrames(frames=kept, remark="; ".join(remarks))


def _open(path: Path, size: tuple[int, int]) -> Film:
    if path.is_dir():
        return open_folder(path, size)
    if not path.is_file():
        raise UserError(f"The video '{path}' does not exist: give a video file, a GIF, or a folder of frames.")
    if path.stat().st_size == 0:
        raise UserError(f"The video '{path}' is empty (0 bytes): give a file that holds a video.")
    return open_animation(path, size) if is_animation(path) else open_stream(path, size)
