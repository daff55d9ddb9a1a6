"""Weight files of published networks: where each comes from, where it may lie, and whether it is what its name says.

A file is looked for at an explicit path, in the project's own folder (`weights/`), in the folder that the environment
variable LATENT_GEODESICS_WEIGHTS names, and in the caches of the libraries that use it (torch hub, pyiqa, Hugging
Face); it is downloaded into the project's folder where that is allowed. The first place that holds it counts: a file
that is not what its name says is an error, and nothing else takes its place. What a run needs is checked before it
starts, and one error names all that is missing.

A hash is checked as far as it is known. torch.hub checks its files by a part of the sha256 that stands in their names,
but only when it downloads them; the other libraries check nothing. Where no hash is known, the run records the hash
that the file has, and `sha256` of `WeightsRegistry` can hold later runs to it.
"""

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from latent_geodesics.core.errors import UserError, is_out_of_memory
from latent_geodesics.models.sources import file_hash, why_unreadable
from latent_geodesics.models.store import remembered

FOLDER_VARIABLE = "LATENT_GEODESICS_WEIGHTS"
HASHES = Path(".cache/hashes")
"""Where the hashes of files are remembered, below the folder that a run is started in."""
PATIENCE = 30  # seconds without an answer before a download is given up


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A published file."""

    id: str  # how the configuration calls it
    name: str  # its file name
    what: str  # what it is, for the person who has to find it
    url: str | None  # where it is published; None where it is not published by itself
    megabytes: float  # its size, as published
    sha256: str = ""  # the whole hash; empty where it is not known
    prefix: str = ""  # the beginning of the hash, where only that is known
    cache: str = "checkpoints"  # the folder of torch.hub's directory in which the library that uses it keeps it
    repository: str = ""  # on the Hugging Face hub, where it is there


_IQA = "chaofengc/IQA-PyTorch-Weights"
_TORCHVISION = "https://download.pytorch.org/models"

KNOWN: Mapping[str, WeightsFile] = {
    file.id: file
    for file in (
        WeightsFile(
            id="alexnet", name="alexnet-owt-7be5be79.pth", what="AlexNet of LPIPS-alex",
            url=f"{_TORCHVISION}/alexnet-owt-7be5be79.pth", megabytes=233.087, prefix="7be5be79",
        ),
        WeightsFile(
            id="vgg16", name="vgg16-397923af.pth", what="VGG-16 of LPIPS-vgg",
            url=f"{_TORCHVISION}/vgg16-397923af.pth", megabytes=527.796, prefix="397923af",
        ),
        WeightsFile(
            id="squeezenet1_1", name="squeezenet1_1-b8a52dc0.pth", what="SqueezeNet 1.1 of LPIPS-squeeze",
            url=f"{_TORCHVISION}/squeezenet1_1-b8a52dc0.pth", megabytes=4.729, prefix="b8a52dc0",
        ),
        WeightsFile(
            id="squeezenet1_1_fp16", name="squeezenet1_1_fp16.pth",
            what="SqueezeNet 1.1 rounded to half precision, of lpips_squeeze_fp16", url=None, megabytes=2.496,
            sha256="f1bbad077367b8989ae9e0a83136ae8a404f7f0b87e13040b69b189d1e0aafab",
        ),
        WeightsFile(
            id="inception", name="weights-inception-2015-12-05-6726825d.pth", what="Inception of FID and KID",
            url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth", megabytes=95.7,
        ),
        WeightsFile(
            id="topiq_nr", name="cfanet_nr_koniq_res50-9a73138b.pth", what="CFANet of TOPIQ without a reference",
            url=f"https://huggingface.co/{_IQA}/resolve/main/cfanet_nr_koniq_res50-9a73138b.pth", megabytes=181,
            cache="pyiqa", repository=_IQA,
        ),
        WeightsFile(
            id="topiq_fr", name="cfanet_fr_kadid_res50-2c4cc61d.pth", what="CFANet of TOPIQ with a reference",
            url=f"https://huggingface.co/{_IQA}/resolve/main/cfanet_fr_kadid_res50-2c4cc61d.pth", megabytes=144,
            cache="pyiqa", repository=_IQA,
        ),
    )
}  # fmt: skip
"""Hashes, addresses and sizes as torchvision, torch-fidelity and pyiqa give them; others are not known."""


@dataclass(frozen=True, kw_only=True)
class WeightsRegistry:
    """Where weight files are taken from."""

    folder: str = "weights"  # the project's folder of weights; downloads go there
    files: Mapping[str, str] = field(default_factory=dict)  # id -> path, for files that lie elsewhere
    # Id -> hash that the file must have, for files whose hash is not known otherwise
    sha256: Mapping[str, str] = field(default_factory=dict)
    download: bool = False  # whether a missing file may be downloaded

    def __post_init__(self) -> None:
        for name, given in (("files", self.files), ("sha256", self.sha256)):
            unknown = sorted(set(given) - set(KNOWN))
            if unknown:
                raise UserError(
                    f"weights.{name} names {', '.join(unknown)}, which no metric uses: there are {', '.join(KNOWN)}."
                )

    def places(self, file: WeightsFile) -> list[Path]:
        """Where a file is looked for, in this order; an explicit path is the only place."""
        if file.id in self.files:
            return [Path(self.files[file.id]).expanduser()]
        import torch

        folders = [Path(self.folder).expanduser()]
        if os.environ.get(FOLDER_VARIABLE):
            folders.append(Path(os.environ[FOLDER_VARIABLE]).expanduser())
        folders.append(Path(torch.hub.get_dir()) / file.cache)
        found = [folder / file.name for folder in folders]
        return [*found, *_of_the_hub(file)]

    def find(self, file: WeightsFile) -> Path | None:
        """The first place that holds a file, or None."""
        return next((place for place in self.places(file) if place.is_file()), None)

    def problem(self, file: WeightsFile) -> str | None:
        """What keeps a file from being used, for the user; None where it is there and is what its name says."""
        place = self.find(file)
        if place is None and file.id in self.files:
            return f"{file.name} ({file.what}, {file.megabytes:.1f} MB): weights.files.{file.id} names no file"
        if place is None:
            source = f"from {file.url}" if file.url else "which has no public address of its own"
            target = (Path(self.folder).expanduser() / file.name).absolute()
            return f"{file.name} ({file.what}, {file.megabytes:.1f} MB), {source}: put it at '{target}'"
        expected, found = self.sha256.get(file.id, file.sha256) or file.prefix, weights_file_hash(place)
        if not found.startswith(expected.lower()):
            return (
                f"{file.name} ({file.what}): '{place}' is another file (its sha256 is {found[:16]}..., not "
                f"{expected[:16]}{'' if len(expected) < 16 else '...'}); remove it, or restore it"
            )
        return None

    def take(self, id: str) -> Path:
        """The path of a file; a `UserError` where it is not there, or not what its name says."""
        require([Requirement(registry=self, id=id)])
        found = self.find(KNOWN[id])
        assert found is not None
        return found

    def fetch(self, file: WeightsFile) -> None:
        """Downloads a file into the project's folder, whole or not at all; a `UserError` where nothing answers."""
        import torch

        assert file.url is not None
        target = Path(self.folder).expanduser() / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(PATIENCE)
        try:
            torch.hub.download_url_to_file(file.url, str(target))
        except OSError as error:
            raise UserError(
                f"{file.name} could not be downloaded from {file.url} ({error}): put it at '{target}' by other means."
            ) from error
        finally:
            socket.setdefaulttimeout(before)


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A file that something needs, and the registry that is to have it."""

    registry: WeightsRegistry
    id: str

    @property
    def file(self) -> WeightsFile:
        """What is needed."""
        return KNOWN[self.id]


def require(requirements: Iterable[Requirement]) -> None:
    """Downloads files where their registry allows it; refuses what is missing or another file, in one `UserError`."""
    problems: dict[str, str] = {}
    for needed in requirements:
        registry, file = needed.registry, needed.file
        if registry.download and file.url and file.id not in registry.files and registry.find(file) is None:
            registry.fetch(file)
        problem = registry.problem(file)
        if problem is not None:
            problems[file.id] = problem
    if problems:
        noun = "A weight file is" if len(problems) == 1 else f"{len(problems)} weight files are"
        listed = "".join(f"\n  {problem}" for problem in problems.values())
        raise UserError(
            f"{noun} needed before this run can start (or leave out the metrics that need such, or allow downloads by "
            f"weights.download=true):{listed}"
        )


def weights_file_hash(path: Path) -> str:
    """The sha256 of a file, remembered for as long as the file stays as it is."""
    return remembered(HASHES, [path], (), partial(file_hash, path))


def load_tensors(path: Path) -> dict[str, Any]:
    """A file of tensors, read without running code in it; a `UserError` when it is damaged or holds other things."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises whatever it meets
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"'{path}' cannot be read as a file of weights ({why_unreadable(error)}): restore it."
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"'{path}' holds a {type(found).__name__} instead of named weights: restore it.")
    return found


def _of_the_hub(file: WeightsFile) -> list[Path]:
    """The file in the cache of the Hugging Face hub, where it is there."""
    if not file.repository:
        return []
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(file.repository, file.name)
    return [Path(found)] if isinstance(found, str) else []
