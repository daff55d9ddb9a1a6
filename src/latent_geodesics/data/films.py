"""What all moving pictures have in common, whatever file they come from: frames of one size, and the choice of some."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.data.images import SMALLEST_SIDE

FEWEST_FRAMES = 3
# Rounded times, say to milliseconds, differ by less; a frame that is missing by more.
UNEVEN = 1.5


@dataclass(frozen=True, kw_only=True)
class Film:
    """A film whose frames are known and still to be read.

    Attributes:
        path: Its file or folder.
        sizes: Width and height of each frame as it is shown, in pixels.
        times: When each frame is shown, in seconds, increasing; none where frames have only an order.
        read: The frames of those numbers, [n 3 h w] in [0, 1].
        remarks: What was done to it that is not plain reading, in words.
    """

    path: Path
    sizes: Sequence[tuple[int, int]]
    times: Sequence[float] = ()
    read: Callable[[Sequence[int]], Float[Tensor, "n 3 h w"]]
    remarks: tuple[str, ...] = ()

    @property
    def uneven(self) -> str:
        """In words, how unevenly the frames are timed; nothing where they are not."""
        gaps = np.diff(self.times)
        if not len(gaps) or gaps.max() <= UNEVEN * gaps.min():
            return ""
        return (
            f"its frames are {gaps.min():.3g} to {gaps.max():.3g} s apart, as where a recorder drops some: those that "
            "are there count as one step apart"
        )

    def spread(self, frames: int | None) -> list[int]:
        """The numbers of at most so many frames, evenly spaced in time, the first and the last among them."""
        count = len(self.sizes)
        if frames is None or frames >= count:
            return list(range(count))
        places = np.linspace(0, count - 1, frames)
        if self.uneven:
            wanted = np.linspace(self.times[0], self.times[-1], frames)
            places = np.interp(wanted, self.times, np.arange(count))
        return [int(place) for place in np.unique(places.round())]

    def check(self) -> None:
        """Raises a `UserError` for a film of too few frames, of frames that differ in size, or that are too small."""
        sizes = self.sizes
        if len(sizes) < FEWEST_FRAMES:
            raise UserError(
                f"The video '{self.path}' has {counted(len(sizes), 'frame')}: a path needs at least {FEWEST_FRAMES}; "
                "give a longer one."
            )
        if len(set(sizes)) > 1:
            number = next(index for index, size in enumerate(sizes) if size != sizes[0])
            (width, height), (other_width, other_height) = sizes[0], sizes[number]
            raise UserError(
                f"The frames of '{self.path}' differ in size ({width} x {height} pixels at first, {other_width} x "
                f"{other_height} in frame {number + 1}): bring them to one size."
            )
        if min(sizes[0]) < SMALLEST_SIDE:
            width, height = sizes[0]
            raise UserError(
                f"The frames of '{self.path}' have {width} x {height} pixels, too few to encode: give frames of at "
                f"least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels."
            )
