"""The files of the shipped pairs.

`manifest.csv` has a row a pair: `id`, `group`, `difficulty`, `split`, `cluster` (its kind), `image_a`, `image_b`,
`prompt_a`, `prompt_b`, `frames` (folder of the true frames 00.png to 16.png, u = k / 16, or empty), `sha256_a`,
`sha256_b` (of the image files); paths are relative to the manifest. `scenes.jsonl` has `{"id", "a", "b"}` a line, each
scene as `Scene.from_dict` reads it.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from recipes.clevr.rendering.captions import caption
from recipes.clevr.rendering.pairs import PLANS, Pair, Plan, draw_pair, splits
from recipes.clevr.rendering.pool import Renderer

__all__ = ["COLUMNS", "render_pairs"]

COLUMNS = (
    "id",
    "group",
    "difficulty",
    "split",
    "cluster",
    "image_a",
    "image_b",
    "prompt_a",
    "prompt_b",
    "frames",
    "sha256_a",
    "sha256_b",
)


def render_pairs(*, folder: Path, seed: int, renderer: Renderer, plans: Sequence[Plan] = PLANS) -> int:
    """Draw the pair of each plan from (seed, its number), render it and write images, frames, manifest and scenes.

    Returns:
        The number of frames rendered.
    """
    pairs = [draw_pair(plan, np.random.default_rng([seed, number])) for number, plan in enumerate(plans)]
    rows, lines, rendered = [], [], 0
    numbered = enumerate(zip(tqdm(pairs, desc="render pairs", unit="pair"), splits(plans), strict=True))
    for number, (pair, split) in numbered:
        name = f"{number:02d}-{pair.plan.group}"
        frames = list(renderer.render(pair.between or (pair.first, pair.second)))
        rendered += len(frames)
        rows.append(_write_pair(folder, name, pair, frames) | {"split": split, "cluster": pair.plan.group})
        lines.append(json.dumps({"id": name, "a": pair.first.to_dict(), "b": pair.second.to_dict()}))
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (folder / "scenes.jsonl").write_text("".join(line + "\n" for line in lines))
    return rendered


def _write_pair(
    folder: Path, name: str, pair: Pair, frames: Sequence[UInt8[np.ndarray, "h w 3"]]
) -> dict[str, str | int]:
    images = [folder / "images" / f"{name}-{end}.png" for end in "ab"]
    for path, frame in zip(images, (frames[0], frames[-1]), strict=True):
        _save(path, frame)
    between = folder / "frames" / name if pair.between else None
    for number, frame in enumerate(frames if between else ()):
        assert between is not None
        _save(between / f"{number:02d}.png", frame)
    return {
        "id": name,
        "group": pair.plan.group,
        "difficulty": pair.plan.difficulty,
        "image_a": images[0].relative_to(folder).as_posix(),
        "image_b": images[1].relative_to(folder).as_posix(),
        "prompt_a": caption(pair.first),
        "prompt_b": caption(pair.second),
        "frames": between.relative_to(folder).as_posix() if between else "",
        "sha256_a": hashlib.sha256(images[0].read_bytes()).hexdigest(),
        "sha256_b": hashlib.sha256(images[1].read_bytes()).hexdigest(),
    }


def _save(path: Path, frame: UInt8[np.ndarray, "h w 3"]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame).save(path, optimize=True)
