"""Pairs from a folder of images, without a manifest: by their names, or each image with the next one.

By names, two images are a pair where their names differ in nothing but a mark at the end, behind a `_`, `-`, a point or
a space: `0` and `1`, `1` and `2`, `a` and `b`, `left` and `right`, `start` and `end`, `before` and `after`, `source`
and `target`, `first` and `second`. Where the folder itself holds no images but two folders that are called by such
marks, images of one name in both are a pair. The case of letters does not count.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from latent_geodesics.core.errors import UserError, counted, near_name
from latent_geodesics.data.file_order import IMAGE_SUFFIXES, image_files, in_natural_order
from latent_geodesics.data.images import check_image
from latent_geodesics.data.manifests import read_rows
from latent_geodesics.data.pairs import ImagePair, PairSelection

log = logging.getLogger(__name__)

MARKS = (
    ("0", "1"), ("1", "2"), ("a", "b"), ("left", "right"), ("start", "end"), ("before", "after"), ("source", "target"),
    ("first", "second"),
)  # fmt: skip
MARKED = re.compile(rf"(.*\S)[_\-. ]({'|'.join(sorted({mark for pair in MARKS for mark in pair}))})", re.I | re.S)
PAIRINGS = ("names", "neighbours")
SHOWN = 3


class FolderPairs(PairSelection):
    """The pairs of a folder of images.

    Args:
        root: The folder.
        pairing: `names` pairs images by their names (see the module's text); `neighbours` pairs each image with the
            next, in the order of their names and of the numbers in them.
        prompts: A text file with what the images show: one line for all of them, a line for each in the order of their
            names, or a CSV file with the columns `image` (the file's name) and `prompt`; None for empty prompts.
        selection: `every`, `limit`, `batch_size` and `shard`; see `PairSelection`.

    Raises:
        UserError: when the folder makes no pair, an image of it is none, or the prompts do not fit its images.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        pairing: Literal["names", "neighbours"] = "names",
        prompts: str | Path | None = None,
        **selection: Any,
    ) -> None:
        folder = Path(root)
        if pairing not in PAIRINGS:
            raise UserError(
                f"data.pairing must be names or neighbours, got {pairing!r}.{near_name(str(pairing), PAIRINGS)}"
            )
        if not folder.is_dir():
            raise UserError(f"'{folder}' is no folder: set data.root to a folder of images.")
        found = _neighbours(folder) if pairing == "neighbours" else _by_name(folder)
        images = in_natural_order({file for _, *files in found for file in files})
        for file in images:
            check_image(file)
        said = {} if prompts is None else _prompts(Path(prompts), images)
        pairs = [
            ImagePair(
                id=name, group=folder.name, image_a=first, image_b=second, prompt_a=said.get(first, ""),
                prompt_b=said.get(second, ""),
            )
            for name, first, second in found
        ]  # fmt: skip
        super().__init__(pairs=pairs, **selection)


def _neighbours(folder: Path) -> list[tuple[str, Path, Path]]:
    """Name, first and second image of each pair."""
    files = image_files(folder)
    if len(files) < 2:
        raise UserError(
            f"The folder '{folder}' holds {counted(len(files), 'image')} ({', '.join(IMAGE_SUFFIXES)}): neighbours "
            "need two."
        )
    stems = [file.stem for file in files]
    names = [file.stem if stems.count(file.stem) == 1 else file.name for file in files]
    return [(f"{names[place]}--{names[place + 1]}", *files[place : place + 2]) for place in range(len(files) - 1)]  # type: ignore[misc]


def _by_name(folder: Path) -> list[tuple[str, Path, Path]]:
    marked = _of_folders(folder) or _of_files(folder)
    pairs, left_out = [], []
    for name, files in marked.items():
        marks = tuple(mark for mark, _ in files)
        if marks in MARKS:
            pairs.append((name, files[0][1], files[1][1]))
        elif len(files) > 1:
            said = " and ".join(f"'{file.name}'" for _, file in files[:SHOWN]) + (" ..." if len(files) > SHOWN else "")
            raise UserError(
                f"It cannot be told which images of '{folder}' are a pair ({said}): keep two of a name, or set "
                "data.pairing=neighbours."
            )
        else:
            left_out.append(files[0][1].name)
    if not pairs:
        raise UserError(
            f"The folder '{folder}' holds no two images that are a pair by their names, such as x_a.png and x_b.png, "
            "or folders 'left' and 'right' with images of one name: rename them, or set data.pairing=neighbours."
        )
    if left_out:
        said = ", ".join(left_out[:SHOWN]) + (" ..." if len(left_out) > SHOWN else "")
        images = counted(len(left_out), "image")
        log.warning("Left out, for want of a partner by name, %s of '%s': %s", images, folder, said)
    return pairs


def _of_folders(folder: Path) -> dict[str, list[tuple[str, Path]]]:
    """Name of an image -> the marks of the folders that it lies in, and its files; empty where there are none such."""
    if image_files(folder):
        return {}
    beside = {each.name.casefold(): each for each in folder.iterdir() if each.is_dir()}
    for marks in MARKS:
        if all(mark in beside for mark in marks):
            found: dict[str, list[tuple[str, Path]]] = {}
            for mark in marks:
                for file in image_files(beside[mark]):
                    found.setdefault(file.stem, []).append((mark, file))
            return found
    return {}


def _of_files(folder: Path) -> dict[str, list[tuple[str, Path]]]:
    """Name of a pair -> the marks and files that go by it, in their order; a file without a mark goes by its own."""
    found: dict[str, list[tuple[str, Path]]] = {}
    for file in image_files(folder):
        parts = MARKED.fullmatch(file.stem)
        name, mark = (parts[1], parts[2].casefold()) if parts else (file.name, "")
        found.setdefault(name, []).append((mark, file))
    order = {mark: place for marks in MARKS for place, mark in enumerate(marks) if mark != "1"}
    for files in found.values():
        files.sort(key=lambda each: order.get(each[0], 0.5))
    return found


def _prompts(file: Path, images: Sequence[Path]) -> dict[Path, str]:
    if not file.is_file():
        raise UserError(f"The file of prompts '{file}' (data.prompts) does not exist: give a text file, or null.")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"The file of prompts '{file}' is no text in UTF-8: save it as such.") from error
    if lines and {"image", "prompt"} <= {name.strip() for name in re.split(r"[,;\t]", lines[0])}:
        return _listed_prompts(file, images)
    if len(lines) not in (1, len(images)):
        raise UserError(
            f"The file of prompts '{file}' has {len(lines)} lines for {len(images)} images: write one line for all of "
            "them, or one for each in the order of their names."
        )
    return dict(zip(images, lines * (len(images) if len(lines) == 1 else 1), strict=True))


def _listed_prompts(file: Path, images: Sequence[Path]) -> dict[Path, str]:
    rows = read_rows(file, required=("image", "prompt"), thing="prompt", option="data.prompts", files=("image",))
    known = {row["image"].replace("\\", "/"): row["prompt"] for row in rows}
    names = {name: [image for image in images if image.as_posix().endswith(f"/{name}")] for name in known}
    unused = next((name for name, of in names.items() if not of), None)
    if unused is not None:
        hint = near_name(unused, [image.name for image in images])
        raise UserError(f"The prompts '{file}' name '{unused}', which is no image of a pair.{hint}")
    return {image: known[name] for name, of in names.items() for image in of}
