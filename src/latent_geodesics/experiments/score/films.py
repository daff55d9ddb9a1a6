"""A sequence as it is read: at its own size, every frame of it or some that are evenly spaced, none left out unseen."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.file_order import numbered_images
from latent_geodesics.data.films import Film, is_animation, open_animation, open_folder
from latent_geodesics.data.images import read_image
from latent_geodesics.data.video_streams import open_stream

GAP = 2


@dataclass(frozen=True, kw_only=True)
class WholeFilm:
    """A film that was looked at from end to end.

    Attributes:
        place: A folder of frames or a film's file.
        size: Height and width in which its frames are read, in pixels.
        chosen: The numbers of the frames that are taken.
        total: How many it has.
        digest: The sha256 of its files.
    """

    place: Path
    size: tuple[int, int]
    chosen: tuple[int, ...]
    total: int
    digest: str

    def read(self) -> Float[Tensor, "n 3 h w"]:
        """The frames that are taken, in [0, 1]."""
        return _open(self.place, self.size).read(self.chosen)

    def ends(self) -> Float[Tensor, "2 3 h w"]:
        """The first and the last of them."""
        return _open(self.place, self.size).read((self.chosen[0], self.chosen[-1]))


@dataclass(frozen=True, kw_only=True)
class TruthFilm:
    """The true frames of a pair: a film, or the files that a manifest of pairs names."""

    source: Path | tuple[Path, ...]
    count: int

    def read(self, size: tuple[int, int]) -> Float[Tensor, "n 3 h w"]:
        """All of them, height and width in pixels."""
        if isinstance(self.source, Path):
            return _open(self.source, size).read(range(self.count))
        return torch.stack([read_image(file, size=size) for file in self.source])


def look_at(place: Path, *, count: int | None = None, size: Sequence[int] | None = None) -> WholeFilm:
    """Reads a film once from end to end.

    Args:
        place: A folder of frames or a film's file.
        count: Take so many frames, evenly spaced, the ends among them; all if not given.
        size: Height and width to bring the frames to; their own if not given.

    Raises:
        UserError: when it is damaged, a frame is missing or there twice, its frames differ in size, or it has too few.
    """
    own = _open(place, (1, 1))
    if place.is_dir():
        _check_numbers(place)
    own.check()
    total = len(own.sizes)
    if count is not None and count > total:
        raise UserError(
            f"The sequence '{place}' has {total} frames, and count={count} asks for more: ask for fewer, or leave "
            "it out to take all."
        )
    width, height = own.sizes[0]
    wanted = (height, width) if size is None else (int(size[0]), int(size[1]))
    chosen = tuple(own.spread(count))
    if count is not None and len(chosen) < count:
        chosen = tuple(int(number) for number in np.linspace(0, total - 1, count).round())
    if place.is_dir():  # films were decoded to count their frames
        film = _open(place, wanted)
        for number in chosen:
            film.read((number,))
    return WholeFilm(place=place, size=wanted, chosen=chosen, total=total, digest=_digest(place))


def _open(place: Path, size: tuple[int, int]) -> Film:
    if place.is_dir():
        return open_folder(place, size)
    if place.stat().st_size == 0:
        raise UserError(f"The film '{place}' is empty (0 bytes): give a file that holds frames.")
    return open_animation(place, size) if is_animation(place) else open_stream(place, size)


def _check_numbers(folder: Path) -> None:
    """Refuses frames whose numbers leave some out; numbers that grow by more than one are as good."""
    files = numbered_images(folder)
    found = [re.findall(r"\d+", file.stem) for file in files]
    if len(files) < GAP + 1 or not all(found):
        return
    steps = np.diff([int(numbers[-1]) for numbers in found])
    if steps.min() < 1 or steps.max() < GAP * steps.min():
        return
    place = int(steps.argmax())
    raise UserError(
        f"The frames of '{folder}' skip from '{files[place].name}' to '{files[place + 1].name}': a frame is missing; "
        "restore it, or number the frames without a gap."
    )


def _digest(place: Path) -> str:
    found = hashlib.sha256()
    for file in numbered_images(place) if place.is_dir() else [place]:
        found.update(file.read_bytes())
    return found.hexdigest()
