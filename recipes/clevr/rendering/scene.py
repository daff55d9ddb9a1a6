"""A CLEVR scene as plain data, its captions, and the pinhole projection that says where its objects land.

World coordinates: the floor is the plane z = 0, z points up, one unit is the unit of CLEVR's base scene. An object
of radius r rests on the floor with its centre at height r (a cube, whose half edge is r / sqrt(2), at that height),
turned about the vertical by `rotation` degrees. Colours are RGB triples in [0, 1], used by the renderer as they are,
as CLEVR does.

Image coordinates: (x, y) in [0, 1]^2, x to the right, y down, the image being square. CLEVR's frames are 320 x 240
with a 32 mm sensor; ours are the square of 120 x 120 pixels in their middle, which is the same lens on a sensor of
12 mm. That is a tighter crop than the 192 x 192 pixels which the object-centric literature takes (Locatello et al.
2020): at 128 pixels a small cube is then two dozen pixels wide instead of fourteen, and can be told from a cylinder.

References: Johnson et al., CLEVR, 2017, arXiv 1612.06890; Locatello et al., Object-Centric Learning with Slot
Attention, 2020, arXiv 2006.15055 (the crop).
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

Vector = tuple[float, float, float]

SHAPES: tuple[str, ...] = ("cube", "sphere", "cylinder")
MATERIALS: tuple[str, ...] = ("rubber", "metal")
SIZES: dict[str, float] = {"large": 0.7, "small": 0.35}
COLORS: dict[str, Vector] = {
    name: (red / 255, green / 255, blue / 255)
    for name, (red, green, blue) in {
        "gray": (87, 87, 87),
        "red": (173, 35, 35),
        "blue": (42, 75, 215),
        "green": (29, 105, 20),
        "brown": (129, 74, 25),
        "purple": (129, 38, 192),
        "cyan": (41, 208, 208),
        "yellow": (255, 238, 51),
    }.items()
}


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object on the floor.

    Args:
        shape: one of `SHAPES`.
        rgb: colour, each channel in [0, 1].
        radius: size r > 0 in world units; CLEVR's are 0.7 (large) and 0.35 (small).
        material: one of `MATERIALS`.
        position: (x, y) of the centre on the floor, world units.
        rotation: turn about the vertical, degrees.
    """

    shape: str
    rgb: Vector
    radius: float
    material: str
    position: tuple[float, float]
    rotation: float = 0.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {self.shape!r}")
        if self.material not in MATERIALS:
            raise ValueError(f"material must be one of {', '.join(MATERIALS)}, got {self.material!r}")
        if not 0.0 < self.radius < math.inf:
            raise ValueError(f"radius must be positive, got {self.radius}")
        if len(self.rgb) != 3 or not all(0.0 <= channel <= 1.0 for channel in self.rgb):
            raise ValueError(f"rgb must be three channels in [0, 1], got {self.rgb}")

    @property
    def color(self) -> str:
        """The published colour nearest to `rgb` (Euclidean distance in RGB)."""
        return min(COLORS, key=lambda name: math.dist(COLORS[name], self.rgb))

    @property
    def size(self) -> str:
        """The published size nearest to `radius`."""
        return min(SIZES, key=lambda name: abs(SIZES[name] - self.radius))

    @property
    def half_height(self) -> float:
        """Height of the centre above the floor, world units."""
        return self.radius / math.sqrt(2) if self.shape == "cube" else self.radius

    @property
    def reach(self) -> float:
        """Radius of the ball about the centre that holds the object, world units."""
        factor = {"sphere": 1.0, "cube": math.sqrt(3 / 2), "cylinder": math.sqrt(2)}[self.shape]
        return factor * self.radius

    @property
    def centre(self) -> Vector:
        """Centre in the world."""
        return (*self.position, self.half_height)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera that looks from `position` at `target`, the image's upright being the world's z.

    Args:
        position: world units; the default is CLEVR's.
        target: the point looked at, world units.
        lens: focal length, mm.
        sensor: width of the square sensor, mm.
        shift: downward shift of the frame, as a share of its height.
    """

    position: Vector = (7.48113, -6.50764, 5.34367)
    target: Vector = (0.0, 0.0, 0.0)
    lens: float = 35.0
    sensor: float = 12.0
    shift: float = 0.0

    def axes(self) -> Float[np.ndarray, "3 3"]:
        """Rows: the directions in the world of the image's right, the image's up, and the view; read only."""
        return self._axes

    @cached_property
    def _axes(self) -> Float[np.ndarray, "3 3"]:
        # a scene is placed by thousands of projections through one camera
        view = np.subtract(self.target, self.position)
        view = view / np.linalg.norm(view)
        right = np.cross(view, (0.0, 0.0, 1.0))
        right = right / np.linalg.norm(right)
        axes = np.stack([right, np.cross(right, view), view])
        axes.setflags(write=False)
        return axes

    def project(self, point: Vector) -> tuple[float, float]:
        """Image coordinates (x, y) of a point of the world; inside the frame when both lie in [0, 1]."""
        right, up, depth = self.axes() @ np.subtract(point, self.position)
        scale = self.lens / self.sensor / depth
        return (float(0.5 + scale * right), float(0.5 - self.shift - scale * up))

    def projected_radius(self, centre: Vector, radius: float) -> float:
        """Radius in the image, as a share of the frame, of a ball of given centre and radius, for a distant camera."""
        depth = float(self.axes()[2] @ np.subtract(centre, self.position))
        return self.lens / self.sensor * radius / depth


@dataclass(frozen=True, kw_only=True)
class Lights:
    """Places of CLEVR's three area lamps, world units; all of them point at the origin."""

    key: Vector = (6.44671, -2.90517, 4.2584)
    fill: Vector = (-4.67112, -4.0136, 3.01122)
    back: Vector = (-1.1685, 2.64602, 5.81574)


@dataclass(frozen=True, kw_only=True)
class ClevrScene:
    """Objects, camera and lights: everything that decides a rendered frame but its resolution and sample count."""

    objects: tuple[SceneObject, ...]
    camera: Camera = field(default_factory=Camera)
    lights: Lights = field(default_factory=Lights)

    def pixels(self) -> list[tuple[float, float]]:
        """Image coordinates of the objects' centres, in the order of the objects."""
        return [self.camera.project(item.centre) for item in self.objects]

    def with_object(self, index: int, **changes: Any) -> "ClevrScene":
        """The scene with some fields of one of its objects changed."""
        if not 0 <= index < len(self.objects):
            raise ValueError(f"index must name one of {len(self.objects)} objects, got {index}")
        changed = replace(self.objects[index], **changes)
        return replace(self, objects=(*self.objects[:index], changed, *self.objects[index + 1 :]))

    def to_dict(self) -> dict[str, Any]:
        """A nested dictionary of numbers, strings and lists that `from_dict` reads."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def to_json(self) -> str:
        """`to_dict` on one line."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "ClevrScene":
        """The scene that `to_dict` wrote."""
        return cls(
            objects=tuple(SceneObject(**_with_tuples(item)) for item in record["objects"]),
            camera=Camera(**_with_tuples(record["camera"])),
            lights=Lights(**_with_tuples(record["lights"])),
        )


def _with_tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}


DROPPABLE: frozenset[str] = frozenset({"size", "material"})


def caption(scene: ClevrScene, *, order: Sequence[int] | None = None, drop: Collection[str] = ()) -> str:
    """The caption of a scene.

    Args:
        scene: the scene, with at least one object.
        order: the objects' indices in the order in which they are named; by default that of the scene.
        drop: attributes that are left out, of `DROPPABLE`.

    Raises:
        ValueError: when `drop` holds something else or `order` is no permutation.
    """
    order = range(len(scene.objects)) if order is None else order
    if not set(drop) <= DROPPABLE:
        raise ValueError(f"drop may hold {', '.join(sorted(DROPPABLE))}, got {sorted(drop)}")
    if sorted(order) != list(range(len(scene.objects))):
        raise ValueError(f"order must be a permutation of the {len(scene.objects)} objects, got {list(order)}")
    *others, last = (_phrase(scene.objects[index], drop) for index in order)
    return f"{', '.join(others)} and {last}" if others else last


def random_caption(scene: ClevrScene, generator: np.random.Generator, *, drop_share: float = 0.2) -> str:
    """A caption with the objects in random order; with probability `drop_share` it lacks size, material or both."""
    drop: Collection[str] = ()
    if generator.random() < drop_share:
        drop = (("size",), ("material",), ("size", "material"))[int(generator.integers(3))]
    return caption(scene, order=[int(index) for index in generator.permutation(len(scene.objects))], drop=drop)


def _phrase(item: SceneObject, drop: Collection[str]) -> str:
    words = {"size": item.size, "color": item.color, "material": item.material, "shape": item.shape}
    return " ".join(["a", *(word for name, word in words.items() if name not in drop)])
