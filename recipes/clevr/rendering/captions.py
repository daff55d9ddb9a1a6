"""Captions of scenes: "a large red rubber cube and a small yellow metal cylinder".

An object is named by size, colour, material and shape, in CLEVR's order of words; sizes and colours between the
published ones take the name of the nearest. Training sees a random variant: objects in any order, now and then
without size or material, never without colour and shape.
"""

from collections.abc import Collection, Sequence

import numpy as np

from recipes.clevr.rendering.scene import Scene, SceneObject

__all__ = ["DROPPABLE", "caption", "random_caption"]

DROPPABLE: frozenset[str] = frozenset({"size", "material"})


def caption(scene: Scene, *, order: Sequence[int] | None = None, drop: Collection[str] = ()) -> str:
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


def random_caption(scene: Scene, generator: np.random.Generator, *, drop_share: float = 0.2) -> str:
    """A caption with the objects in random order; with probability `drop_share` it lacks size, material or both."""
    drop: Collection[str] = ()
    if generator.random() < drop_share:
        drop = (("size",), ("material",), ("size", "material"))[int(generator.integers(3))]
    return caption(scene, order=[int(index) for index in generator.permutation(len(scene.objects))], drop=drop)


def _phrase(item: SceneObject, drop: Collection[str]) -> str:
    words = {"size": item.size, "color": item.color, "material": item.material, "shape": item.shape}
    return " ".join(["a", *(word for name, word in words.items() if name not in drop)])
