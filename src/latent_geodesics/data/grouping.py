"""Things that are done some at a time."""

from collections.abc import Sequence
from typing import TypeVar

Thing = TypeVar("Thing")


def in_batches(items: Sequence[Thing], size: int) -> list[Sequence[Thing]]:
    """The items in order, `size` at a time."""
    return [items[start : start + size] for start in range(0, len(items), size)]
