"""What a column of a table is called, and whether more of it is better: said by the metric that fills it."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["Column", "known_columns"]

_FIRST = ("path_quality", "perceptual", "cross_fade", "optical_flow", "sharpness", "typicality")
"""The modules whose columns stand first in tables; the others follow by name."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A number that a metric gives.

    Attributes:
        title: Its heading in tables.
        better: Which way is better; None where neither is, so that no value is marked as the best.
        shown: Whether the tables of a page have it; those in files always do.
    """

    title: str
    better: Literal["higher", "lower"] | None = None
    shown: bool = True


def known_columns() -> Mapping[str, Column]:
    """The columns of every metric of this package, by name; those of a published protocol hold an `@`."""
    package = importlib.import_module("latent_geodesics.metrics")
    columns: dict[str, Column] = {}
    for module in sorted((found.name for found in pkgutil.iter_modules(package.__path__)), key=_place):
        for item in vars(importlib.import_module(f"{package.__name__}.{module}")).values():
            if isinstance(item, type) and issubclass(item, package.MorphMetric):
                columns |= getattr(item, "columns", {})
    return columns


def _place(module: str) -> tuple[int, str]:
    return (_FIRST.index(module) if module in _FIRST else len(_FIRST), module)
