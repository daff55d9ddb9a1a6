"""Videos with their prompts, from a manifest or of the user's own, and their frames as tensors.

A manifest is a CSV file with a line a video: `id, kind, file, prompt_a, prompt_b`, and optionally `control` (1 for a
video that shows no motion of anything) and `sha256`; paths are relative to the manifest. The two prompts say what the
first and the last frame show. See `data.manifests` for how a manifest is written.

A film is a video file (whatever FFmpeg reads), an animated picture, or a folder of numbered frames. Frames are read as
single images are: shown as a viewer or player shows them, cropped around their centre to the wanted proportions and
resized. A film with more frames than are asked for gives those evenly spaced in time, its first and its last among
them; a frame that repeats the one before it, as slow recordings hold them, is left out, since a path has no direction
there. Times serve that choice alone: frames that a recorder dropped leave no gap in the path.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.data.file_order import image_files, visible_files
from latent_geodesics.data.films import FEWEST_FRAMES, Film, is_animation, open_animation, open_folder
from latent_geodesics.data.manifests import ManifestRow, read_rows
from latent_geodesics.data.pairs import in_batches
from latent_geodesics.data.video_streams import open_stream

REQUIRED_COLUMNS = ("id", "kind", "file", "prompt_a", "prompt_b")
# The last three are what `task=render_videos` notes for its readers.
OPTIONAL_COLUMNS = ("control", "sha256", "frames", "sources", "seed")
OWN = "own"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Video:
    """A video and its prompts.

    Attributes:
        file: A file, or a folder of frames.
        prompt_a: What its first frame shows.
        prompt_b: What its last frame shows.
        kind: What moves in it.
        control: Whether it was made to be the motion of nothing.
    """

    id: str
    file: Path
    prompt_a: str = ""
    prompt_b: str = ""
    kind: str = OWN
    control: bool = False


@dataclass(frozen=True, kw_only=True)
class VideoBatch:
    """Videos of equally many frames, read from disk.

    Attributes:
        frames: In [0, 1].
        remarks: Of each video, what a person would not expect in its frames, in words; nothing for most.
    """

    videos: tuple[Video, ...]
    frames: Float[Tensor, "v n 3 h w"]
    remarks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.videos)


class VideoData:
    """The videos of a manifest, or the user's own.

    Args:
        manifest: The CSV file that lists the videos.
        video: A file of the user's own, a folder of frames, or a folder of video files; it replaces the manifest.
        prompt: What the user's own video shows.
        frames: Frames of each video that are looked at, evenly spaced in time, at least 3; all of them if not
            given.
        limit: Take only the first so many videos.
        batch_size: How many videos are encoded together.
        verify: Compare the files with the checksums of the manifest.

    Raises:
        UserError: when the manifest is none (see `read_rows`), one of its files is missing or does not match its
            checksum, a control is neither 0 nor 1, or no video is given.
    """

    def __init__(
        self,
        *,
        manifest: str | Path | None = None,
        video: str | Path | None = None,
        prompt: str | None = None,
        frames: int | None = 17,
        limit: int | None = None,
        batch_size: int = 4,
        verify: bool = True,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"data.batch_size must be at least 1, got {batch_size}.")
        if limit is not None and limit < 1:
            raise UserError(f"data.limit must be at least 1, got {limit}: leave it out to take every video.")
        if video is not None:
            videos = _own_videos(Path(video), prompt or "")
        elif prompt is not None:
            raise UserError("A prompt was given without a video: give data.video=<file or folder> with it.")
        elif manifest is not None:
            rows = read_rows(Path(manifest), required=REQUIRED_COLUMNS, optional=OPTIONAL_COLUMNS, thing="video")
            videos = [_listed(row, verify=verify) for row in rows]
        else:
            raise UserError("No videos were given: set data.manifest, or data.video=<file or folder>.")
        self.videos = tuple(videos[:limit])
        self.frames, self.batch_size = frames, batch_size

    def __len__(self) -> int:
        return len(self.videos)

    def batches(self, *, size: tuple[int, int]) -> list[Sequence[Video]]:
        """What is looked at together: neighbours of equally many frames, at most `batch_size` of them.

        Every video is read once for it, so that a bad one is known before hours are spent on the others.

        Args:
            size: Height and width of the frames in pixels.

        Raises:
            UserError: for the first video that cannot be read; see `read_film`.
        """
        counts = {}
        for video in self.videos:
            film = read_film(video.file, size=size, frames=self.frames)
            counts[video] = len(film.frames)
            if film.remark:
                log.warning("Of the video '%s', %s.", video.file, film.remark)
        return [
            tuple(equal)
            for neighbours in in_batches(self.videos, self.batch_size)
            for _, equal in groupby(neighbours, key=lambda video: counts[video])
        ]

    def read(self, videos: Sequence[Video], *, size: tuple[int, int]) -> VideoBatch:
        """The frames of videos that have equally many."""
        films = [read_film(video.file, size=size, frames=self.frames) for video in videos]
        return VideoBatch(
            videos=tuple(videos),
            frames=torch.stack([film.frames for film in films]),
            remarks=tuple(film.remark for film in films),
        )


def _own_videos(path: Path, prompt: str) -> list[Video]:
    """One video, or those of a folder that holds no pictures but video files."""
    files: Sequence[Path] = [path]
    if path.is_dir() and not image_files(path):
        files = visible_files(path)
        if not files:
            raise UserError(f"The folder '{path}' is empty: give a video file, a folder of frames, or one of videos.")
    stems = [file.stem for file in files]
    names = stems if len(set(stems)) == len(stems) else [file.name.replace(".", "-") for file in files]
    return [
        Video(id=name, file=file, prompt_a=prompt, prompt_b=prompt) for name, file in zip(names, files, strict=True)
    ]


def _listed(row: ManifestRow, *, verify: bool) -> Video:
    file = row.path("file")
    if verify and row["sha256"] and file.is_dir():
        raise UserError(f"'{file}' in {row.place} is a folder, which has no checksum: empty the cell sha256.")
    if verify:
        row.check("sha256", file)
    if row["control"] not in ("", "0", "1"):
        raise UserError(f"The control of '{row['id']}' in {row.place} must be 0 or 1, got {row['control']!r}.")
    told: dict[str, Any] = {name: row[name] for name in ("id", "kind", "prompt_a", "prompt_b")}
    return Video(file=file, control=row["control"] == "1", **told)


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
