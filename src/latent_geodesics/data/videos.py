"""Videos with their prompts, from a manifest or of the user's own.

A manifest is a CSV file with a line a video: `id, kind, file, prompt_a, prompt_b`, and optionally `control` (1 for a
video that shows no motion of anything) and `sha256`; paths are relative to the manifest. The two prompts say what the
first and the last frame show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.data.grouping import in_batches
from latent_geodesics.data.manifests import matches_checksum, read_rows
from latent_geodesics.data.video_files import FRAME_SUFFIXES, read_video
from latent_geodesics.errors import UserError

__all__ = ["Video", "VideoBatch", "VideoData"]

REQUIRED_COLUMNS = ("id", "kind", "file", "prompt_a", "prompt_b")
OWN = "own"


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
    """Videos of equally many frames, read from disk: images in [0, 1]."""

    videos: tuple[Video, ...]
    frames: Float[Tensor, "v n 3 h w"]

    def __len__(self) -> int:
        return len(self.videos)


class VideoData:
    """The videos of a manifest, or the user's own.

    Args:
        manifest: The CSV file that lists the videos.
        video: A file of the user's own, a folder of frames, or a folder of video files; it replaces the manifest.
        prompt: What the user's own video shows.
        frames: Frames of each video that are looked at, evenly spaced, at least 3; all of them if not given.
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
            UserError: for the first video that cannot be read; see `read_video`.
        """
        counts = {video: len(read_video(video.file, size=size, frames=self.frames)) for video in self.videos}
        return [
            tuple(equal)
            for neighbours in in_batches(self.videos, self.batch_size)
            for _, equal in groupby(neighbours, key=lambda video: counts[video])
        ]

    def read(self, videos: Sequence[Video], *, size: tuple[int, int]) -> VideoBatch:
        """The frames of videos that have equally many."""
        frames = torch.stack([read_video(video.file, size=size, frames=self.frames) for video in videos])
        return VideoBatch(videos=tuple(videos), frames=frames)


def _own_videos(path: Path, prompt: str) -> list[Video]:
    """One video, or those of a folder that holds no pictures but video files."""
    files: Sequence[Path] = [path]
    if path.is_dir() and not any(file.suffix.lower() in FRAME_SUFFIXES for file in path.iterdir()):
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
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
        UserError: when the manifest, one of its columns or one of its files is missing, when an id stands twice, or
            when a file does not match its checksum.
    """
    rows = read_rows(manifest, required=REQUIRED_COLUMNS, thing="video")
    return [_manifest_video(row, manifest, verify=verify) for row in rows]


def _manifest_video(row: dict[str, str], manifest: Path, *, verify: bool) -> Video:
    file = manifest.parent / row["file"]
    if not file.exists():
        raise UserError(f"The video '{row['id']}' of '{manifest}' names '{file}', which does not exist.")
    if verify and not matches_checksum(file, row.get("sha256")):
        raise UserError(
            f"The file '{file}' of the video '{row['id']}' does not match its checksum in '{manifest}': restore the "
            "file, correct the manifest, or set data.verify=false."
        )
    return Video(
        id=row["id"],
        file=file,
        prompt_a=row["prompt_a"],
        prompt_b=row["prompt_b"],
        kind=row["kind"],
        control=row.get("control") == "1",
    )
