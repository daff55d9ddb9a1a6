"""Random scenes after CLEVR's rules: scene i of seed s depends on the pair (s, i) and on nothing else.

Numbers, shapes, sizes, colours and materials are drawn first, then places and turns, uniform, one object after another
so that
1. the ball about each object that just holds it lies inside the frame,
2. two objects are at least 0.25 apart (CLEVR's `min_dist`) between their bounding circles on the floor,
3. along the image's right and along the view, both on the floor, their centres differ by 0.4 (CLEVR's `margin`),
4. the distance of their centres in the image is at least 0.85 of the sum of the radii of the balls of rule 1, so that
   neither is hidden. CLEVR counts visible pixels instead; this rule is stricter and needs no renderer.

Where the second object breaks a rule both places are drawn again, which makes the places of two uniform among all that
keep the rules. That would take thousands of draws for three large objects, so each object from the third on is tried at
`TRIES` places before all are drawn again, and where `ATTEMPTS` draws of all find none (the camera came too near for
three that large) lamps, camera and objects are drawn anew.

References: Johnson et al., CLEVR, 2017, arXiv 1612.06890, appendix A.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from latent_geodesics.core.errors import UserError
from recipes.clevr.rendering.scene import COLORS, MATERIALS, SIZES, Camera, ClevrScene, Lights, SceneObject, Vector

REACH = 3.0  # half width of the square of the floor on which CLEVR places objects
MIN_DISTANCE = 0.25
MARGIN = 0.4
MIN_BALL_SEPARATION = 0.85
CORNER = 1.2  # how far the rim of a cylinder reaches beyond its radius, as the camera sees it
IN_VIEW = 10_000  # draws of a place before an object is taken to be too large for the frame
ATTEMPTS = 2_000  # placements of all objects before the scene is drawn anew
TRIES = 20  # places of the third object and of those after it in one placement
REDRAWS = 5  # scenes before the number of objects is taken to be too large


@dataclass(frozen=True, kw_only=True)
class SceneSampler:
    """Draws scenes: counts, shapes and sizes by weight, the rest uniformly, lamps and camera jittered.

    Args:
        counts: weight of each number of objects.
        shapes: weight of each shape; cubes lead because a small image model learns them last.
        large: probability of a large object, in [0, 1].
        camera_jitter: half width of the uniform jitter of each camera coordinate, world units (CLEVR: 0.5).
        lamp_jitter: the same for the lamps (CLEVR: 1.0).
    """

    counts: Mapping[int, float] = field(default_factory=lambda: {1: 0.5, 2: 0.5})
    shapes: Mapping[str, float] = field(default_factory=lambda: {"cube": 0.4, "sphere": 0.3, "cylinder": 0.3})
    large: float = 0.6
    camera_jitter: float = 0.5
    lamp_jitter: float = 1.0

    def __post_init__(self) -> None:
        weights = self.counts.values()
        if min(self.counts, default=0) < 1 or min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise UserError(
                "counts must give weights >= 0, one of them above 0, to numbers of objects >= 1 (such as "
                f"{{1: 0.5, 2: 0.5}}), got {dict(self.counts)}"
            )
        if not 0.0 <= self.large <= 1.0:
            raise ValueError(f"large must be a probability in [0, 1], got {self.large}")

    def scene(self, *, seed: int, index: int) -> ClevrScene:
        """ClevrScene number `index` of the sequence of `seed`."""
        return self.draw(np.random.default_rng([seed, index]))

    def draw(self, generator: np.random.Generator, *, count: int | None = None) -> ClevrScene:
        """A scene from the generator, with `count` objects where that is given.

        Raises:
            ValueError: when `count` is below 1.
            UserError: when so many objects do not fit into the frame.
        """
        if count is not None and count < 1:
            raise ValueError(f"count must be >= 1, got {count}")
        number = count
        for _ in range(REDRAWS):
            camera = Camera(position=_jittered(Camera().position, self.camera_jitter, generator))
            lights = Lights(
                key=_jittered(Lights().key, self.lamp_jitter, generator),
                fill=_jittered(Lights().fill, self.lamp_jitter, generator),
                back=_jittered(Lights().back, self.lamp_jitter, generator),
            )
            # kept when the rest is drawn anew, so that the shares of the numbers are as asked
            number = int(_weighted(self.counts, generator)) if number is None else number
            objects = _all_placed([self._object(generator) for _ in range(number)], camera, generator)
            if objects is not None:
                return ClevrScene(objects=objects, camera=camera, lights=lights)
        raise UserError(f"{number} objects found no clear places in {REDRAWS} scenes: ask for fewer (task.counts).")

    def _object(self, generator: np.random.Generator) -> SceneObject:
        return SceneObject(
            shape=str(_weighted(self.shapes, generator)),
            rgb=COLORS[str(generator.choice(list(COLORS)))],
            radius=SIZES["large" if generator.random() < self.large else "small"],
            material=str(generator.choice(MATERIALS)),
            position=(0.0, 0.0),
        )


def is_clear(scene: ClevrScene) -> bool:
    """Whether every object is in view and none touches, lines up with or hides another (the module's four rules)."""
    return all(_in_view(scene.camera, item) for item in scene.objects) and all(
        _apart(scene.camera, first, second) for first, second in combinations(scene.objects, 2)
    )


def _all_placed(
    items: Sequence[SceneObject], camera: Camera, generator: np.random.Generator
) -> tuple[SceneObject, ...] | None:
    """The objects at clear places; None when there are none to be found."""
    for _ in range(ATTEMPTS):
        placed: list[SceneObject] = []
        for index, item in enumerate(items):
            free = _free(item, placed, camera, generator, tries=1 if index < 2 else TRIES)
            if free is None:
                break
            placed.append(free)
        else:
            return tuple(placed)
    return None


def _free(
    item: SceneObject, others: Sequence[SceneObject], camera: Camera, generator: np.random.Generator, *, tries: int
) -> SceneObject | None:
    """The object at a place in view and apart from the others; None when no one of so many places is."""
    for _ in range(tries):
        candidate = _placed(item, camera, generator)
        if all(_apart(camera, other, candidate) for other in others):
            return candidate
    return None


def _placed(item: SceneObject, camera: Camera, generator: np.random.Generator) -> SceneObject:
    """The object at a place in view, wherever the others are."""
    for _ in range(IN_VIEW):
        x, y = (float(value) for value in generator.uniform(-REACH, REACH, size=2))
        placed = replace(item, position=(x, y), rotation=float(generator.uniform(0.0, 360.0)))
        if _in_view(camera, placed):
            return placed
    raise ValueError(f"no place in view for an object of radius {item.radius}: move the camera away")


def _in_view(camera: Camera, item: SceneObject) -> bool:
    radius = camera.projected_radius(item.centre, CORNER * item.radius)
    return all(radius <= coordinate <= 1.0 - radius for coordinate in camera.project(item.centre))


def _apart(camera: Camera, first: SceneObject, second: SceneObject) -> bool:
    if math.dist(first.position, second.position) < first.radius + second.radius + MIN_DISTANCE:
        return False
    right, _, view = camera.axes()[:, :2]
    offset = np.subtract(second.position, first.position)
    if min(abs(right @ offset) / np.linalg.norm(right), abs(view @ offset) / np.linalg.norm(view)) < MARGIN:
        return False
    balls = sum(camera.projected_radius(item.centre, item.reach) for item in (first, second))
    return math.dist(camera.project(first.centre), camera.project(second.centre)) >= MIN_BALL_SEPARATION * balls


def _jittered(place: Vector, width: float, generator: np.random.Generator) -> Vector:
    x, y, z = (float(value) for value in np.add(place, generator.uniform(-width, width, size=3)))
    return (x, y, z)


def _weighted(weights: Mapping[int, float] | Mapping[str, float], generator: np.random.Generator) -> int | str:
    choices: Sequence[int | str] = list(weights)
    shares = np.array(list(weights.values()), dtype=float)
    return choices[int(generator.choice(len(choices), p=shares / shares.sum()))]
