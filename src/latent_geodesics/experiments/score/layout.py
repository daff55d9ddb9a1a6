"""Where the sequences of a folder lie, and whose they are.

What is taken, by what a folder holds:

- `<method>/<pair>/<frames>` or `<method>/<pair>.mp4`;
- `<pair>/<frames>` or `<pair>.mp4`: of one method, which is called after the folder;
- frames, or a single film: one sequence;
- a run of this project that kept its frames: they lie in its folder `frames`;
- a CSV manifest with the columns `pair, frames` and, for several methods, `method`: a folder or a film in each line,
  relative to the manifest.

A folder of frames may hold other files (prompts, an animation of the same frames). Where a pair has both a folder and a
film, the folder is taken, since films lose something.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import ImagePair
from latent_geodesics.data.file_order import image_files, in_natural_order, visible_files
from latent_geodesics.data.manifests import read_rows
from latent_geodesics.run.compare.run_files import read_table
from latent_geodesics.run.files import file_stem
from latent_geodesics.run.run_folder import RESULTS

FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".y4m", ".gif", ".apng")
PERHAPS_FILMS = (".webp", ".avif", ".tif", ".tiff")
ALONE = "given"
RUN_CONFIG, RUN_FRAMES = "config.yaml", "frames"
LAYOUTS = "<method>/<pair>/<frames>, <pair>/<frames>, <pair>.mp4, or a CSV manifest with the columns pair and frames"


@dataclass(frozen=True, kw_only=True)
class FoundSequence:
    """A sequence that is there, still to be looked at; `place` is a folder of frames or a film's file."""

    method: str
    pair: str
    place: Path


def find_sequences(place: Path, *, method: str | None = None) -> list[FoundSequence]:
    """The sequences of a folder, a manifest or a film, in natural order.

    Args:
        place: The folder or file.
        method: What the method is called where the folders do not say.

    Raises:
        UserError: when it does not exist, or holds no sequences or some in no known order of folders.
    """
    if not place.exists():
        raise UserError(f"The sequences '{place}' do not exist: give a folder of them, {LAYOUTS}.")
    if place.is_file():
        if place.suffix.lower() in (".csv", ".tsv"):
            return _of_manifest(place, method)
        return [FoundSequence(method=method or ALONE, pair=place.stem, place=place)]
    root = _frames_of_run(place)
    inside = _children(root)
    deep = {name: child for name, child in inside.items() if child.is_dir() and not _holds_frames(child)}
    if _holds_frames(root) and not any(child.is_dir() for child in inside.values()):
        return [FoundSequence(method=method or ALONE, pair=root.resolve().name, place=root)]
    if not inside:
        raise UserError(f"The folder '{root}' holds no sequences: give {LAYOUTS}.")
    if not deep:
        return _of_method(method or root.resolve().name, inside)
    found: list[FoundSequence] = []
    for name, folder in deep.items():
        pairs = _children(folder)
        if not pairs:
            raise UserError(f"The folder '{folder}' holds no frames: put them there, or take the folder away.")
        found += _of_method(name, pairs)
    if len(deep) < len(inside):
        shallow = next(name for name in inside if name not in deep)
        raise UserError(
            f"The folder '{root}' holds both a sequence ('{shallow}') and a folder of sequences "
            f"('{next(iter(deep))}'): give {LAYOUTS}."
        )
    return found


def _frames_of_run(folder: Path) -> Path:
    """The frames of a run of this project; any other folder is taken as it is."""
    if not (folder / RUN_CONFIG).is_file():
        return folder
    if not (folder / RUN_FRAMES).is_dir():
        raise UserError(
            f"The run '{folder}' kept no frames (it has no folder '{RUN_FRAMES}'): give a run that did, or a folder of "
            "frames."
        )
    return folder / RUN_FRAMES


def pairs_of_run(folder: Path) -> dict[str, ImagePair]:
    """The pairs of a run of this project, with the images and true frames that it kept; none where it kept no images.

    Raises:
        UserError: when the run's table cannot be read.
    """
    if not (folder / RUN_CONFIG).is_file() or not (folder / RESULTS).is_file():
        return {}
    found = {}
    for _, row in read_table(folder).drop_duplicates("pair").iterrows():
        id, truth = str(row["pair"]), folder / "truth" / file_stem(str(row["pair"]))
        a, b = (folder / "ends" / f"{file_stem(id, end)}.png" for end in ("a", "b"))
        if not (a.is_file() and b.is_file()):
            return {}
        frames = tuple(image_files(truth)) if truth.is_dir() else ()
        group, cluster = (str(row.get(name, "")) for name in ("group", "cluster"))
        found[id] = ImagePair(id=id, image_a=a, image_b=b, frames=frames, group=group, cluster=cluster)
    return found


def _of_method(method: str, places: Mapping[str, Path]) -> list[FoundSequence]:
    for place in places.values():
        if place.is_dir() and not _holds_frames(place):
            raise UserError(f"The folder '{place}' holds no frames: put them there, or take the folder away.")
    return [FoundSequence(method=method, pair=name, place=place) for name, place in places.items()]


def _children(folder: Path) -> dict[str, Path]:
    """What may be sequences in a folder, by name: its folders, and films that no folder stands for."""
    folders = in_natural_order(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = {entry.name: entry for entry in folders}
    films: dict[str, Path] = {}
    for file in visible_files(folder):
        if file.stem in found or not _is_film(file):
            continue
        if file.stem in films:
            raise UserError(
                f"'{folder}' holds a sequence in two films ('{films[file.stem].name}' and '{file.name}'): keep one."
            )
        films[file.stem] = file
    return found | films


def _holds_frames(folder: Path) -> bool:
    """Whether pictures lie in a folder that are no films."""
    return any(not _is_film(file) for file in image_files(folder))


def _is_film(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix not in PERHAPS_FILMS:
        return suffix in FILMS
    try:
        with Image.open(file) as opened:
            return getattr(opened, "n_frames", 1) > 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False  # a damaged picture or one too large, which its reader says


def _of_manifest(manifest: Path, method: str | None) -> list[FoundSequence]:
    rows = read_rows(
        manifest,
        required=("pair", "frames"),
        optional=("id", "method"),
        thing="sequence",
        option="frames",
        files=("frames",),
    )
    found = []
    for row in rows:
        if not row["pair"]:
            raise UserError(f"The sequence in {row.place} has no pair: name one in the column pair.")
        maker = row["method"] or method or ALONE
        found.append(FoundSequence(method=maker, pair=row["pair"], place=row.path("frames")))
    return found
