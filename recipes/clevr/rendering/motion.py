"""Exact motions: maps from the position u in [0, 1] to a scene, starting at a given scene.

Every motion is closed-form: straight in what it changes (place, turn, radius, RGB, camera height, camera azimuth),
or a half turn about a midpoint for `Swap`. At u = 0 it gives its start, and at u = 1 exactly the announced end.
Motions change nothing else, so the frames of a motion are the true in-between frames of its ends.

`scene_between` gives the scenes between two recorded ends: every motion that has true frames is straight in what it
changes, so they follow from the ends. `Swap`, half a turn of two objects about each other, is the exception.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from recipes.clevr.rendering.scene import Camera, ClevrScene, SceneObject, Vector


@dataclass(frozen=True, kw_only=True)
class Motion(ABC):
    """A path of scenes.

    Args:
        start: the scene at u = 0.
    """

    start: ClevrScene

    def scene(self, u: float) -> ClevrScene:
        """The scene at position u in [0, 1]."""
        if not 0.0 <= u <= 1.0:
            raise ValueError(f"u must lie in [0, 1], got {u}")
        return self.applied(self.start, u)

    def scenes(self, count: int) -> list[ClevrScene]:
        """The scenes at u = k / (count - 1) for k = 0 to count - 1, count >= 2."""
        if count < 2:
            raise ValueError(f"count must be at least 2, to hold both ends, got {count}")
        return [self.scene(k / (count - 1)) for k in range(count)]

    @abstractmethod
    def applied(self, scene: ClevrScene, u: float) -> ClevrScene:
        """`scene` after the part u of this motion."""


@dataclass(frozen=True, kw_only=True)
class _ObjectMotion(Motion):
    """A motion of one object.

    Args:
        index: which object of the scene moves.
    """

    index: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.index < len(self.start.objects):
            raise ValueError(f"index must name one of {len(self.start.objects)} objects, got {self.index}")

    def applied(self, scene: ClevrScene, u: float) -> ClevrScene:
        objects = list(scene.objects)
        objects[self.index] = self.moved(objects[self.index], u)
        return replace(scene, objects=tuple(objects))

    @abstractmethod
    def moved(self, item: SceneObject, u: float) -> SceneObject:
        """The object after the part u of this motion."""


@dataclass(frozen=True, kw_only=True)
class Translate(_ObjectMotion):
    """Moves an object straight over the floor: position + u offset.

    Args:
        offset: (x, y) on the floor, world units; see `floor_directions`.
    """

    offset: tuple[float, float]

    def moved(self, item: SceneObject, u: float) -> SceneObject:
        """The object after the part u of this motion."""
        x, y = item.position
        return replace(item, position=(x + u * self.offset[0], y + u * self.offset[1]))


@dataclass(frozen=True, kw_only=True)
class Rotate(_ObjectMotion):
    """Turns an object about its vertical: rotation + u degrees.

    Args:
        degrees: the whole turn.
    """

    degrees: float

    def moved(self, item: SceneObject, u: float) -> SceneObject:
        """The object after the part u of this motion."""
        return replace(item, rotation=item.rotation + u * self.degrees)


@dataclass(frozen=True, kw_only=True)
class Resize(_ObjectMotion):
    """Grows or shrinks an object on its place: (1 - u) radius + u target.

    Args:
        radius: the radius at u = 1, > 0.
    """

    radius: float

    def moved(self, item: SceneObject, u: float) -> SceneObject:
        """The object after the part u of this motion."""
        return replace(item, radius=_between(item.radius, self.radius, u))


@dataclass(frozen=True, kw_only=True)
class Recolour(_ObjectMotion):
    """Changes an object's colour along the straight line in RGB.

    Args:
        rgb: the colour at u = 1, channels in [0, 1].
    """

    rgb: Vector

    def moved(self, item: SceneObject, u: float) -> SceneObject:
        """The object after the part u of this motion."""
        red, green, blue = (_between(a, b, u) for a, b in zip(item.rgb, self.rgb, strict=True))
        return replace(item, rgb=(red, green, blue))


@dataclass(frozen=True, kw_only=True)
class Swap(Motion):
    """Two objects exchange places, each on a half circle about their midpoint, counter-clockwise seen from above.

    Args:
        first: index of one object.
        second: index of the other.
    """

    first: int = 0
    second: int = 1

    def __post_init__(self) -> None:
        if self.first == self.second or not all(0 <= i < len(self.start.objects) for i in (self.first, self.second)):
            raise ValueError(
                f"first and second must name two of {len(self.start.objects)} objects, got {self.first}, {self.second}"
            )

    def applied(self, scene: ClevrScene, u: float) -> ClevrScene:
        """`scene` after the part u of this motion."""
        objects = list(scene.objects)
        a, b = (scene.objects[index].position for index in (self.first, self.second))
        for index, here, other in ((self.first, a, b), (self.second, b, a)):
            objects[index] = replace(objects[index], position=_half_circle(here, other, u))
        return replace(scene, objects=tuple(objects))


@dataclass(frozen=True, kw_only=True)
class Orbit(Motion):
    """The camera circles about the vertical through its target, at constant height; the lamps stay.

    Args:
        degrees: the whole turn, counter-clockwise seen from above.
    """

    degrees: float

    def applied(self, scene: ClevrScene, u: float) -> ClevrScene:
        """`scene` after the part u of this motion."""
        (x, y, z), (centre_x, centre_y, _) = scene.camera.position, scene.camera.target
        dx, dy = _turned(x - centre_x, y - centre_y, math.radians(u * self.degrees))
        return replace(scene, camera=replace(scene.camera, position=(centre_x + dx, centre_y + dy, z)))


@dataclass(frozen=True, kw_only=True)
class Rise(Motion):
    """The camera rises or sinks on a vertical line and keeps looking at its target.

    Args:
        height: change of the camera's z, world units.
    """

    height: float

    def applied(self, scene: ClevrScene, u: float) -> ClevrScene:
        """`scene` after the part u of this motion."""
        x, y, z = scene.camera.position
        return replace(scene, camera=replace(scene.camera, position=(x, y, z + u * self.height)))


@dataclass(frozen=True, kw_only=True)
class Together(Motion):
    """Several motions at the same time, applied one after the other to the start.

    Args:
        parts: the motions; their own starts are not looked at.
    """

    parts: tuple[Motion, ...]

    def applied(self, scene: ClevrScene, u: float) -> ClevrScene:
        """`scene` after the part u of this motion."""
        for part in self.parts:
            scene = part.applied(scene, u)
        return scene


def floor_directions(camera: Camera) -> tuple[tuple[float, float], tuple[float, float]]:
    """Unit vectors on the floor: to the right in the image, and away from the camera."""
    right, _, view = camera.axes()[:, :2]
    right, view = right / np.linalg.norm(right), view / np.linalg.norm(view)
    return (float(right[0]), float(right[1])), (float(view[0]), float(view[1]))


def _between(a: float, b: float, u: float) -> float:
    return (1.0 - u) * a + u * b


def _turned(x: float, y: float, angle: float) -> tuple[float, float]:
    return (math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y)


def _half_circle(here: tuple[float, float], other: tuple[float, float], u: float) -> tuple[float, float]:
    if u == 1.0:
        return other  # the rounded cosine and sine of a half turn miss it by an ulp
    middle = ((here[0] + other[0]) / 2, (here[1] + other[1]) / 2)
    dx, dy = _turned(here[0] - middle[0], here[1] - middle[1], math.pi * u)
    return (middle[0] + dx, middle[1] + dy)


def scene_between(first: ClevrScene, second: ClevrScene, u: float) -> ClevrScene:
    """The scene at `u` in [0, 1] of the motion from one scene to another with the same objects in the same order.

    Raises:
        ValueError: when the scenes differ in number, shape or material of the objects.
    """
    kinds = [[(item.shape, item.material) for item in scene.objects] for scene in (first, second)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"the two scenes must show the same objects, got {kinds[0]} and {kinds[1]}")
    objects = tuple(_object_between(a, b, u) for a, b in zip(first.objects, second.objects, strict=True))
    return replace(first, objects=objects, camera=_camera_between(first.camera, second.camera, u))


def floor_position(camera: Camera, pixel: tuple[float, float], height: float) -> tuple[float, float]:
    """The (x, y) of the point at a height above the floor that the camera shows at `pixel`, in [0, 1]^2, y down."""
    scale = camera.lens / camera.sensor
    offsets = np.array([(pixel[0] - 0.5) / scale, (0.5 - camera.shift - pixel[1]) / scale, 1.0])
    ray = offsets @ camera.axes()
    x, y, _ = np.add(camera.position, ray * (height - camera.position[2]) / ray[2])
    return (float(x), float(y))


def _object_between(a: SceneObject, b: SceneObject, u: float) -> SceneObject:
    red, green, blue = (_between(start, end, u) for start, end in zip(a.rgb, b.rgb, strict=True))
    return replace(
        a,
        position=(_between(a.position[0], b.position[0], u), _between(a.position[1], b.position[1], u)),
        radius=_between(a.radius, b.radius, u),
        rotation=_between(a.rotation, b.rotation, u),
        rgb=(red, green, blue),
    )


def _camera_between(a: Camera, b: Camera, u: float) -> Camera:
    (distance, azimuth, z), (other_distance, other_azimuth, other_z) = (
        _around(camera.position, a.target) for camera in (a, b)
    )
    turn = math.remainder(other_azimuth - azimuth, 2 * math.pi)
    distance, azimuth = _between(distance, other_distance, u), azimuth + u * turn
    x, y = a.target[0] + distance * math.cos(azimuth), a.target[1] + distance * math.sin(azimuth)
    return replace(a, position=(x, y, _between(z, other_z, u)))


def _around(position: Vector, target: Vector) -> Vector:
    """Distance from the vertical through the target, azimuth about it, and height."""
    dx, dy = position[0] - target[0], position[1] - target[1]
    return (math.hypot(dx, dy), math.atan2(dy, dx), position[2])
