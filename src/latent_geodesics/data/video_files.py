"""Video files as tensors: a video file (whatever FFmpeg reads), an animated picture, or a folder of numbered frames.

Frames are cropped around their centre to the wanted proportions and resized, as single images are. A video with more
frames than are asked for gives evenly spaced ones, its first and its last among them; a frame that repeats the one
before it, as slow recordings hold them, is left out, since a path has no direction there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
from torch import Tensor

from latent_geodesics.data.images import SMALLEST_SIDE, read_image
from latent_geodesics.errors import UserError

__all__ = ["FEWEST_FRAMES", "FRAME_SUFFIXES", "read_video"]

FEWEST_FRAMES = 3
FRAME_SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ANIMATED_SUFFIXES = (".gif", ".webp", ".png", ".apng")
GIF_TRAILER = b";"

Read = Callable[[Sequence[int]], Float[Tensor, "n 3 h w"]]


def read_video(path: str | Path, *, size: tuple[int, int], frames: int | None = None) -> Float[Tensor, "n 3 h w"]:
    """Reads the frames of one video as float32 RGB in [0, 1].

    Args:
        path: A video file, an animated GIF, WebP or PNG, or a folder of images, numbered in the order of their names.
        size: Height and width of the result in pixels.
        frames: Take at most so many, evenly spaced, at least 3; all of them if not given.

    Raises:
        UserError: when it is missing, no video, damaged or cut short; when its frames differ in size or are less than 8
            pixels a side; when it has, or shows, fewer than 3 different frames.
    """
    if frames is not None and frames < FEWEST_FRAMES:
        raise UserError(f"data.frames must be at least {FEWEST_FRAMES} (two ends and one between), got {frames}.")
    path = Path(path)
    if path.is_dir():
        sizes, read = _open_folder(path, size)
    elif not path.is_file():
        raise UserError(f"The video '{path}' does not exist: give a video file, a GIF, or a folder of frames.")
    elif path.stat().st_size == 0:
        raise UserError(f"The video '{path}' is empty (0 bytes): give a file that holds a video.")
    elif path.suffix.lower() in ANIMATED_SUFFIXES:
        sizes, read = _open_animation(path, size)
    else:
        sizes, read = _open_stream(path, size)
    _check_frames(path, sizes)
    count = len(sizes)
    chosen = (
        range(count) if frames is None or frames >= count else np.linspace(0, count - 1, frames).round().astype(int)
    )
    video = _without_repeats(read([int(index) for index in chosen]))
    if len(video) < FEWEST_FRAMES:
        raise UserError(
            f"The video '{path}' shows only {len(video)} different frame(s) among {len(chosen)}: a path needs at least "
            f"{FEWEST_FRAMES}; give a video in which something moves."
        )
    return video


def _check_frames(path: Path, sizes: Sequence[tuple[int, int]]) -> None:
    if len(sizes) < FEWEST_FRAMES:
        raise UserError(
            f"The video '{path}' has {len(sizes)} frame(s): a path needs at least {FEWEST_FRAMES}; give a longer one."
        )
    if len(set(sizes)) > 1:
        number = next(index for index, size in enumerate(sizes) if size != sizes[0])
        (width, height), (other_width, other_height) = sizes[0], sizes[number]
        raise UserError(
            f"The frames of '{path}' differ in size ({width} x {height} pixels at first, {other_width} x "
            f"{other_height} in frame {number + 1}): bring them to one size."
        )
    if min(sizes[0]) < SMALLEST_SIDE:
        width, height = sizes[0]
        raise UserError(
            f"The frames of '{path}' have {width} x {height} pixels, too few to encode: give frames of at least "
            f"{SMALLEST_SIDE} x {SMALLEST_SIDE} pixels."
        )


def _without_repeats(video: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "m 3 h w"]:
    changed = (video[1:] != video[:-1]).flatten(1).any(1)
    return video[torch.cat([torch.ones(1, dtype=torch.bool), changed])]


def _open_folder(folder: Path, size: tuple[int, int]) -> tuple[list[tuple[int, int]], Read]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in FRAME_SUFFIXES)
    sizes = []
    for file in files:
        with _said_in_a_sentence(file):
            sizes.append(_size(file))
    return sizes, lambda chosen: torch.stack([read_image(files[index], size=size) for index in chosen])


def _size(file: Path) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


def _open_animation(file: Path, size: tuple[int, int]) -> tuple[list[tuple[int, int]], Read]:
    with _said_in_a_sentence(file), Image.open(file) as animation:
        if animation.format == "GIF" and not file.read_bytes().rstrip(b"\0").endswith(GIF_TRAILER):
            raise EOFError("it ends before its trailer")
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(animation)]
    return [frame.size for frame in frames], lambda chosen: torch.stack([_fitted(frames[i], size) for i in chosen])


def _open_stream(file: Path, size: tuple[int, int]) -> tuple[list[tuple[int, int]], Read]:
    """Two passes: the first counts and checks every frame, the second keeps only those that are wanted."""
    with _said_in_a_sentence(file):
        sizes = [(frame.width, frame.height) for frame in _decoded(file)]

    def read(chosen: Sequence[int]) -> Float[Tensor, "n 3 h w"]:
        wanted = set(chosen)
        with _said_in_a_sentence(file):
            kept = {
                index: _fitted(Image.fromarray(frame.to_ndarray(format="rgb24")), size)
                for index, frame in enumerate(_decoded(file))
                if index in wanted
            }
        return torch.stack([kept[index] for index in chosen])

    return sizes, read


def _decoded(file: Path) -> Iterator[av.VideoFrame]:
    """Every frame of the file's first video stream; an error instead of what a decoder would make up."""
    with av.open(str(file)) as container:
        if not container.streams.video:
            raise EOFError("it holds no pictures")
        stream = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}
        packets = 0
        for packet in container.demux(stream):
            packets += packet.size > 0
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise EOFError("a frame of it is damaged")
                yield frame
        if packets < stream.frames:
            raise EOFError(f"it ends after {packets} of {stream.frames} frames")


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    fitted = ImageOps.fit(picture, (size[1], size[0]), method=Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255.0).permute(2, 0, 1).contiguous()


@contextmanager
def _said_in_a_sentence(file: Path) -> Iterator[None]:
    """Turns what the decoders throw into what the user should read."""
    try:
        yield
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"The file '{file}' is no video that can be read ({error}): give an MP4 or a GIF.") from error
    except (av.error.FFmpegError, OSError, EOFError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"The video '{file}' cannot be read ({reason}): it may be damaged or cut short; save it again as MP4."
        ) from error
