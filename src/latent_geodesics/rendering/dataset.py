"""A numbered set of frames in shards on disk, rendered so that a killed run goes on where it stopped.

A folder holds `shard-00000.npy`, an array [n h w 3] of uint8, and `shard-00000.jsonl`, one record a line for the
same frames, then `shard-00001...`. A record has `index`, `seed`, `caption`, `objects` (shape, color, size, material
and `pixel`, the centre's image coordinates (x, y) in [0, 1]^2, x to the right, y down) and `scene`, which
`Scene.from_dict` reads. Each file is written under another name and renamed when complete, the array last: a shard
exists when its array does.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from latent_geodesics.errors import UserError
from latent_geodesics.rendering.captions import caption
from latent_geodesics.rendering.pool import Renderer
from latent_geodesics.rendering.scene import Scene

__all__ = ["SHARD", "Shard", "load_shards", "render_shards", "scene_record"]

SHARD = 500  # frames a shard


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Frames of one shard and their records.

    Args:
        frames: uint8, [n h w 3], mapped from disk.
        records: one record for each frame, as the module says.
    """

    frames: UInt8[np.ndarray, "n h w 3"]
    records: list[dict[str, Any]]


def scene_record(scene: Scene, *, index: int, seed: int) -> dict[str, Any]:
    """The record of a frame: its names for people, its numbers for `Scene.from_dict`."""
    objects = [
        {"shape": item.shape, "color": item.color, "size": item.size, "material": item.material, "pixel": pixel}
        for item, pixel in zip(scene.objects, scene.pixels(), strict=True)
    ]
    return {"index": index, "seed": seed, "caption": caption(scene), "objects": objects, "scene": scene.to_dict()}


def render_shards(
    *,
    folder: Path,
    scene: Callable[[int], Scene],
    seed: int,
    renderer: Renderer,
    first: int,
    count: int,
    shard_size: int = SHARD,
) -> int:
    """Render frames `first` to `first + count` into `folder`, skipping the shards that are there.

    Args:
        folder: where the shards go; made when missing.
        scene: gives the scene of an index.
        seed: the seed behind `scene`, for the records.
        renderer: what renders.
        first: index of the first frame, a multiple of `shard_size`.
        count: number of frames; the last shard may be shorter than the others.
        shard_size: frames a shard.

    Returns:
        The number of frames rendered now.

    Raises:
        UserError: when a shard on disk holds another number of frames than asked for, or frames of another seed.
    """
    if first % shard_size:
        raise ValueError(f"first must be a multiple of the shard size {shard_size}, got {first}")
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(first, first + count, shard_size)
    spans = {start: range(start, min(start + shard_size, first + count)) for start in starts}
    missing = {start: span for start, span in spans.items() if not _finished(folder, start // shard_size, span, seed)}
    total = sum(len(span) for span in missing.values())
    with tqdm(total=total, desc=f"render {folder.name}", unit="frame") as progress:
        for start, span in missing.items():
            scenes = [scene(index) for index in span]
            frames = []
            for frame in renderer.render(scenes):
                frames.append(frame)
                progress.update()
            records = [scene_record(item, index=index, seed=seed) for index, item in zip(span, scenes, strict=True)]
            _write(folder, start // shard_size, frames, records)
    return total


def load_shards(folder: str | Path, *, first: int = 0, count: int | None = None) -> Iterator[Shard]:
    """The finished shards of a folder in order, from shard number `first`, at most `count` of them.

    Raises:
        UserError: when the folder holds no shard, or one of anything but RGB frames of bytes with a record each.
    """
    paths = sorted(Path(folder).glob("shard-*.npy"))
    if not paths:
        raise UserError(
            f"No shard-*.npy in {folder}: render the frames first (run.py task=render_clevr task.folder={folder})."
        )
    for path in paths[first : None if count is None else first + count]:
        yield _shard(path)


def _shard(path: Path) -> Shard:
    frames, records = np.load(path, mmap_mode="r"), _records(path.with_suffix(".jsonl"))
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) != len(records):
        raise UserError(
            f"The shard {path} holds {frames.dtype} of shape {frames.shape} and {len(records)} records, not bytes of "
            "shape (frames, height, width, 3) with a record each: delete it, and render it again."
        )
    return Shard(frames=frames, records=records)


def _finished(folder: Path, number: int, span: range, seed: int) -> bool:
    path = _path(folder, number)
    if not path.exists():
        return False
    records = _records(path.with_suffix(".jsonl"))
    found = (records[0]["seed"], records[0]["index"], len(records))
    if found != (seed, span.start, len(span)):
        raise UserError(
            f"The shard {path} holds (seed, first index, frames) = {found}, wanted {(seed, span.start, len(span))}: "
            "delete it, or choose another task.folder."
        )
    return True


def _write(folder: Path, number: int, frames: Sequence[np.ndarray], records: list[dict[str, Any]]) -> None:
    path = _path(folder, number)
    lines = path.with_suffix(".jsonl")
    partial = folder / f".{path.name}.partial"
    partial.write_text("".join(json.dumps(record) + "\n" for record in records))
    partial.rename(lines)
    with partial.open("wb") as file:
        np.save(file, np.stack(frames))
    partial.rename(path)


def _path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.npy"


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
