"""The files of the shipped videos.

`manifest.csv` has a row a video: `id`, `kind`, `control` (1 for a video that shows no motion of anything, else 0),
`file` (relative to the manifest), `prompt_a`, `prompt_b` (what its first and its last frame show), `frames` (their
number), `sources` (for a control the ids of the videos that it was made from), `seed` and `sha256` (of the file).
`scenes.jsonl` has `{"id", "a", "b"}` a line for each rendered video, its first and last scene as `Scene.from_dict`
reads them.

The files are MP4 with lossless H.264 in RGB, so that a frame read back is the frame rendered, bit by bit.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from tqdm import tqdm

from latent_geodesics.run.files import replacing, write_text
from recipes.clevr.rendering.pool import Renderer
from recipes.clevr.rendering.videos import CONTROLS, VIDEOS, Clip, Control, Frames, VideoPlan

__all__ = ["COLUMNS", "render_videos", "save_video"]

COLUMNS = ("id", "kind", "control", "file", "prompt_a", "prompt_b", "frames", "sources", "seed", "sha256")
FRAME_RATE = 12


def render_videos(
    *,
    folder: Path,
    seed: int,
    renderer: Renderer,
    videos: Sequence[VideoPlan] = VIDEOS,
    controls: Sequence[Control] = CONTROLS,
) -> int:
    """Draw the clip of each plan from (seed, its number), render it, make the controls, and write manifest and scenes.

    Returns:
        The number of frames rendered.
    """
    clips = [video.draw(np.random.default_rng([seed, number])) for number, video in enumerate(videos)]
    kinds = [video.kind for video in videos] + [control.kind for control in controls]
    names = [f"{number:02d}-{kind}" for number, kind in enumerate(kinds)]
    rows: list[dict[str, Any]] = []
    rendered: list[Frames] = []
    for number, clip in enumerate(tqdm(clips, desc="render", unit="video")):
        rendered.append(np.stack(list(renderer.render(clip.scenes))))
        row = {"id": names[number], "kind": videos[number].kind, "control": 0, "sources": "", "seed": seed}
        rows.append(row | _prompts(clip, clip) | _written(folder, names[number], rendered[-1]))
    for number, control in enumerate(controls, start=len(videos)):
        frames = control.make([rendered[source] for source in control.sources], np.random.default_rng([seed, number]))
        row = {"id": names[number], "kind": control.kind, "control": 1, "seed": seed}
        row |= {"sources": " ".join(names[source] for source in control.sources)}
        first, last = (clips[control.sources[end]] for end in (0, -1))
        rows.append(row | _prompts(first, last) | _written(folder, names[number], frames))
    _write_manifest(folder / "manifest.csv", rows)
    ends = zip(names, (clip.scenes for clip in clips), strict=False)
    lines = (json.dumps({"id": name, "a": scenes[0].to_dict(), "b": scenes[-1].to_dict()}) for name, scenes in ends)
    write_text(folder / "scenes.jsonl", "".join(line + "\n" for line in lines))
    return sum(map(len, rendered))


def save_video(file: Path, frames: Frames) -> None:
    """Writes frames as a lossless MP4; what is there under that name is replaced."""
    with replacing(file) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=FRAME_RATE, options={"crf": "0", "preset": "veryslow"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _prompts(first: Clip, last: Clip) -> dict[str, str]:
    return {"prompt_a": first.prompt_a, "prompt_b": last.prompt_b}


def _written(folder: Path, name: str, frames: Frames) -> dict[str, Any]:
    file = folder / f"{name}.mp4"
    save_video(file, frames)
    return {"file": file.name, "frames": len(frames), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def _write_manifest(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    with replacing(file) as partial, partial.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
