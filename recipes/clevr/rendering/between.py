"""What lies between the two recorded ends of a motion, and where on the floor an image shows an object.

Every motion that has true frames is straight in what changes (`motion`): place, radius, colour and turn of an object,
and the camera's height and azimuth about its target. So its scenes follow from the recorded ends. `Swap`, half a turn
of two objects about each other, is the exception.
"""

import math
from dataclasses import replace

import numpy as np

from recipes.clevr.rendering.scene import Camera, Scene, SceneObject, Vector

__all__ = ["floor_position", "scene_between"]


def scene_between(first: Scene, second: Scene, u: float) -> Scene:
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
    red, green, blue = (_mix(start, end, u) for start, end in zip(a.rgb, b.rgb, strict=True))
    return replace(
        a,
        position=(_mix(a.position[0], b.position[0], u), _mix(a.position[1], b.position[1], u)),
        radius=_mix(a.radius, b.radius, u),
        rotation=_mix(a.rotation, b.rotation, u),
        rgb=(red, green, blue),
    )


def _camera_between(a: Camera, b: Camera, u: float) -> Camera:
    (distance, azimuth, z), (other_distance, other_azimuth, other_z) = (
        _around(camera.position, a.target) for camera in (a, b)
    )
    turn = math.remainder(other_azimuth - azimuth, 2 * math.pi)
    distance, azimuth = _mix(distance, other_distance, u), azimuth + u * turn
    x, y = a.target[0] + distance * math.cos(azimuth), a.target[1] + distance * math.sin(azimuth)
    return replace(a, position=(x, y, _mix(z, other_z, u)))


def _around(position: Vector, target: Vector) -> Vector:
    """Distance from the vertical through the target, azimuth about it, and height."""
    dx, dy = position[0] - target[0], position[1] - target[1]
    return (math.hypot(dx, dy), math.atan2(dy, dx), position[2])


def _mix(a: float, b: float, u: float) -> float:
    return (1.0 - u) * a + u * b
