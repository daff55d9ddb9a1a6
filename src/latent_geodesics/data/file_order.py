"""Which files of a folder are pictures, and the order of their names as a person reads it: 9 before 10."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from latent_geodesics.core.errors import UserError

IMAGE_SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".avif")
WHOLE_NUMBERS, DECIMALS = re.compile(r"(\d+)"), re.compile(r"(\d+(?:\.\d+)?)")


def in_natural_order(files: Iterable[Path]) -> list[Path]:
    """Files by the names of their folders and their own, in which digits count as the whole numbers that they are."""
    key = _key(WHOLE_NUMBERS, int)
    return sorted(files, key=lambda file: [*(key(Path(name)) for name in file.parent.parts), key(file)])


def visible_files(folder: Path) -> list[Path]:
    """The files of a folder in natural order, without the hidden ones that some systems leave beside each file."""
    return in_natural_order(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """Those that are pictures by their suffix."""
    return [file for file in visible_files(folder) if file.suffix.lower() in IMAGE_SUFFIXES]


def numbered_images(folder: Path) -> list[Path]:
    """The pictures of a folder that are the frames of one film, in the order of their numbers.

    Raises:
        UserError: when their names have no one order: a frame is there in two formats, or with zeros before its
            number and without, or numbers with a point give another order as decimals than as two whole numbers.
    """
    files = image_files(folder)
    key = _key(WHOLE_NUMBERS, int)
    called = [str(key(file)[0]) for file in files]  # 3 and 03 are one number
    twice = [name for name, count in Counter(called).items() if count > 1]
    if twice:
        names = " and ".join(f"'{file.name}'" for file, name in zip(files, called, strict=True) if name == twice[0])
        raise UserError(f"The folder '{folder}' holds a frame more than once ({names}): keep one file for each frame.")
    other = sorted(files, key=_key(DECIMALS, Decimal))
    if other != files:
        one, two = next(pair for pair in zip(files, other, strict=True) if pair[0] != pair[1])
        raise UserError(
            f"It cannot be told whether '{one.name}' or '{two.name}' comes first in '{folder}': number the frames with "
            "whole numbers."
        )
    return files


def _key(numbers: re.Pattern[str], read: Callable[[str], int | Decimal]) -> Callable[[Path], Any]:
    def key(file: Path) -> Any:
        parts = numbers.split(file.stem.casefold())
        return [read(part) if place % 2 else part for place, part in enumerate(parts)], file.stem, file.name

    return key
