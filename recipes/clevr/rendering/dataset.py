"""A numbered set of frames in shards on disk, rendered so that a killed run goes on where it stopped.

A folder holds `shard-00000.zip`, the frames as lossless WebP files, each named by its index, and `shard-00000.jsonl`,
one record a line for the same frames in the same order, then `shard-00001...`. A record has `index`, `seed`, `caption`,
`objects` (shape, color, size, material and `pixel`, the centre's image coordinates (x, y) in [0, 1]^2, x to the right,
y down) and `scene`, which `ClevrScene.from_dict` reads. Each file is written under another name and renamed when whole,
the frames last: a shard exists when its zip does. `settings.json` says what all frames of the folder have in common.
"""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.files import replacing, write_json, write_text
from recipes.clevr.rendering.pool import Renderer
from recipes.clevr.rendering.scene import ClevrScene, caption

SHARD = 500  # frames a shard


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Frames of one shard and their records.

    Args:
        frames: sRGB bytes.
        records: one record for each frame, as the module says.
    """

    frames: UInt8[np.ndarray, "n h w 3"]
    records: list[dict[str, Any]]


def scene_record(scene: ClevrScene, *, index: int, seed: int) -> dict[str, Any]:
    """The record of a frame: its names for people, its numbers for `ClevrScene.from_dict`."""
    objects = [
        {"shape": item.shape, "color": item.color, "size": item.size, "material": item.material, "pixel": pixel}
        for item, pixel in zip(scene.objects, scene.pixels(), strict=True)
    ]
    return {"index": index, "seed": seed, "caption": caption(scene), "objects": objects, "scene": scene.to_dict()}


def render_shards(
    *,
    folder: Path,
    scene: Callable[[int], ClevrScene],
    seed: int,
    renderer: Renderer,
    first: int,
    count: int,
    shard_size: int = SHARD,
    settings: Mapping[str, Any],
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
        settings: what else decides the frames and can be written as JSON; kept with the seed and the shard size in
            `settings.json`.

    Returns:
        The number of frames rendered now.

    Raises:
        UserError: when the folder was made with other settings, or a shard holds another number of frames than asked
            for.
    """
    if first % shard_size:
        raise ValueError(f"first must be a multiple of the shard size {shard_size}, got {first}")
    _check_settings(folder, {"seed": seed, "shard_size": shard_size, **settings})
    starts = range(first, first + count, shard_size)
    spans = {start: range(start, min(start + shard_size, first + count)) for start in starts}
    missing = {start: span for start, span in spans.items() if not _finished(folder, start // shard_size, span)}
    total = sum(len(span) for span in missing.values())
    with tqdm(total=count, initial=count - total, desc=f"render {folder.name}", unit="frame") as progress:
        for start, span in missing.items():
            scenes = [scene(index) for index in span]
            records = [scene_record(item, index=index, seed=seed) for index, item in zip(span, scenes, strict=True)]
            write_shard(folder, start // shard_size, _counted(renderer.render(scenes), progress), records)
    return total


def write_shard(
    folder: Path, number: int, frames: Iterable[UInt8[np.ndarray, "h w 3"]], records: Sequence[Mapping[str, Any]]
) -> None:
    """Writes shard `number` of a folder: its frames, taken one by one, and a record, as the module says, for each."""
    path = _path(folder, number)
    # encoded as they come, so that the renderer works on meanwhile
    encoded = [_encoded(frame) for frame in frames]
    write_text(path.with_suffix(".jsonl"), "".join(json.dumps(record) + "\n" for record in records))
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for data, record in zip(encoded, records, strict=True):
            archive.writestr(f"{record['index']:06d}.webp", data)


def write_manifest(folder: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `manifest.csv`, with a row for each thing in a folder."""
    with replacing(folder / "manifest.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_ends(folder: Path, ends: Mapping[str, tuple[ClevrScene, ClevrScene]]) -> None:
    """Writes `scenes.jsonl`: `{"id", "a", "b"}` a line, the ends as `ClevrScene.from_dict` reads them."""
    lines = (json.dumps({"id": name, "a": a.to_dict(), "b": b.to_dict()}) for name, (a, b) in ends.items())
    write_text(folder / "scenes.jsonl", "".join(line + "\n" for line in lines))


def load_shards(folder: str | Path) -> Iterator[Shard]:
    """The finished shards of a folder in order.

    Raises:
        UserError: when the folder holds no shard, or one of anything but RGB frames of bytes with a record each.
    """
    yield from map(_shard, _paths(folder))


def load_records(folder: str | Path) -> list[dict[str, Any]]:
    """The records of the finished shards of a folder, in order.

    Raises:
        UserError: when the folder holds no shard.
    """
    return [record for path in _paths(folder) for record in _records(path.with_suffix(".jsonl"))]


def _paths(folder: str | Path) -> list[Path]:
    paths = sorted(path for path in Path(folder).glob("shard-*") if path.suffix in (".zip", ".npy"))
    if not paths:
        raise UserError(
            f"No shard-*.zip in {folder}: render the frames first (run.py task=render_clevr task.folder={folder})."
        )
    return paths


def _shard(path: Path) -> Shard:
    if path.suffix == ".npy":  # as shards were written before they were compressed
        pictures = list(np.load(path, mmap_mode="r"))
    else:
        with zipfile.ZipFile(path) as archive:
            pictures = [_decoded(archive.read(name)) for name in archive.namelist()]
    records = _records(path.with_suffix(".jsonl"))
    shapes = {picture.shape for picture in pictures}
    foreign = any(picture.shape[2:] != (3,) or picture.dtype != np.uint8 for picture in pictures)
    if len(shapes) != 1 or len(pictures) != len(records) or foreign:
        raise UserError(
            f"The shard {path} holds {len(pictures)} pictures of shapes {sorted(shapes)} and {len(records)} records, "
            "not RGB pictures of one size with a record each: delete it, and render it again."
        )
    return Shard(frames=np.stack(pictures), records=records)


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Keeps the settings of a new folder, and compares them with those of an old one."""
    file = folder / "settings.json"
    wanted = json.loads(json.dumps(settings))
    if not file.exists() and not any(folder.glob("shard-*.zip")):
        write_json(file, wanted)
        return
    found = json.loads(file.read_text()) if file.exists() else {}
    others = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if others:
        differences = ", ".join(f"{name} = {found.get(name)} and not {wanted.get(name)}" for name in others)
        raise UserError(
            f"The frames in {folder} were made with {differences}: delete them, or choose another task.folder."
        )


def _finished(folder: Path, number: int, span: range) -> bool:
    path = _path(folder, number)
    if not path.exists():
        return False
    records = _records(path.with_suffix(".jsonl"))
    found = (records[0]["index"], len(records))
    if found != (span.start, len(span)):
        raise UserError(
            f"The shard {path} holds (first index, frames) = {found}, wanted {(span.start, len(span))}: "
            "delete it, or choose another task.folder."
        )
    return True


def _counted(frames: Iterable[np.ndarray], progress: "tqdm[Any]") -> Iterator[np.ndarray]:
    for frame in frames:
        progress.update()
        yield frame


def _encoded(frame: UInt8[np.ndarray, "h w 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="WEBP", lossless=True)
    return file.getvalue()


def _decoded(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.zip"


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
