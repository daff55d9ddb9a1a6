"""What a section of a page is made of: paragraphs, images as they were given, sequences, pictures, a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a page; `file` is relative to the run's folder."""

    file: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Given:
    """What went into sequences.

    Attributes:
        pictures: The images as they were given, as the model's size crops them.
        note: What is to be known of them.
        warning: What is wrong with them, if anything.
    """

    pictures: Sequence[Picture]
    note: str
    warning: str | None = None


def rounded(time: float, *, to: float) -> str:
    """A time in as many digits as it takes to tell such steps apart, with one more."""
    return f"{time:.{max(0, 1 - math.floor(math.log10(to)))}f}"


def brief(time: float, *, to: float) -> str:
    """As `rounded`, without the zeros at its end."""
    text = rounded(time, to=to)
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When the frames under a slider are shown, in place of positions u from 0 to 1.

    Attributes:
        times: The time of each frame, increasing, in whatever unit.
        keys: The frames that are key images, the first among them.
        loop: Whether the first frame follows the last, so that it plays round and not there and back.
    """

    times: Sequence[float]
    keys: Sequence[int]
    loop: bool = False

    @property
    def words(self) -> list[str]:
        """What the slider says at each frame, in digits that tell frames apart."""
        step = min((later - sooner for sooner, later in pairwise(self.times)), default=1.0)
        return [f"time {rounded(time, to=step)}" for time in self.times]

    @property
    def marks(self) -> list[float]:
        """Where the keys are on the slider, from 0 to 1."""
        return [key / max(1, len(self.times) - 1) for key in self.keys]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page, in this order: paragraphs, what went in, sequences under one slider, pictures, a table.

    Attributes:
        players: The sequences, as `Rows.sequence` gives them.
        timeline: When their frames are shown; at positions u if not given.
        table: Its columns are its headings.
    """

    title: str
    text: Sequence[str] = ()
    given: Given | None = None
    players: Sequence[Mapping[str, Any]] = ()
    timeline: Timeline | None = None
    pictures: Sequence[Picture] = ()
    table: pd.DataFrame | None = None
