"""What a column of a table is called, and whether more of it is better: said by the metric that fills it."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

OF_DENSITY = frozenset({"condition", "model", "score", "tau", "textual_inversion"})
"""The settings that make a density: log-densities compare within them."""

OF_METRIC = OF_DENSITY | {"alpha", "alpha_d", "geometry"}
"""The settings that make a metric of it: lengths and residuals compare within them."""

MOST_MISFIT = 0.5
"""The largest misfit of a number that is ranked, as a share of the gain."""

_FIRST = (
    "path_quality", "noise_norm", "perceptual", "verdict", "cross_fade", "optical_flow", "sharpness", "typicality",
)  # fmt: skip
"""The modules whose columns stand first in tables; the others follow by name."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A number that a metric gives.

    Attributes:
        title: Its heading in tables.
        better: Which way is better; None where neither is, so that no value is marked as the best.
        shown: Whether the tables of a page have it; those in files always do.
        within: The settings that the number is one of: rows that differ in them are not ranked against one another.
        bound: The column that says how far off the number may be, in its unit, because the score is no exact gradient.
        against: The column of what the number is a gain on; see `closes`.
    """

    title: str
    better: Literal["higher", "lower"] | None = None
    shown: bool = True
    within: frozenset[str] = frozenset()
    bound: str | None = None
    against: str | None = None

    def closes(self, value: float, bound: float, against: float) -> bool:
        """Whether means over pairs are known well enough to be ranked.

        A path that gains less on the reference than twice its misfit is not: with the density fixed at the other end it
        may gain nothing, and half of the gain is what another method's misfit may take besides. The reference itself
        has no misfit.
        """
        return not bound > MOST_MISFIT * abs(value - against)


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
