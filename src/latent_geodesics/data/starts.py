"""Images that a path starts from: those of a list of pairs, of a folder, or a single file.

A start may name a second image, for the velocities that lead from one image to another: the pair's own, or, in a
folder, the next file by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.file_order import IMAGE_SUFFIXES, image_files
from latent_geodesics.data.pairs import ImagePair


@dataclass(frozen=True, kw_only=True)
class Start:
    """An image to leave, and perhaps a second one that gives the direction; prompts say what they show."""

    id: str
    image: Path
    prompt: str = ""
    second: Path | None = None
    second_prompt: str = ""


def starts_of_pairs(pairs: Sequence[ImagePair]) -> tuple[Start, ...]:
    """The first image of each pair, its second as the other."""
    return tuple(
        Start(id=one.id, image=one.image_a, prompt=one.prompt_a, second=one.image_b, second_prompt=one.prompt_b)
        for one in pairs
    )


def pick_pairs(pairs: Sequence[ImagePair], ids: Sequence[str]) -> tuple[ImagePair, ...]:
    """The pairs with the given ids, in the order of the ids; all of them if none is given, or if there is only one.

    Raises:
        UserError: when an id names no pair.
    """
    return tuple(pairs) if not ids or len(pairs) == 1 else pairs_named(pairs, ids)


def pairs_named(pairs: Sequence[ImagePair], ids: Sequence[str]) -> tuple[ImagePair, ...]:
    """The pairs with the given ids, in the order of the ids.

    Raises:
        UserError: when an id names no pair.
    """
    known = {pair.id: pair for pair in pairs}
    unknown = [name for name in ids if name not in known]
    if unknown:
        raise UserError(f"There is no pair {', '.join(map(repr, unknown))}; there are: {', '.join(known)}.")
    return tuple(known[name] for name in ids)


def starts_on_disk(images: str | Path, *, prompt: str = "") -> tuple[Start, ...]:
    """The image files of a folder in the order of their names and the numbers in them, or one file.

    Raises:
        UserError: when there is no such file or folder, or the folder holds no image.
    """
    place = Path(images)
    if place.is_file():
        return (Start(id=place.stem, image=place, prompt=prompt),)
    if not place.is_dir():
        raise UserError(f"'{place}' is neither a file nor a folder: give an image file, or a folder of image files.")
    files = image_files(place)
    if not files:
        raise UserError(f"The folder '{place}' holds no image files ({', '.join(IMAGE_SUFFIXES)}): give one that does.")
    stems = [file.stem for file in files]
    names = [file.stem if stems.count(file.stem) == 1 else file.name.replace(".", "_") for file in files]
    return tuple(
        Start(id=name, image=file, prompt=prompt, second=second, second_prompt=prompt)
        for name, file, second in zip(names, files, [*files[1:], None], strict=True)
    )
