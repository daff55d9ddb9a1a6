"""Exact motions: the scenes at the positions u in [0, 1] between two scenes of the same objects.

Every motion is straight in what it changes: place, turn, radius and RGB of an object, height of the camera and its
azimuth about the vertical through its target. So its scenes follow from its two ends, whether these are recorded or
made here, the second from the first. Motions change nothing else: the frames of a motion are the true in-between frames
of its ends.
"""

import math
from dataclasses import replace

import numpy as np

from recipes.clevr.rendering.scene import Camera, ClevrScene, SceneObject, Vector


def translated(scene: ClevrScene, offset: tuple[float, float], *, index: int = 0) -> ClevrScene:
    """An object moved straight over the floor by (x, y) in world units; see `floor_directions`."""
    x, y = scene.objects[index].position
    return scene.with_object(index, position=(x + offset[0], y + offset[1]))


def orbited(scene: ClevrScene, degrees: float) -> ClevrScene:
    """The camera on a circle about the vertical through its target, at the same height; the lamps stay.

    Args:
        scene: before.
        degrees: the turn, counter-clockwise seen from above; less than half a circle, since the way back is shorter.
    """
    if not -180.0 < degrees < 180.0:
        raise ValueError(f"degrees must be less than half a circle, got {degrees}")
    (x, y, z), (centre_x, centre_y, _) = scene.camera.position, scene.camera.target
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    dx, dy = cosine * (x - centre_x) - sine * (y - centre_y), sine * (x - centre_x) + cosine * (y - centre_y)
    return replace(scene, camera=replace(scene.camera, position=(centre_x + dx, centre_y + dy, z)))


def risen(scene: ClevrScene, height: float) -> ClevrScene:
    """The camera higher or lower on a vertical line, in world units, still looking at its target."""
    x, y, z = scene.camera.position
    return replace(scene, camera=replace(scene.camera, position=(x, y, z + height)))


def scenes_between(first: ClevrScene, second: ClevrScene, count: int) -> list[ClevrScene]:
    """The scenes of a motion at u = k / (count - 1) for k = 0 to count - 1, count >= 2; see `scene_between`."""
    if count < 2:
        raise ValueError(f"count must be at least 2, to hold both ends, got {count}")
    return [scene_between(first, second, k / (count - 1)) for k in range(count)]


def scene_between(first: ClevrScene, second: ClevrScene, u: float) -> ClevrScene:
    """The scene at `u` in [0, 1] of the motion from one scene to another with the same objects in the same order.

    At 0 and 1 it is exactly the one or the other.

    Raises:
        ValueError: when the scenes differ in number, shape or material of the objects.
    """
    if not 0.0 <= u <= 1.0:
        raise ValueError(f"u must lie in [0, 1], got {u}")
    kinds = [[(item.shape, item.material) for item in scene.objects] for scene in (first, second)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"the two scenes must show the same objects, got {kinds[0]} and {kinds[1]}")
    if u in (0.0, 1.0):
        return second if u else first
    objects = tuple(_object_between(a, b, u) for a, b in zip(first.objects, second.objects, strict=True))
    return replace(first, objects=objects, camera=_camera_between(first.camera, second.camera, u))


def floor_directions(camera: Camera) -> tuple[tuple[float, float], tuple[float, float]]:
    """Unit vectors on the floor: to the right in the image, and away from the camera."""
    right, _, view = camera.axes()[:, :2]
    right, view = right / np.linalg.norm(right), view / np.linalg.norm(view)
    return (float(right[0]), float(right[1])), (float(view[0]), float(view[1]))


def floor_position(camera: Camera, pixel: tuple[float, float], height: float) -> tuple[float, float]:
    """The (x, y) of the point at a height above the floor that the camera shows at `pixel`, in [0, 1]^2, y down."""
    scale = camera.lens / camera.sensor
    offsets = np.array([(pixel[0] - 0.5) / scale, (0.5 - camera.shift - pixel[1]) / scale, 1.0])
    ray = offsets @ camera.axes()
    x, y, _ = np.add(camera.position, ray * (height - camera.position[2]) / ray[2])
    return (float(x), float(y))


def _between(a: float, b: float, u: float) -> float:
    return (1.0 - u) * a + u * b


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
