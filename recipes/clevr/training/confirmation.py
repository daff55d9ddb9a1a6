"""Does a picture show what was asked for? Objects asked for against objects detected, as multisets of attributes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from latent_geodesics.models.attributes import DetectedObject

__all__ = ["confirms"]


def confirms(
    wanted: Sequence[Mapping[str, Any]], seen: Sequence[DetectedObject], names: Sequence[str] = ("color", "shape")
) -> bool:
    """Whether every wanted object is seen with its attributes `names`, and nothing else is seen."""
    asked = Counter(tuple(item[name] for name in names) for item in wanted)
    return asked == Counter(tuple(getattr(item, name) for name in names) for item in seen)
