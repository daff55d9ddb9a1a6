"""Which paths a run of distances needs: all pairs of the collection, the known changes, and what ties them together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np

from latent_geodesics.experiments.distances.gallery import Gallery
from latent_geodesics.experiments.distances.survey import Ends, Plan

__all__ = ["Layout", "lay_out"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The paths of a run and what they are for.

    Attributes:
        plan: All of them.
        shown: The pictures of the collection, whose matrix is drawn.
        kin: For each family, its items (numbers in the gallery), at least two, in their order.
        checks: Pairs of the collection that are solved in the other direction, and at a finer resolution, as well.
    """

    plan: Plan
    shown: tuple[int, ...]
    kin: dict[str, tuple[int, ...]]
    checks: tuple[Ends, ...]


def lay_out(gallery: Gallery, *, collected: int, spokes: int, checks: int) -> Layout:
    """The paths between the pictures of a gallery.

    Args:
        gallery: The images; the first `collected` are the collection, the others those of known changes.
        collected: How many images the collection has.
        spokes: Great circles that tie each family outside the collection to it, so that all have one reference.
        checks: How many pairs are checked.
    """
    shown = tuple(dict.fromkeys(gallery.picture[:collected]))
    pairs = [(a, b) for a, b in combinations(shown, 2)]
    kin: dict[str, list[int]] = {}
    for number, item in enumerate(gallery.items):
        if item.family:
            kin.setdefault(item.family, []).append(number)
    families = {name: tuple(members) for name, members in kin.items() if len(members) > 1}
    wanted = dict.fromkeys(pairs)
    for members in families.values():
        pictures = sorted({gallery.picture[number] for number in members})
        wanted |= dict.fromkeys(combinations(pictures, 2))
    checked = _spread(pairs, checks)
    geodesics = [*wanted, *((b, a) for a, b in checked)]
    return Layout(
        plan=Plan(geodesics=geodesics, great_circles=list(_ties(geodesics, shown, len(gallery.contents), spokes))),
        shown=shown,
        kin=families,
        checks=tuple(checked),
    )


def _ties(paths: Sequence[Ends], shown: Sequence[int], count: int, spokes: int) -> Iterator[Ends]:
    """Great circles from each part that the paths do not connect with the collection, to pictures spread over it."""
    part = list(range(count))
    for a, b in paths:
        old, new = part[a], part[b]
        part = [new if name == old else name for name in part]
    for name in dict.fromkeys(part):
        if name != part[shown[0]]:
            first = part.index(name)
            yield from ((hub, first) for hub in _spread(shown, spokes))


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spaced."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]
