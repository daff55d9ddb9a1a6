"""Which paths a run of distances needs: all pairs of the collection, the known changes, and what ties them together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np

from latent_geodesics.data.pairs import in_batches
from latent_geodesics.experiments.distances.gallery import Gallery

Ends = tuple[int, int]
"""The numbers of the pictures that a path leads from and to."""
GEODESIC, GREAT_CIRCLE, FINER = "geodesic", "great_circle", "finer"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class WantedPath:
    """A path that is wanted, named by its kind and the contents of its ends; `title` names images in their place."""

    id: str
    title: str
    kind: str
    ends: Ends


@dataclass(frozen=True, kw_only=True)
class PathPlan:
    """The paths of a run.

    Attributes:
        geodesics: Each pair of pictures in one direction, the first number the smaller one.
        checks: Those of them that are solved in the other direction, and at a finer resolution, as well.
        great_circles: Paths whose only use is the change of log-density along them.
    """

    geodesics: tuple[Ends, ...]
    checks: tuple[Ends, ...]
    great_circles: tuple[Ends, ...]

    def batches(self, gallery: Gallery, size: int) -> list[Sequence[WantedPath]]:
        """All paths, those of one kind together in batches."""
        kinds = {
            GEODESIC: (*self.geodesics, *((b, a) for a, b in self.checks)),
            GREAT_CIRCLE: self.great_circles,
            FINER: self.checks,
        }
        shown = gallery.pictures
        wanted = {
            kind: [
                WantedPath(
                    id=f"{kind} {shown[a].id} {shown[b].id}",
                    title=f"{shown[a].title} to {shown[b].title}",
                    kind=kind,
                    ends=(a, b),
                )
                for a, b in paths
            ]
            for kind, paths in kinds.items()
        }
        return [batch for paths in wanted.values() for batch in in_batches(paths, size)]


def lay_out(gallery: Gallery, *, spokes: int, checks: int) -> PathPlan:
    """The paths between the pictures of a gallery.

    Args:
        gallery: The images.
        spokes: Great circles that tie each family outside the collection to it, so that all have one reference.
        checks: How many pairs are checked.
    """
    pairs = list(combinations(gallery.shown, 2))
    wanted = dict.fromkeys(pairs)
    for members in gallery.families.values():
        wanted |= dict.fromkeys(combinations(sorted({gallery.picture[number] for number in members}), 2))
    return PathPlan(
        geodesics=tuple(wanted),
        checks=tuple(_spread(pairs, checks)),
        great_circles=tuple(_ties(list(wanted), gallery.shown, len(gallery.pictures), spokes)),
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
