"""The sequences that are scored: found, looked at from end to end, held against what they should be, and read.

Nothing is scored unless all of it is whole: a method whose sequences differ in number or size of frames, or whose ends
are not the images that they should lead between, is refused before anything is written.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError, counted, near_name
from latent_geodesics.data import ImagePair, PairBatch, PairData, read_image
from latent_geodesics.data.images import psnr
from latent_geodesics.data.pairs import has_positions, read_manifest
from latent_geodesics.experiments.score.films import TruthFilm, WholeFilm, look_at
from latent_geodesics.experiments.score.layout import FoundSequence, find_sequences, pairs_of_run
from latent_geodesics.metrics import RunFacts
from latent_geodesics.run.files import file_stem, title_of

log = logging.getLogger(__name__)

CLOSE_DB = 3.0
"""By how much an end must be nearer to the other image before a sequence is said to run backwards."""
SAME_DB = 99.9
"""Of files that hold the same levels."""
EXACT_DB, LOST_DB = 50.0, 40.0
"""Where one end is the image itself, the other one is as well, unless frames are missing."""
FEWEST = 3


@dataclass(frozen=True, kw_only=True)
class GivenSequence:
    """What a method made of a pair.

    Attributes:
        method: The method's name.
        film: Its frames.
        ends_db: PSNR of the first and the last frame against the images that they should be; None where none are known.
    """

    method: str
    film: WholeFilm
    ends_db: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class ScoredPair:
    """A pair with every method's sequence.

    Attributes:
        pair: Its images, prompts and group; of a pair of which nothing is known, the name alone.
        stated: Whether its images are known.
        truth: Its true frames, if any.
    """

    pair: ImagePair
    stated: bool
    sequences: tuple[GivenSequence, ...]
    truth: TruthFilm | None = None

    @property
    def id(self) -> str:
        """The pair's name."""
        return self.pair.id


@dataclass(frozen=True, kw_only=True)
class GivenFrames:
    """A method's frames of one pair as metrics take them, with the images and the true frames in the same size."""

    method: str
    frames: Float[Tensor, "1 n 3 h w"]
    batch: PairBatch


class SequenceData:
    """Finds and checks sequences.

    Args:
        frames: Where they are; `experiments.score.layout` says in what order of folders.
        true: Where the true frames are: a folder `<pair>/<frames>`, films or a manifest; those of `pairs` if not given.
        pairs: The manifest of the pairs, whose images the sequences must begin and end with; those of the run, where
            `frames` is the folder of a run that kept them, if not given.
        image_a: The first image, in place of a manifest, where there is one pair.
        image_b: The second.
        method: What the method is called where the folders do not say.
        count: Take so many frames of each sequence, evenly spaced; all if not given.
        size: Height and width to bring all frames to; their own if not given.
        ends_db: The least PSNR of the ends against the images, in dB; null takes any.
        verify: Compare the pairs' files with the checksums of the manifest.

    Raises:
        UserError: names the first thing that is not as it should be.
    """

    def __init__(
        self,
        *,
        frames: str | None,
        true: str | None = None,
        pairs: str | None = None,
        image_a: str | None = None,
        image_b: str | None = None,
        method: str | None = None,
        count: int | None = None,
        size: Sequence[int] | None = None,
        ends_db: float | None = 25.0,
        verify: bool = True,
    ) -> None:
        if frames is None:
            raise UserError("No sequences were given: set frames=<folder of sequences, film, or CSV manifest>.")
        if count is not None and count < FEWEST:
            raise UserError(f"count must be at least {FEWEST} (two ends and one between), got {count}.")
        if size is not None and (len(size) != 2 or not all(isinstance(side, int) and side >= 8 for side in size)):
            raise UserError(f"size must be height and width in pixels, as in size=[512,512], got {size}.")
        self.place, self.ends_db = Path(frames), ends_db
        stated = _stated_pairs(pairs, image_a, image_b, verify=verify)
        if not stated and (stated := pairs_of_run(self.place)):
            self.ends_db = None  # whatever that run's model made of them
        found = find_sequences(self.place, method=method)
        log.info("Looking at %s.", counted(len(found), "sequence"))
        truth = {} if true is None else _films_of_truth(Path(true), size)
        self.pairs = self._scored(found, stated, truth, count=count, size=size)
        self.methods = list(dict.fromkeys(one.method for one in found))
        for name in self.methods:
            _check_alike(name, self._of(name))
        self.remarks = [*self._remarks_on_pairs(stated), *self._remarks_on_truth(), *self._remarks_on_ends()]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def digests(self) -> Mapping[str, str]:
        """What tells these sequences from others, for a run that goes on."""
        known = hashlib.sha256()
        for scored in self.pairs:
            for one in scored.sequences:
                known.update(f"{scored.id}/{one.method}/{one.film.digest}/{one.film.chosen}".encode())
        return {"frames": known.hexdigest()}

    def facts(self, method: str) -> RunFacts:
        """What metrics need to know of a method's sequences."""
        own = self._of(method)
        film = next(iter(own.values())).film
        with_truth = [
            scored.truth is not None and has_positions(scored.truth.count, len(film.chosen))
            for scored in self.pairs
            if scored.id in own
        ]
        return RunFacts(
            pairs=len(own),
            with_truth=sum(with_truth),
            frames=len(film.chosen),
            image_size=film.size,
            paths=False,
            model=False,
            images=all(one.ends_db is not None for one in own.values()),
        )

    def read(self, pairs: Sequence[ScoredPair]) -> list[GivenFrames]:
        """The frames of some pairs with their images, pair after pair and method after method."""
        return [_read(scored, one) for scored in pairs for one in scored.sequences]

    def _of(self, method: str) -> dict[str, GivenSequence]:
        return {pair.id: one for pair in self.pairs for one in pair.sequences if one.method == method}

    def _scored(
        self,
        found: Iterable[FoundSequence],
        stated: Mapping[str, ImagePair],
        truth: Mapping[str, WholeFilm],
        *,
        count: int | None,
        size: Sequence[int] | None,
    ) -> list[ScoredPair]:
        """The sequences pair by pair, in the order of the pairs where it is known."""
        by_pair: dict[str, list[FoundSequence]] = {}
        known: dict[str, ImagePair] = {}
        alone = len({one.pair for one in found}) == 1
        for one in found:
            pair = _pair_of(one, stated, alone=alone)
            known[pair.id] = pair
            others = by_pair.setdefault(pair.id, [])
            if any(other.method == one.method for other in others):
                raise UserError(f"The sequence of '{pair.id}' by {one.method} is there twice: keep one of them.")
            others.append(one)
        order = [pair.id for pair in stated.values() if pair.id in by_pair] or list(by_pair)
        return [
            self._looked_at(known[id], by_pair[id], bool(stated), truth, count=count, size=size)
            for id in dict.fromkeys(order)
        ]

    def _looked_at(
        self,
        pair: ImagePair,
        found: Sequence[FoundSequence],
        stated: bool,
        films: Mapping[str, WholeFilm],
        *,
        count: int | None,
        size: Sequence[int] | None,
    ) -> ScoredPair:
        truth = _truth_of(pair, films)
        sequences = []
        for one in found:
            film = look_at(one.place, count=count, size=size)
            if films and truth is not None and not has_positions(truth.count, len(film.chosen)):
                raise UserError(
                    f"The pair '{pair.id}' has {truth.count} true frames and {len(film.chosen)} by {one.method}: true "
                    "frames stand at the positions of a sequence where one less of them is a multiple of one less of "
                    "it; give others, or count=<frames>."
                )
            images = _images(pair, stated, truth, film.size)
            ends = None if images is None else _decibels(film.ends(), images)
            if ends is not None and images is not None:
                _check_ends(pair.id, one.method, film, images, least=self.ends_db)
            sequences.append(GivenSequence(method=one.method, film=film, ends_db=ends))
        return ScoredPair(pair=pair, stated=stated, sequences=tuple(sequences), truth=truth)

    def _remarks_on_pairs(self, stated: Mapping[str, ImagePair]) -> list[str]:
        wanted = len(stated) or len(self.pairs)
        held = {name: len(self._of(name)) for name in self.methods}
        found = [f"{name} has sequences of {n} of {counted(wanted, 'pair')}." for name, n in held.items() if n < wanted]
        kinds = {name: self.facts(name) for name in self.methods}
        counts = {name: facts.frames for name, facts in kinds.items()}
        sizes = {name: "{1} x {0}".format(*facts.image_size) for name, facts in kinds.items()}
        for what, values in (("numbers of frames", counts), ("sizes in pixels", sizes)):
            if len(set(values.values())) > 1:
                told = ", ".join(f"{name}: {value}" for name, value in values.items())
                remedy = "count" if what.startswith("numbers") else "size"
                found.append(f"The methods differ in their {what} ({told}): numbers compare once {remedy} is set.")
        return found

    def _remarks_on_truth(self) -> list[str]:
        unfit = [
            scored.id for scored in self.pairs
            if scored.truth is not None
            and not all(has_positions(scored.truth.count, len(one.film.chosen)) for one in scored.sequences)
        ]  # fmt: skip
        if not unfit:
            return []
        return [
            f"The true frames of {counted(len(unfit), 'pair')} are not at the positions of all sequences (first "
            f"'{unfit[0]}'): what needs them is left empty there; set count."
        ]

    def _remarks_on_ends(self) -> list[str]:
        known = [
            (min(one.ends_db), pair.id, one.method) for pair in self.pairs for one in pair.sequences if one.ends_db
        ]
        if not known:
            return [
                "The images that the sequences lead between were not given (pairs=<manifest>): the first and the last "
                "frame of each stand for them, and nothing is said of how well the ends are met."
            ]
        worst, pair, method = min(known)
        if worst >= SAME_DB:
            return ["Every sequence begins and ends with its very images."]
        return [f"The ends are their images to {worst:.1f} dB at worst ({title_of(method)} on '{pair}')."]


def _stated_pairs(pairs: str | None, image_a: str | None, image_b: str | None, *, verify: bool) -> dict[str, ImagePair]:
    """The pairs that are known, by their names and by the names of their files."""
    if pairs is not None and (image_a is not None or image_b is not None):
        raise UserError("Both pairs and image_a or image_b were given: they say the same, give one.")
    if image_a is not None or image_b is not None:
        return {one.id: one for one in PairData(image_a=image_a, image_b=image_b).pairs}
    return {} if pairs is None else {one.id: one for one in read_manifest(pairs, verify=verify)}


def _pair_of(one: FoundSequence, stated: Mapping[str, ImagePair], *, alone: bool) -> ImagePair:
    """The pair of a sequence by its name; where sequences of one pair alone are scored, the only one that is given."""
    if alone and len(stated) == 1:
        return next(iter(stated.values()))
    if not stated:
        return ImagePair(id=one.pair, image_a=one.place, image_b=one.place)
    by_file = {file_stem(id): pair for id, pair in stated.items()}
    found = stated.get(one.pair) or by_file.get(one.pair)
    if found is None:
        raise UserError(
            f"The sequence '{one.place}' is of the pair '{one.pair}', which is none of those given "
            f"({counted(len(stated), 'pair')}): name it after its pair, or take it away.{near_name(one.pair, stated)}"
        )
    return found


def _films_of_truth(place: Path, size: Sequence[int] | None) -> dict[str, WholeFilm]:
    found = find_sequences(place)
    methods = list(dict.fromkeys(one.method for one in found))
    if len(methods) > 1:
        raise UserError(
            f"The true frames in '{place}' are of several methods ({', '.join(methods)}): give <pair>/<frames>."
        )
    return {one.pair: look_at(one.place, size=size) for one in found}


def _truth_of(pair: ImagePair, films: Mapping[str, WholeFilm]) -> TruthFilm | None:
    if films:
        film = films.get(pair.id) or films.get(file_stem(pair.id))
        return None if film is None else TruthFilm(source=film.place, count=film.total)
    return TruthFilm(source=pair.frames, count=len(pair.frames)) if pair.frames else None


def _images(
    pair: ImagePair, stated: bool, truth: TruthFilm | None, size: tuple[int, int]
) -> Float[Tensor, "2 3 h w"] | None:
    """The images that a sequence should lead between: those of the pair, or the ends of its true frames."""
    if stated:
        return torch.stack([read_image(file, size=size) for file in (pair.image_a, pair.image_b)])
    return None if truth is None else truth.read(size)[[0, -1]]


def _decibels(one: Float[Tensor, "2 3 h w"], other: Float[Tensor, "2 3 h w"]) -> tuple[float, float]:
    first, last = psnr(one, other).tolist()
    return first, last


def _check_ends(
    pair: str, method: str, film: WholeFilm, images: Float[Tensor, "2 3 h w"], *, least: float | None
) -> None:
    ends = film.ends()
    right, wrong = _decibels(ends, images), _decibels(ends, images.flip(0))
    if all(other > own + CLOSE_DB for own, other in zip(right, wrong, strict=True)):
        raise UserError(
            f"The sequence '{film.place}' runs backwards: its first frame is the second image of '{pair}' "
            f"({wrong[0]:.1f} dB) and its last the first; turn it round."
        )
    side = "first" if right[0] <= right[1] else "last"
    if least is not None and min(right) < least:
        raise UserError(
            f"The {side} frame of '{film.place}' ({method}) is not the image of '{pair}' that it should be: PSNR "
            f"{min(right):.1f} dB, less than {least:g}; give the sequence with its ends and uncropped, or set "
            "ends_db lower (null takes any)."
        )
    if least is not None and max(right) >= EXACT_DB and min(right) < LOST_DB:
        raise UserError(
            f"The {side} frame of '{film.place}' ({method}) is not the image of '{pair}' (PSNR {min(right):.1f} dB), "
            f"and the one at the other end is (to {max(right):.0f} dB): frames are missing there; give the whole "
            "sequence, or set ends_db=null to take it as it is."
        )


def _check_alike(method: str, own: Mapping[str, GivenSequence]) -> None:
    """Refuses a method whose sequences differ in how many frames they have, or in their size."""
    first_name, first = next(iter(own.items()))
    for name, one in own.items():
        if len(one.film.chosen) != len(first.film.chosen):
            raise UserError(
                f"The sequences of {method} differ in length ({len(first.film.chosen)} frames for '{first_name}', "
                f"{len(one.film.chosen)} for '{name}'): restore what is missing, or set count=<frames>."
            )
        if one.film.size != first.film.size:
            (height, width), (other_height, other_width) = first.film.size, one.film.size
            raise UserError(
                f"The sequences of {method} differ in size ({width} x {height} pixels for '{first_name}', "
                f"{other_width} x {other_height} for '{name}'): bring them to one, or set size=[height,width]."
            )


def _read(scored: ScoredPair, one: GivenSequence) -> GivenFrames:
    frames = one.film.read()
    truth = scored.truth
    images = _images(scored.pair, scored.stated, truth, one.film.size)
    a, b = frames[[0, -1]] if images is None else images
    batch = PairBatch(
        pairs=(scored.pair,),
        images_a=a[None],
        images_b=b[None],
        truth=(None if truth is None else truth.read(one.film.size),),
    )
    return GivenFrames(method=one.method, frames=frames[None], batch=batch)
