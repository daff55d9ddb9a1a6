"""The pairs of images that ship: which they are, and how they follow from a seed.

A pair is two scenes of graded difficulty, 1 (a little of one thing changes) to 4 (nothing stays). Kinds that a
motion defines (move, turn, resize, recolour, camera) also have the true frames in between; the others (material,
shape, several attributes, another scene) have none. Every frame of a pair satisfies the rules of `sampling.is_clear`.

`manifest.csv` has a row a pair: `id`, `group`, `difficulty`, `split`, `cluster` (its kind), `image_a`, `image_b`,
`prompt_a`, `prompt_b`, `frames` (folder of the true frames 00.png to 16.png, u = k / 16, or empty), `sha256_a`,
`sha256_b` (of the image files); paths are relative to the manifest. `scenes.jsonl` has `{"id", "a", "b"}` a line, each
scene as `ClevrScene.from_dict` reads it.
"""

import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from recipes.clevr.rendering.motion import (
    Motion,
    Orbit,
    Recolour,
    Resize,
    Rise,
    Rotate,
    Together,
    Translate,
    floor_directions,
)
from recipes.clevr.rendering.pool import Renderer
from recipes.clevr.rendering.sampling import SceneSampler, is_clear
from recipes.clevr.rendering.scene import COLORS, MATERIALS, SHAPES, SIZES, ClevrScene, SceneObject, caption

FRAMES = 17  # u = k / 16, both ends included
ATTEMPTS = 20_000
TUNED_FIRST = frozenset({"translate_depth", "resize", "two_changed", "several_changed"})
"""The kinds of three pairs of which two are for tuning; of the others two are for evaluation."""
SAMPLER = SceneSampler(large=0.8)

Change = Callable[[ClevrScene, np.random.Generator, float], Motion | ClevrScene]


@dataclass(frozen=True, kw_only=True)
class PairPlan:
    """What a pair shall be.

    Args:
        group: the kind of change.
        difficulty: 1 to 4.
        objects: number of objects.
        change: makes the motion, or the other end, from a first scene, a generator and the amount.
        amount: how much changes; world units or degrees, as the change says; unused by some.
        shape: the first object's shape where the change needs one; it is then large, so that the change shows.
    """

    group: str
    difficulty: int
    objects: int
    change: Change
    amount: float = 0.0
    shape: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two ends and, where a motion leads from one to the other, what lies between.

    Args:
        plan: what was asked for.
        first: the scene of image a.
        second: the scene of image b.
        between: the `FRAMES` scenes of the motion with both ends, or none.
    """

    plan: PairPlan
    first: ClevrScene
    second: ClevrScene
    between: tuple[ClevrScene, ...]


def draw_pair(plan: PairPlan, generator: np.random.Generator) -> Pair:
    """A pair as planned, drawn again until every one of its frames is clear.

    Raises:
        ValueError: when no draw is, because the amount is too large for the frame.
    """
    for _ in range(ATTEMPTS):
        start = SAMPLER.draw(generator, count=plan.objects)
        if plan.shape is not None:
            start = _with(start, 0, replace(start.objects[0], shape=plan.shape, radius=SIZES["large"]))
        change = plan.change(start, generator, plan.amount)
        between = tuple(change.scenes(FRAMES)) if isinstance(change, Motion) else ()
        second = change.scene(1.0) if isinstance(change, Motion) else change
        if all(is_clear(scene) for scene in (start, second, *between)):
            return Pair(plan=plan, first=start, second=second, between=between)
    raise ValueError(f"no clear pair for {plan.group} by {plan.amount} in {ATTEMPTS} attempts: lower the amount")


def splits(plans: Sequence[PairPlan]) -> list[str]:
    """The split of each plan's pair: those of a kind are taken in turns, so that both halves have nearly all kinds."""
    seen: Counter[str] = Counter()
    found = []
    for plan in plans:
        found.append(("evaluation", "tuning")[(seen[plan.group] + (plan.group in TUNED_FIRST)) % 2])
        seen[plan.group] += 1
    return found


def _translate_x(start: ClevrScene, generator: np.random.Generator, amount: float) -> Motion:
    return _translate(start, floor_directions(start.camera)[0], _signed(amount, generator))


def _translate_depth(start: ClevrScene, generator: np.random.Generator, amount: float) -> Motion:
    return _translate(start, floor_directions(start.camera)[1], _signed(amount, generator))


def _translate(start: ClevrScene, direction: tuple[float, float], amount: float) -> Motion:
    return Translate(start=start, offset=(amount * direction[0], amount * direction[1]))


def _rotate(start: ClevrScene, generator: np.random.Generator, amount: float) -> Motion:
    return Rotate(start=start, degrees=_signed(amount, generator))


def _recolour(start: ClevrScene, generator: np.random.Generator, amount: float) -> Motion:
    return Recolour(start=start, rgb=COLORS[_other(start.objects[0].color, tuple(COLORS), generator)])


def _resize(start: ClevrScene, generator: np.random.Generator, amount: float) -> Motion:
    return Resize(start=start, radius=SIZES[_other(start.objects[0].size, tuple(SIZES), generator)])


def _orbit(start: ClevrScene, generator: np.random.Generator, amount: float) -> Motion:
    return Orbit(start=start, degrees=_signed(amount, generator))


def _rise(start: ClevrScene, generator: np.random.Generator, amount: float) -> Motion:
    return Rise(start=start, height=_signed(amount, generator))


def _move_and_recolour(start: ClevrScene, generator: np.random.Generator, amount: float) -> Motion:
    parts = (_translate_x(start, generator, amount), _recolour(start, generator, amount))
    return Together(start=start, parts=parts)


def _material(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    item = start.objects[0]
    return _with(start, 0, replace(item, material=_other(item.material, MATERIALS, generator)))


def _shape(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    item = start.objects[0]
    return _with(start, 0, replace(item, shape=_other(item.shape, SHAPES, generator)))


def _material_and_color(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    return _recolour(_material(start, generator, amount), generator, amount).scene(1.0)


def _color_and_other_shape(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    scene = _recolour(start, generator, amount).scene(1.0)
    item = scene.objects[1]
    return _with(scene, 1, replace(item, shape=_other(item.shape, SHAPES, generator)))


def _several(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    """Colour, material, shape and place of every object, the place by up to `amount` along each axis of the floor."""
    scene = start
    for index, item in enumerate(start.objects):
        x, y = (value + float(generator.uniform(-amount, amount)) for value in item.position)
        scene = _with(scene, index, replace(_unlike(item, generator), position=(x, y)))
    return scene


def _different(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    """Another scene, with `amount` objects, other lamps and another camera."""
    return SAMPLER.draw(generator, count=round(amount))


def _unlike(item: SceneObject, generator: np.random.Generator) -> SceneObject:
    return replace(
        item,
        rgb=COLORS[_other(item.color, tuple(COLORS), generator)],
        material=_other(item.material, MATERIALS, generator),
        shape=_other(item.shape, SHAPES, generator),
    )


def _with(scene: ClevrScene, index: int, item: SceneObject) -> ClevrScene:
    return replace(scene, objects=(*scene.objects[:index], item, *scene.objects[index + 1 :]))


def _other(name: str, names: tuple[str, ...], generator: np.random.Generator) -> str:
    return str(generator.choice([candidate for candidate in names if candidate != name]))


def _signed(amount: float, generator: np.random.Generator) -> float:
    return math.copysign(amount, generator.uniform(-1.0, 1.0))


def _plan(
    group: str, difficulty: int, objects: int, change: Change, amount: float = 0.0, shape: str | None = None
) -> PairPlan:
    return PairPlan(group=group, difficulty=difficulty, objects=objects, change=change, amount=amount, shape=shape)


# the first four are a small demonstration of the rest; a turn stays below a cube's symmetry of 90 degrees
PLANS: tuple[PairPlan, ...] = (
    _plan("translate_x", 2, 1, _translate_x, 1.6),
    _plan("recolour", 2, 1, _recolour),
    _plan("rotate", 2, 1, _rotate, 45.0, "cube"),
    _plan("different_scene", 4, 1, _different, 2),
    _plan("translate_x", 1, 1, _translate_x, 0.8),
    _plan("translate_x", 3, 2, _translate_x, 1.8),
    _plan("translate_depth", 1, 1, _translate_depth, 1.2),
    _plan("translate_depth", 2, 1, _translate_depth, 2.8),
    _plan("translate_depth", 3, 2, _translate_depth, 2.5),
    _plan("recolour", 1, 1, _recolour),
    _plan("recolour", 2, 2, _recolour),
    _plan("rotate", 1, 1, _rotate, 20.0, "cube"),
    _plan("rotate", 3, 2, _rotate, 45.0, "cube"),
    _plan("resize", 1, 1, _resize),
    _plan("resize", 2, 1, _resize),
    _plan("resize", 2, 2, _resize),
    _plan("orbit", 2, 2, _orbit, 20.0),
    _plan("orbit", 3, 2, _orbit, 40.0),
    _plan("rise", 2, 2, _rise, 1.5),
    _plan("material", 1, 1, _material),
    _plan("material", 2, 2, _material),
    _plan("shape", 2, 1, _shape),
    _plan("shape", 2, 2, _shape),
    _plan("two_changed", 2, 1, _move_and_recolour, 1.2),
    _plan("two_changed", 2, 1, _material_and_color),
    _plan("two_changed", 3, 2, _color_and_other_shape),
    _plan("several_changed", 3, 1, _several, 0.8),
    _plan("several_changed", 4, 2, _several, 0.8),
    _plan("several_changed", 4, 2, _several, 1.6),
    _plan("different_scene", 3, 1, _different, 1),
    _plan("different_scene", 4, 2, _different, 2),
    _plan("different_scene", 4, 2, _different, 1),
    _plan("translate_x", 3, 3, _translate_x, 1.2),
    _plan("rotate", 3, 3, _rotate, 45.0, "cube"),
    _plan("recolour", 3, 3, _recolour),
    _plan("resize", 3, 3, _resize),
    _plan("orbit", 3, 3, _orbit, 20.0),
    _plan("shape", 3, 3, _shape),
    _plan("several_changed", 4, 3, _several, 0.8),
    _plan("different_scene", 4, 3, _different, 3),
)


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


def render_pairs(*, folder: Path, seed: int, renderer: Renderer, plans: Sequence[PairPlan] = PLANS) -> int:
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
