"""The videos that ship: which they are, and how they follow from a seed.

A video has `FRAMES` frames at u = k / (FRAMES - 1). Most show one exact motion of one thing (ten kinds); in
`crossing` two objects pass each other and the nearer hides the farther, in `appear` an object grows from nothing, in
`enter` it slides in from outside the frame. The controls are made from the frames of those and are no motion of
anything: `shuffled` (the inner frames in another order), `cut` (the first half of one video and the second of
another), `crossfade` (the mean of the first and the last frame, pixel by pixel, with weights 1 - u and u).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np
from jaxtyping import UInt8

from recipes.clevr.rendering.captions import caption
from recipes.clevr.rendering.motion import Motion, Resize, Together, Translate, floor_directions
from recipes.clevr.rendering.pairs import FRAMES, PLANS, Plan, draw_pair
from recipes.clevr.rendering.sampling import MIN_DISTANCE, SceneSampler, is_clear
from recipes.clevr.rendering.scene import SIZES, Scene, SceneObject

__all__ = ["CONTROLS", "FRAMES", "VIDEOS", "Clip", "Control", "Frames", "VideoPlan", "crossfade", "cut", "shuffled"]

ATTEMPTS = 20_000
SPECK = 0.005  # radius of an object that is not there yet, world units: a sixth of a pixel wide
CLOSEST = 0.75  # of the sum of their radii in the image: how near two objects come that are to hide one another
SAMPLER = SceneSampler(counts={1: 0.5, 2: 0.5}, large=0.8)

Frames = UInt8[np.ndarray, "n h w 3"]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The scenes of one video, and what its first and its last frame show, in words."""

    scenes: tuple[Scene, ...]
    prompt_a: str
    prompt_b: str


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """A video to be drawn: its kind, and how its scenes follow from a generator."""

    kind: str
    draw: Callable[[np.random.Generator], Clip]


@dataclass(frozen=True, kw_only=True)
class Control:
    """A video made of the frames of others.

    Args:
        kind: what it is.
        sources: numbers of the videos whose frames it takes, in the order in which `make` gets them.
        make: its frames from theirs and a generator.
    """

    kind: str
    sources: tuple[int, ...]
    make: Callable[[Sequence[Frames], np.random.Generator], Frames]


def shuffled(sources: Sequence[Frames], generator: np.random.Generator) -> Frames:
    """Both ends in their places, the frames between in an order in which no two neighbours stay neighbours."""
    (frames,) = sources
    while True:
        order = np.array([0, *(1 + generator.permutation(len(frames) - 2)), len(frames) - 1])
        if (np.abs(np.diff(order)) > 1).all():
            shuffle: Frames = frames[order]
            return shuffle


def cut(sources: Sequence[Frames], generator: np.random.Generator) -> Frames:
    """The first half of one video, then the second half of another."""
    first, second = sources
    half = (len(first) + 1) // 2
    return np.concatenate([first[:half], second[half:]])


def crossfade(sources: Sequence[Frames], generator: np.random.Generator) -> Frames:
    """The first frame fades into the last: (1 - u) a + u b in each pixel, rounded."""
    (frames,) = sources
    u = np.linspace(0.0, 1.0, len(frames))[:, None, None, None]
    fade: Frames = np.rint((1.0 - u) * frames[0] + u * frames[-1]).astype(np.uint8)
    return fade


def _clip(motion: Motion, *, first: Scene | None = None) -> Clip:
    """The clip of a motion; `first` is what its first frame shows where that is not its first scene."""
    scenes = tuple(motion.scenes(FRAMES))
    return Clip(scenes=scenes, prompt_a=caption(first or scenes[0]), prompt_b=caption(scenes[-1]))


def _drawn(attempt: Callable[[np.random.Generator], Clip | None], generator: np.random.Generator) -> Clip:
    """The first attempt that succeeds."""
    for _ in range(ATTEMPTS):
        clip = attempt(generator)
        if clip is not None:
            return clip
    raise ValueError(f"no clear clip in {ATTEMPTS} attempts")


def _as_pair(plan: Plan, generator: np.random.Generator) -> Clip:
    """A motion of the kinds that the shipped pairs know."""
    pair = draw_pair(plan, generator)
    return Clip(scenes=pair.between, prompt_a=caption(pair.first), prompt_b=caption(pair.second))


def _crossing(generator: np.random.Generator) -> Clip | None:
    """Two large objects pass each other side by side, each by as much, the nearer in front of the farther."""
    scene = SceneSampler(large=1.0).draw(generator, count=2)
    right, away = (np.array(direction) for direction in floor_directions(scene.camera))
    reach, depth, shift = generator.uniform(0.9, 1.15), generator.uniform(1.7, 2.0), generator.uniform(-0.4, 0.4)
    near = -reach * right + (shift - depth / 2) * away
    far = reach * right + (shift + depth / 2) * away
    start = replace(
        scene, objects=tuple(_at(item, place) for item, place in zip(scene.objects, (near, far), strict=True))
    )
    parts = tuple(
        Translate(start=start, index=index, offset=_pair(sign * 2 * reach * right)) for index, sign in ((0, 1), (1, -1))
    )
    clip = _clip(Together(start=start, parts=parts))
    one, other = (item.color for item in start.objects)
    passes = min(_nearness(scene) for scene in clip.scenes) < CLOSEST
    return clip if passes and one != other and is_clear(start) and is_clear(clip.scenes[-1]) else None


def _appear(generator: np.random.Generator) -> Clip | None:
    """The first of two objects grows from nothing to a large one on its place."""
    end = SAMPLER.draw(generator, count=2)
    item, *others = end.objects
    end = replace(end, objects=(replace(item, radius=SIZES["large"]), *others))
    if not is_clear(end):
        return None
    start = replace(end, objects=(replace(end.objects[0], radius=SPECK), *others))
    return _clip(Resize(start=start, radius=SIZES["large"]), first=replace(end, objects=tuple(others)))


def _enter(generator: np.random.Generator) -> Clip | None:
    """The first of two objects slides in from beyond the nearer side of the frame, past the other."""
    end = SAMPLER.draw(generator, count=2)
    item = end.objects[0]
    side = math.copysign(1.0, end.camera.project(item.centre)[0] - 0.5)
    right = np.array(floor_directions(end.camera)[0])
    for distance in np.arange(0.5, 6.0, 0.1):
        outside = _at(item, np.array(item.position) + side * distance * right)
        x, radius = end.camera.project(outside.centre)[0], end.camera.projected_radius(outside.centre, outside.reach)
        if not -radius < x < 1.0 + radius:
            start = replace(end, objects=(outside, *end.objects[1:]))
            motion = Translate(start=start, offset=_pair(-side * distance * right))
            clip = _clip(motion, first=replace(end, objects=end.objects[1:]))
            return clip if all(_apart(scene) for scene in clip.scenes) else None
    return None


def _at(item: SceneObject, place: np.ndarray) -> SceneObject:
    return replace(item, position=_pair(place))


def _pair(vector: np.ndarray) -> tuple[float, float]:
    return (float(vector[0]), float(vector[1]))


def _nearness(scene: Scene) -> float:
    """The distance in the image of two objects' centres, as a share of the sum of their radii there."""
    first, second = scene.objects
    radii = sum(scene.camera.projected_radius(item.centre, item.radius) for item in scene.objects)
    return math.dist(scene.camera.project(first.centre), scene.camera.project(second.centre)) / radii


def _apart(scene: Scene) -> bool:
    """Whether no object touches or hides another."""
    gaps = (
        math.dist(one.position, other.position) - one.radius - other.radius
        for one, other in combinations(scene.objects, 2)
    )
    return min(gaps) >= MIN_DISTANCE and _nearness(scene) >= 1.0


_TEMPLATES: Mapping[str, Plan] = {plan.group: plan for plan in reversed(PLANS)}


def _moved(kind: str, objects: int, amount: float = 0.0) -> VideoPlan:
    return VideoPlan(kind=kind, draw=partial(_as_pair, replace(_TEMPLATES[kind], objects=objects, amount=amount)))


def _posed(kind: str, attempt: Callable[[np.random.Generator], Clip | None]) -> VideoPlan:
    return VideoPlan(kind=kind, draw=partial(_drawn, attempt))


# amounts in world units and degrees; a turn stays below a cube's symmetry of 90 degrees
VIDEOS: tuple[VideoPlan, ...] = (
    _moved("translate_x", 1, 1.0),
    _moved("translate_x", 1, 1.7),
    _moved("translate_x", 2, 1.2),
    _moved("translate_x", 2, 1.7),
    _moved("translate_depth", 1, 1.6),
    _moved("translate_depth", 1, 2.8),
    _moved("translate_depth", 2, 1.8),
    _moved("translate_depth", 2, 2.5),
    _moved("rotate", 1, 30.0),
    _moved("rotate", 1, 60.0),
    _moved("rotate", 2, 45.0),
    _moved("rotate", 2, 60.0),
    _moved("resize", 1),
    _moved("resize", 1),
    _moved("resize", 2),
    _moved("resize", 2),
    _moved("recolour", 1),
    _moved("recolour", 1),
    _moved("recolour", 2),
    _moved("recolour", 2),
    _moved("orbit", 1, 30.0),
    _moved("orbit", 2, 20.0),
    _moved("orbit", 2, 30.0),
    _moved("orbit", 2, 40.0),
    _moved("rise", 1, 1.5),
    _moved("rise", 1, 2.0),
    _moved("rise", 2, 1.0),
    _moved("rise", 2, 1.5),
    *[_posed("crossing", _crossing)] * 4,
    *[_posed("appear", _appear)] * 4,
    *[_posed("enter", _enter)] * 4,
)

CONTROLS: tuple[Control, ...] = (
    *(Control(kind="shuffled", sources=(number,), make=shuffled) for number in (1, 5, 18, 23)),
    *(Control(kind="cut", sources=pair, make=cut) for pair in ((0, 22), (14, 5), (29, 10), (17, 26))),
    *(Control(kind="crossfade", sources=(number,), make=crossfade) for number in (1, 5, 23, 36)),
)
