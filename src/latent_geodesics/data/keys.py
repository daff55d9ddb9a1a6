"""Sequences of key images: two or more that one path goes through, each at its time.

They are the user's own files, or the lines of a manifest: a CSV file with the column `keys`, whose cell names the
images with a `|` between them, relative to the manifest, and optionally `id`, `group`, `times` and `prompts`, in which
a `|` separates as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.data.images import SMALLEST_SIDE, read_image
from latent_geodesics.data.manifests import ManifestRow, read_rows
from latent_geodesics.data.pairs import ImagePair, PairBatch, PairSelection

OPTIONAL_COLUMNS = ("id", "group", "times", "prompts")
BETWEEN = "|"
LONGEST_NAME = 4


@dataclass(frozen=True, kw_only=True)
class KeySequence:
    """Key images in their order, k + 1 of them; of a loop the last one is the first.

    Attributes:
        times: When each is reached, increasing, in whatever unit.
        prompts: What each shows.
    """

    id: str
    images: tuple[Path, ...]
    times: tuple[float, ...]
    prompts: tuple[str, ...]
    loop: bool = False
    group: str = ""

    @property
    def positions(self) -> Float[Tensor, " k1"]:
        """The times, from 0 to 1; float64."""
        times = torch.tensor(self.times, dtype=torch.float64)
        found: Tensor = (times - times[0]) / (times[-1] - times[0])
        found[-1] = 1.0
        return found

    @property
    def legs(self) -> tuple[ImagePair, ...]:
        """Neighbours as pairs, k of them."""
        ends = zip(pairwise(self.images), pairwise(self.prompts), strict=True)
        return tuple(
            ImagePair(
                id=f"{self.id}.{number}", group=self.group, image_a=a, image_b=b, prompt_a=prompt_a, prompt_b=prompt_b
            )
            for number, ((a, b), (prompt_a, prompt_b)) in enumerate(ends, start=1)
        )


@dataclass(frozen=True, kw_only=True)
class KeyBatch:
    """A sequence of keys read from disk: its legs as a batch of pairs."""

    sequence: KeySequence
    legs: PairBatch

    @property
    def images(self) -> Float[Tensor, "k1 3 h w"]:
        """The keys in [0, 1]."""
        return torch.cat([self.legs.images_a, self.legs.images_b[-1:]])


class KeyData(PairSelection):
    """Sequences of key images; for experiments that take pairs, their neighbours.

    Args:
        keys: Image files, two or more; they take the place of the manifest.
        times: When each is reached, increasing; 0, 1, 2 and so on if not given. With `loop` there may be one more, when
            the first key is reached again; else that takes as long as a leg on average.
        prompts: What each shows, or one text for all; empty if not given.
        manifest: A CSV file of sequences (see the module's text).
        loop: Whether each sequence goes back to its first key.
        batch_size: How many pairs are solved together where neighbours are taken as pairs.

    Raises:
        UserError: for fewer than two keys, times or prompts of another number, times that are no finite numbers or do
            not increase, and an image that cannot be read.
    """

    def __init__(
        self,
        *,
        keys: Sequence[str] | str | None = None,
        times: Sequence[float] | None = None,
        prompts: Sequence[str] | str | None = None,
        manifest: str | Path | None = None,
        loop: bool = False,
        batch_size: int = 4,
    ) -> None:
        if keys is not None:
            files = [Path(file) for file in ([keys] if isinstance(keys, str) else keys)]
            name = "--".join(file.stem for file in files[:LONGEST_NAME]) + ("--etc" * (len(files) > LONGEST_NAME))
            sequences = [_sequence(name, files, times, prompts, loop=loop, where="data.keys")]
        elif times is not None or prompts is not None:
            raise UserError("Times or prompts were given without keys: give data.keys=[a.png,b.png,c.png] with them.")
        elif manifest is not None:
            rows = read_rows(
                Path(manifest), required=("keys",), optional=OPTIONAL_COLUMNS, thing="sequence", files=("keys",)
            )
            sequences = [_of_row(row, loop=loop) for row in rows]
        else:
            raise UserError("No keys were given: set data.keys=[a.png,b.png,c.png], or data.manifest.")
        for file in dict.fromkeys(file for sequence in sequences for file in sequence.images):
            read_image(file, size=(SMALLEST_SIDE, SMALLEST_SIDE))  # whose errors come before anything starts
        self.sequences = tuple(sequences)
        super().__init__(pairs=[leg for sequence in sequences for leg in sequence.legs], batch_size=batch_size)


def read_keys(sequences: Sequence[KeySequence], *, size: tuple[int, int]) -> KeyBatch:
    """Reads the only one of some sequences as images of one size, (height, width) in pixels."""
    (sequence,) = sequences
    images = torch.stack([read_image(file, size=size) for file in sequence.images])
    legs = PairBatch(
        pairs=sequence.legs, images_a=images[:-1], images_b=images[1:], truth=(None,) * (len(images) - 1)
    )  # fmt: skip
    return KeyBatch(sequence=sequence, legs=legs)


def _of_row(row: ManifestRow, *, loop: bool) -> KeySequence:
    cells = {name: [part.strip() for part in row[name].split(BETWEEN)] if row[name] else [] for name in row.cells}
    files = [replace(row, cells={**row.cells, "keys": name}).path("keys") for name in cells["keys"]]
    times = None
    if cells.get("times"):
        try:
            times = [float(text) for text in cells["times"]]
        except ValueError:
            raise UserError(
                f"The times of '{row['id']}' in {row.place} must be numbers such as 0|1|3, got {row['times']!r}."
            ) from None
    found = _sequence(row["id"], files, times, cells.get("prompts") or None, loop=loop, where=row.place)
    return replace(found, group=row["group"])


def _sequence(
    name: str,
    files: Sequence[Path],
    times: Sequence[float] | None,
    prompts: Sequence[str] | str | None,
    *,
    loop: bool,
    where: str,
) -> KeySequence:
    """A sequence that is checked, a loop closed."""
    if len(files) < 2:
        raise UserError(f"{where} names {counted(len(files), 'key image')}: a path leads through two or more.")
    when = list(range(len(files))) if times is None else _checked_times(times, len(files), loop=loop, where=where)
    said = [prompts or ""] * len(files) if prompts is None or isinstance(prompts, str) else list(prompts)
    said = said * len(files) if len(said) == 1 else said
    if len(said) != len(files):
        raise UserError(f"{where} has {len(files)} keys and {len(said)} prompts: give one for each, or one for all.")
    if not all(isinstance(text, str) for text in said):
        raise UserError(f"Every prompt of {where} must be a text, got {said}: put each in quotes.")
    images, when = list(files), [float(time) for time in when]
    if loop:
        images, said = [*images, images[0]], [*said, said[0]]
        when += [when[-1] + (when[-1] - when[0]) / (len(files) - 1)] if len(when) == len(files) else []
    return KeySequence(id=name, images=tuple(images), times=tuple(when), prompts=tuple(said), loop=loop)


def _checked_times(times: Sequence[float], count: int, *, loop: bool, where: str) -> Sequence[float]:
    if isinstance(times, str | int | float) or not all(
        isinstance(time, int | float) and not isinstance(time, bool) and math.isfinite(time) for time in times
    ):
        raise UserError(f"The times of {where} must be finite numbers such as [0,1,3], got {times}.")
    if len(times) != count and not (loop and len(times) == count + 1):
        more = ", or one more, when the first is reached again" if loop else ""
        raise UserError(f"{where} has {count} keys and {len(times)} times: give one for each{more}.")
    if any(first >= second for first, second in pairwise(times)):
        said = ", ".join(f"{time:g}" for time in times)
        raise UserError(f"The times of {where} must increase from key to key, got {said}: give the keys by their time.")
    return times
