"""Videos with their prompts, from a manifest or of the user's own.

A manifest is a CSV file with a line a video: `id, kind, file, prompt_a, prompt_b`, and optionally `control` (1 for a
video that shows no motion of anything) and `sha256`; paths are relative to the manifest. The two prompts say what the
first and the last frame show. See `data.manifests` for how a manifest is written.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.file_order import image_files, visible_files
from latent_geodesics.data.manifests import ManifestRow, read_rows
from latent_geodesics.data.pairs import in_batches
from latent_geodesics.data.video_files import read_film

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
            videos = _read_manifest(Path(manifest), verify=verify)
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


def _read_manifest(manifest: Path, *, verify: bool) -> list[Video]:
    """Reads and checks a manifest (see the module's text for its columns).

    Raises:
        UserError: when the manifest is none (see `read_rows`), one of its files is missing or does not match its
            checksum, or a control is neither 0 nor 1.
    """
    rows = read_rows(manifest, required=REQUIRED_COLUMNS, optional=OPTIONAL_COLUMNS, thing="video")
    return [_manifest_video(row, verify=verify) for row in rows]


def _manifest_video(row: ManifestRow, *, verify: bool) -> Video:
    file = row.path("file")
    if verify and row["sha256"] and file.is_dir():
        raise UserError(f"'{file}' in {row.place} is a folder, which has no checksum: empty the cell sha256.")
    if verify:
        row.check("sha256", file)
    if row["control"] not in ("", "0", "1"):
        raise UserError(f"The control of '{row['id']}' in {row.place} must be 0 or 1, got {row['control']!r}.")
    return Video(
        id=row["id"],
        file=file,
        prompt_a=row["prompt_a"],
        prompt_b=row["prompt_b"],
        kind=row["kind"],
        control=row["control"] == "1",
    )
