"""The pairs of images that ship: which they are, and how they follow from a seed.

A pair is two scenes of graded difficulty, 1 (a little of one thing changes) to 4 (nothing stays). Kinds that a
motion defines (move, turn, resize, recolour, camera) also have the true frames in between; the others (material,
shape, several attributes, another scene) have none. Every frame of a pair satisfies the rules of `sampling.is_clear`.

`manifest.csv` has a row a pair: `id`, `group`, `difficulty`, `split`, `cluster` (its kind), `image_a`, `image_b`,
`prompt_a`, `prompt_b`, `frames` (folder of the true frames 00.png to 16.png, u = k / 16, or empty), `sha256_a`,
`sha256_b` (of the image files); paths are relative to the manifest. `scenes.jsonl` has `{"id", "a", "b"}` a line, each
scene as `ClevrScene.from_dict` reads it.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from recipes.clevr.rendering.dataset import write_ends, write_manifest
from recipes.clevr.rendering.motion import floor_directions, orbited, risen, scenes_between, translated
from recipes.clevr.rendering.pool import Renderer
from recipes.clevr.rendering.sampling import SceneSampler, is_clear
from recipes.clevr.rendering.scene import COLORS, MATERIALS, SHAPES, SIZES, ClevrScene, caption

FRAMES = 17  # u = k / 16, both ends included
ATTEMPTS = 20_000
TUNED_FIRST = frozenset({"translate_depth", "resize", "two_changed", "several_changed"})
"""The kinds of three pairs of which two are for tuning; of the others two are for evaluation."""
SAMPLER = SceneSampler(large=0.8)

Change = Callable[[ClevrScene, np.random.Generator, float], ClevrScene]
"""Makes the other end from a first scene, a generator and the amount."""


@dataclass(frozen=True)
class PairPlan:
    """What a pair shall be.

    Args:
        group: the kind of change.
        difficulty: 1 to 4.
        objects: number of objects.
        change: makes the other end.
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
            start = start.with_object(0, shape=plan.shape, radius=SIZES["large"])
        second = plan.change(start, generator, plan.amount)
        between = () if plan.change in NO_MOTION else tuple(scenes_between(start, second, FRAMES))
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


def _translate_x(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    return _translated(start, floor_directions(start.camera)[0], _signed(amount, generator))


def _translate_depth(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    return _translated(start, floor_directions(start.camera)[1], _signed(amount, generator))


def _translated(start: ClevrScene, direction: tuple[float, float], amount: float) -> ClevrScene:
    return translated(start, (amount * direction[0], amount * direction[1]))


def _rotate(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    return start.with_object(0, rotation=start.objects[0].rotation + _signed(amount, generator))


def _recolour(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    return start.with_object(0, rgb=COLORS[_other(start.objects[0].color, tuple(COLORS), generator)])


def _resize(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    return start.with_object(0, radius=SIZES[_other(start.objects[0].size, tuple(SIZES), generator)])


def _orbit(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    return orbited(start, _signed(amount, generator))


def _rise(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    return risen(start, _signed(amount, generator))


def _move_and_recolour(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    return _recolour(_translate_x(start, generator, amount), generator, amount)


def _material(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    return start.with_object(0, material=_other(start.objects[0].material, MATERIALS, generator))


def _shape(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    return start.with_object(0, shape=_other(start.objects[0].shape, SHAPES, generator))


def _material_and_color(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    return _recolour(_material(start, generator, amount), generator, amount)


def _color_and_other_shape(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    scene = _recolour(start, generator, amount)
    return scene.with_object(1, shape=_other(scene.objects[1].shape, SHAPES, generator))


def _several(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    """Colour, material, shape and place of every object, the place by up to `amount` along each axis of the floor."""
    scene = start
    for index, item in enumerate(start.objects):
        x, y = (value + float(generator.uniform(-amount, amount)) for value in item.position)
        scene = scene.with_object(
            index,
            position=(x, y),
            rgb=COLORS[_other(item.color, tuple(COLORS), generator)],
            material=_other(item.material, MATERIALS, generator),
            shape=_other(item.shape, SHAPES, generator),
        )
    return scene


def _different(start: ClevrScene, generator: np.random.Generator, amount: float) -> ClevrScene:
    """Another scene, with `amount` objects, other lamps and another camera."""
    return SAMPLER.draw(generator, count=round(amount))


NO_MOTION: frozenset[Change] = frozenset(
    {_material, _shape, _material_and_color, _color_and_other_shape, _several, _different}
)
"""The changes that have no scenes in between."""


def _other(name: str, names: tuple[str, ...], generator: np.random.Generator) -> str:
    return str(generator.choice([candidate for candidate in names if candidate != name]))


def _signed(amount: float, generator: np.random.Generator) -> float:
    return math.copysign(amount, generator.uniform(-1.0, 1.0))


# the first four are a small demonstration of the rest; a turn stays below a cube's symmetry of 90 degrees
PLANS: tuple[PairPlan, ...] = (
    PairPlan("translate_x", 2, 1, _translate_x, 1.6),
    PairPlan("recolour", 2, 1, _recolour),
    PairPlan("rotate", 2, 1, _rotate, 45.0, "cube"),
    PairPlan("different_scene", 4, 1, _different, 2),
    PairPlan("translate_x", 1, 1, _translate_x, 0.8),
    PairPlan("translate_x", 3, 2, _translate_x, 1.8),
    PairPlan("translate_depth", 1, 1, _translate_depth, 1.2),
    PairPlan("translate_depth", 2, 1, _translate_depth, 2.8),
    PairPlan("translate_depth", 3, 2, _translate_depth, 2.5),
    PairPlan("recolour", 1, 1, _recolour),
    PairPlan("recolour", 2, 2, _recolour),
    PairPlan("rotate", 1, 1, _rotate, 20.0, "cube"),
    PairPlan("rotate", 3, 2, _rotate, 45.0, "cube"),
    PairPlan("resize", 1, 1, _resize),
    PairPlan("resize", 2, 1, _resize),
    PairPlan("resize", 2, 2, _resize),
    PairPlan("orbit", 2, 2, _orbit, 20.0),
    PairPlan("orbit", 3, 2, _orbit, 40.0),
    PairPlan("rise", 2, 2, _rise, 1.5),
    PairPlan("material", 1, 1, _material),
    PairPlan("material", 2, 2, _material),
    PairPlan("shape", 2, 1, _shape),
    PairPlan("shape", 2, 2, _shape),
    PairPlan("two_changed", 2, 1, _move_and_recolour, 1.2),
    PairPlan("two_changed", 2, 1, _material_and_color),
    PairPlan("two_changed", 3, 2, _color_and_other_shape),
    PairPlan("several_changed", 3, 1, _several, 0.8),
    PairPlan("several_changed", 4, 2, _several, 0.8),
    PairPlan("several_changed", 4, 2, _several, 1.6),
    PairPlan("different_scene", 3, 1, _different, 1),
    PairPlan("different_scene", 4, 2, _different, 2),
    PairPlan("different_scene", 4, 2, _different, 1),
    PairPlan("translate_x", 3, 3, _translate_x, 1.2),
    PairPlan("rotate", 3, 3, _rotate, 45.0, "cube"),
    PairPlan("recolour", 3, 3, _recolour),
    PairPlan("resize", 3, 3, _resize),
    PairPlan("orbit", 3, 3, _orbit, 20.0),
    PairPlan("shape", 3, 3, _shape),
    PairPlan("several_changed", 4, 3, _several, 0.8),
    PairPlan("different_scene", 4, 3, _different, 3),
)


COLUMNS = (
    *("id", "group", "difficulty", "split", "cluster", "image_a", "image_b", "prompt_a", "prompt_b", "frames"),
    *("sha256_a", "sha256_b"),
)


def render_pairs(*, folder: Path, seed: int, renderer: Renderer, plans: Sequence[PairPlan] = PLANS) -> int:
    """Draw the pair of each plan from (seed, its number), render it and write images, frames, manifest and scenes.

    Returns:
        The number of frames rendered.
    """
    pairs = [draw_pair(plan, np.random.default_rng([seed, number])) for number, plan in enumerate(plans)]
    rows, rendered = {}, 0
    numbered = enumerate(zip(tqdm(pairs, desc="render pairs", unit="pair"), splits(plans), strict=True))
    for number, (pair, split) in numbered:
        name = f"{number:02d}-{pair.plan.group}"
        frames = list(renderer.render(pair.between or (pair.first, pair.second)))
        rendered += len(frames)
        rows[name] = _write_pair(folder, name, pair, frames) | {"split": split, "cluster": pair.plan.group}
    write_manifest(folder, COLUMNS, list(rows.values()))
    write_ends(folder, {name: (pair.first, pair.second) for name, pair in zip(rows, pairs, strict=True)})
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
