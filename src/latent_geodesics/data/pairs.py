"""Pairs of images with their prompts, from a manifest or from two files.

A manifest is a CSV file with a line a pair: `image_a, image_b`, and optionally `id, group, prompt_a, prompt_b,
difficulty, split, cluster, frames, sha256_a, sha256_b`; paths are relative to the manifest. A pair without an id is
called by its files, one without prompts has empty ones. `difficulty` is a whole number; `frames` names a folder of true
in-between frames (both ends included), in the order of the numbers in their names; `split` says whether settings are
chosen by a pair (`tuning`) or methods are judged by it (`evaluation`); pairs of one `cluster` are alike, and statistics
take them together. See `data.manifests` for how a manifest is written.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.data.file_order import numbered_images
from latent_geodesics.data.images import check_image, read_image
from latent_geodesics.data.manifests import ManifestRow, read_rows

Thing = TypeVar("Thing")

FILES = ("image_a", "image_b")
DESCRIBING = ("id", "group", "prompt_a", "prompt_b", "difficulty", "split", "cluster")
OPTIONAL_COLUMNS = (*DESCRIBING, "frames", "sha256_a", "sha256_b")
SPLITS = ("tuning", "evaluation")

log = logging.getLogger(__name__)


def in_batches(items: Sequence[Thing], size: int) -> list[Sequence[Thing]]:
    """The items in order, `size` at a time."""
    return [items[start : start + size] for start in range(0, len(items), size)]


@dataclass(frozen=True, kw_only=True)
class ImagePair:
    """Two image files with a prompt each.

    Attributes:
        frames: The files of the true in-between images, in order, or none.
        difficulty: How much changes between the images, as their makers grade it, or None.
        split: `tuning`, `evaluation`, or empty in a set that is not split.
        cluster: What it has in common with other pairs, or empty where it stands for itself.
    """

    id: str
    image_a: Path
    image_b: Path
    prompt_a: str = ""
    prompt_b: str = ""
    group: str = ""
    frames: tuple[Path, ...] = ()
    difficulty: int | None = None
    split: str = ""
    cluster: str = ""


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Pairs read from disk: images in [0, 1]; `truth` holds the true frames of a pair, [n 3 h w], or None."""

    pairs: tuple[ImagePair, ...]
    images_a: Float[Tensor, "p 3 h w"]
    images_b: Float[Tensor, "p 3 h w"]
    truth: tuple[Float[Tensor, "n 3 h w"] | None, ...]

    @property
    def ids(self) -> list[str]:
        """The pairs' names."""
        return [pair.id for pair in self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def true_frames(self, row: int, count: int) -> Float[Tensor, "n 3 h w"] | None:
        """Of a pair's true frames, as many as a sequence has; None where they do not lie at its positions."""
        truth = self.truth[row]
        if truth is None or not has_positions(len(truth), count):
            return None
        return truth[:: (len(truth) - 1) // (count - 1)]


def has_positions(truth: int, frames: int) -> bool:
    """Whether so many evenly spaced true frames lie at the positions of a sequence of so many frames."""
    return frames >= 2 and truth > 0 and not (truth - 1) % (frames - 1)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of the pairs of a data set are taken, and how many of them are solved together.

    Raises:
        UserError: for a count below 1 or that is no whole number, or a shard or a split that is none.
    """

    every: int = 1
    limit: int | None = None
    batch_size: int = 4
    shard: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        for name in ("every", "limit", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | None):
                raise UserError(f"data.{name} must be a whole number, got {value!r}.")
        if self.split is not None and self.split not in SPLITS:
            raise UserError(f"data.split must be tuning, evaluation, or null for all pairs, got {self.split!r}.")
        if self.batch_size < 1:
            raise UserError(f"data.batch_size must be at least 1, got {self.batch_size}.")
        if self.every < 1:
            raise UserError(f"data.every must be at least 1, which takes every pair, got {self.every}.")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"data.limit must be at least 1, got {self.limit}: leave it out to take every pair.")
        if self.shard is not None:
            read_shard(self.shard)

    def of(self, pairs: Sequence[ImagePair]) -> tuple[ImagePair, ...]:
        """The chosen pairs, in their order; all pairs of a set that is not split belong to either part of it."""
        if self.split is not None and any(pair.split for pair in pairs):
            pairs = [pair for pair in pairs if pair.split == self.split]
            if not pairs:
                raise UserError(f"No pair has the split {self.split}: set data.split=null to take all of them.")
        chosen = tuple(pairs[:: self.every][: self.limit])
        if self.shard is None:
            return chosen
        number, count = read_shard(self.shard)
        # Whole batches, so that every batch is the one it would be in a single run, and so are its numbers.
        return tuple(pair for batch in in_batches(chosen, self.batch_size)[number - 1 :: count] for pair in batch)


def read_shard(shard: str) -> tuple[int, int]:
    """The number and the count of a shard such as `2/4`, the second of four.

    Raises:
        UserError: for anything else.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", str(shard))
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise UserError(
            f"data.shard must be i/n with i from 1 to n, such as 2/4 for the second of four, got '{shard}'."
        )
    return number, count


class PairSelection:
    """Some of the pairs of a data set, in an order that stays.

    Args:
        pairs: All pairs.
        selection: `split` takes the pairs by which settings are tuned or methods evaluated, `every` of them only each
            so-manieth, beginning with the first; of those, `limit` takes only the first so many; `batch_size` is how
            many are solved together; `shard`, as `i/n`, takes the i-th of n shares of the batches, for runs that
            `task=report` puts together.
    """

    def __init__(self, *, pairs: Sequence[ImagePair], **selection: Any) -> None:
        chosen = Selection(**selection)
        self.batch_size = chosen.batch_size
        self.pairs = chosen.of(pairs)
        if not self.pairs:
            raise UserError(f"The shard {chosen.shard} of these pairs is empty: take fewer shards or a smaller batch.")

    def __len__(self) -> int:
        return len(self.pairs)


class PairData(PairSelection):
    """The pairs of a manifest, or the one pair that two given files make.

    Args:
        manifest: The CSV file that lists the pairs.
        image_a: A file of the user's own; with `image_b` it replaces the manifest.
        image_b: The other file.
        prompt_a: What the first image shows.
        prompt_b: What the second image shows; the first prompt when it is not given.
        verify: Compare the files with the checksums of the manifest.
        selection: `split`, `every`, `limit`, `batch_size` and `shard`; see `PairSelection`.
    """

    def __init__(
        self,
        *,
        manifest: str | Path | None = None,
        image_a: str | Path | None = None,
        image_b: str | Path | None = None,
        prompt_a: str | None = None,
        prompt_b: str | None = None,
        verify: bool = True,
        **selection: Any,
    ) -> None:
        Selection(**selection)  # is refused, if need be, before any file is read
        if image_a is not None or image_b is not None:
            pairs = [_own_pair(image_a, image_b, prompt_a, prompt_b)]
        elif prompt_a is not None or prompt_b is not None:
            raise UserError("A prompt was given without images: give image_a=<file> and image_b=<file> with it.")
        elif manifest is not None:
            pairs = read_manifest(manifest, verify=verify)
        else:
            raise UserError("No pairs were given: set data.manifest, or image_a=<file> and image_b=<file>.")
        super().__init__(pairs=pairs, **selection)
        for file in dict.fromkeys(file for pair in self.pairs for file in (pair.image_a, pair.image_b)):
            check_image(file)


def read_batch(pairs: Sequence[ImagePair], *, size: tuple[int, int]) -> PairBatch:
    """Reads the files of some pairs as images of one size, (height, width) in pixels."""
    return PairBatch(
        pairs=tuple(pairs),
        images_a=torch.stack([read_image(pair.image_a, size=size) for pair in pairs]),
        images_b=torch.stack([read_image(pair.image_b, size=size) for pair in pairs]),
        truth=tuple(
            torch.stack([read_image(frame, size=size) for frame in pair.frames]) if pair.frames else None
            for pair in pairs
        ),
    )


def read_manifest(manifest: str | Path, *, verify: bool = True) -> list[ImagePair]:
    """Reads and checks a manifest (see the module's text for its columns).

    Raises:
        UserError: when the manifest is none (see `read_rows`), one of its files is missing or does not match its
            checksum, a difficulty is no whole number, or a split is none.
    """
    rows = read_rows(Path(manifest), required=FILES, optional=OPTIONAL_COLUMNS, thing="pair", files=FILES)
    split = any(row["split"] for row in rows)
    for row in rows:
        if split and row["split"] not in SPLITS:
            raise UserError(
                f"The split of '{row['id']}' in {row.place} must be tuning or evaluation, got {row['split']!r}: "
                "correct it, or leave the column out."
            )
    pairs = [_manifest_pair(row, verify=verify) for row in rows]
    first: dict[ImagePair, str] = {}
    same = [(first.setdefault(replace(pair, id="", group=""), pair.id), pair.id) for pair in pairs]
    again = [f"'{name}' is '{known}'" for known, name in same if known != name]
    if again:
        said = counted(len(again), "pair"), "; ".join(again[:3])
        log.warning("In '%s', %s of the same images as another count twice: %s.", manifest, *said)
    return pairs


def _manifest_pair(row: ManifestRow, *, verify: bool) -> ImagePair:
    files = {}
    for side in ("a", "b"):
        files[side] = row.path(f"image_{side}")
        if not files[side].is_file():
            raise UserError(f"The pair '{row['id']}' in {row.place} names '{files[side]}', which is no file.")
        if verify:
            row.check(f"sha256_{side}", files[side])
    told: dict[str, Any] = {name: row[name] for name in DESCRIBING if name != "difficulty"}
    return ImagePair(
        image_a=files["a"], image_b=files["b"], frames=_true_frames(row), difficulty=_difficulty(row), **told
    )


def _true_frames(row: ManifestRow) -> tuple[Path, ...]:
    if not row["frames"]:
        return ()
    folder = row.path("frames")
    frames = tuple(numbered_images(folder)) if folder.is_dir() else ()
    if len(frames) < 2:
        raise UserError(
            f"The pair '{row['id']}' in {row.place} names the true frames '{folder}', which holds {len(frames)} "
            "images: it needs a folder of two or more, or an empty cell."
        )
    return frames


def _difficulty(row: ManifestRow) -> int | None:
    text = row["difficulty"]
    if text and not (text.isascii() and text.isdigit()):
        raise UserError(
            f"The difficulty of '{row['id']}' in {row.place} is no whole number, got {text!r}: correct or empty it."
        )
    return int(text) if text else None


def _own_pair(
    image_a: str | Path | None, image_b: str | Path | None, prompt_a: str | None, prompt_b: str | None
) -> ImagePair:
    if image_a is None or image_b is None:
        given, wanted = ("image_a", "image_b") if image_b is None else ("image_b", "image_a")
        raise UserError(f"Only {given} was given: two images make a pair, add {wanted}=<file>.")
    first = prompt_a if prompt_a is not None else (prompt_b or "")
    return ImagePair(
        id=f"{Path(image_a).stem}--{Path(image_b).stem}",
        group="own",
        image_a=Path(image_a),
        image_b=Path(image_b),
        prompt_a=first,
        prompt_b=prompt_b if prompt_b is not None else first,
    )
