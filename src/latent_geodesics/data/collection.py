"""Collections of images: a folder, a manifest of images, or the images of a manifest of pairs.

A manifest of images is a CSV file with a line an image: `id, image`, and optionally `prompt, family, position, sha256`;
paths are relative to the manifest. Images of one `family` follow from one motion, on which `position` in [0, 1] says
where. A manifest of pairs (see `data.pairs`) gives the true frames of each pair as a family, or its two ends where it
has none.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.data.file_order import image_files
from latent_geodesics.data.images import as_uint8
from latent_geodesics.data.manifests import ManifestRow, read_columns, read_rows
from latent_geodesics.data.pairs import ImagePair, read_manifest

FEWEST = 2
REQUIRED, OPTIONAL = ("id", "image"), ("prompt", "family", "position", "sha256")


@dataclass(frozen=True, kw_only=True)
class CollectedImage:
    """An image file of a collection.

    Attributes:
        id: Its name, unique in the collection.
        family: The motion or the pair that it belongs to, or nothing.
        position: Where on that motion it lies, in [0, 1]; None where that is not known.
    """

    id: str
    file: Path
    prompt: str = ""
    family: str = ""
    position: float | None = None


def read_collection(
    source: str | Path, *, pairs: Sequence[str] | None = None, frames: int = 5, verify: bool = True
) -> list[CollectedImage]:
    """The images of a folder or of a manifest, in the order of their names or lines.

    Args:
        source: The folder, the manifest of images, or the manifest of pairs.
        pairs: Of a manifest of pairs, the ids to take; None for all.
        frames: Of a pair with true frames, how many to take, evenly spaced with both ends; at least 2.
        verify: Compare the files with the checksums of the manifest.

    Raises:
        UserError: when there is no such folder or file, it holds fewer than two images, a column or a file is missing,
            an id stands twice, a position is no number in [0, 1], or a file does not match its checksum.
    """
    source = Path(source)
    if source.is_dir():
        found = _of_folder(source)
    elif not source.is_file():
        raise UserError(f"The images '{source}' do not exist: give a folder of images or a CSV manifest.")
    elif {"image_a", "image_b"} <= set(read_columns(source)):
        found = images_of_pairs(_chosen(read_manifest(source, verify=verify), pairs, source), frames=frames)
    else:
        rows = read_rows(source, required=REQUIRED, optional=OPTIONAL, thing="image", option="task.images")
        found = [_listed(row, verify=verify) for row in rows]
    if len(found) < FEWEST:
        raise UserError(f"'{source}' holds {counted(len(found), 'image')}: distances need at least {FEWEST}.")
    return found


def images_of_pairs(pairs: Sequence[ImagePair], *, frames: int = 5) -> list[CollectedImage]:
    """The images of pairs: some of the true frames of each, evenly spaced, or its two ends."""
    if frames < FEWEST:
        raise UserError(f"frames must be at least {FEWEST} (both ends), got {frames}.")
    found = []
    for pair in pairs:
        if pair.frames:
            last = len(pair.frames) - 1
            for index in sorted({round(step * last / (frames - 1)) for step in range(frames)}):
                prompt = pair.prompt_a if 2 * index <= last else pair.prompt_b
                name, file = f"{pair.id}-{index:02d}", pair.frames[index]
                place = index / last
                found.append(CollectedImage(id=name, file=file, prompt=prompt, family=pair.id, position=place))
        else:
            for end, file, prompt in (("a", pair.image_a, pair.prompt_a), ("b", pair.image_b, pair.prompt_b)):
                found.append(CollectedImage(id=f"{pair.id}-{end}", file=file, prompt=prompt, family=pair.id))
    return found


def content_hash(image: Float[Tensor, "3 h w"]) -> str:
    """The sha256 of an image's pixels in eight bits, so that one picture in two files is one."""
    return hashlib.sha256(as_uint8(image).tobytes()).hexdigest()


def _of_folder(folder: Path) -> list[CollectedImage]:
    files = image_files(folder)
    stems = [file.stem for file in files]
    return [CollectedImage(id=file.stem if stems.count(file.stem) == 1 else file.name, file=file) for file in files]


def _listed(row: ManifestRow, *, verify: bool) -> CollectedImage:
    file = row.path("image")
    if not file.is_file():
        raise UserError(f"The image '{row['id']}' in {row.place} is '{file}', which is no file.")
    if verify:
        row.check("sha256", file)
    place = _position(row)
    return CollectedImage(id=row["id"], file=file, prompt=row["prompt"], family=row["family"], position=place)


def _position(row: ManifestRow) -> float | None:
    text = row["position"]
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UserError(
            f"The position of '{row['id']}' in {row.place} must be a number in [0, 1] such as 0.5, got {text!r}."
        )
    return value


def _chosen(pairs: list[ImagePair], names: Sequence[str] | None, manifest: Path) -> list[ImagePair]:
    if names is None:
        return pairs
    listed = {pair.id: pair for pair in pairs}
    unknown = [name for name in names if name not in listed]
    if unknown:
        raise UserError(f"'{manifest}' has no pair {', '.join(unknown)}: it has {', '.join(listed)}.")
    return [listed[name] for name in names]
