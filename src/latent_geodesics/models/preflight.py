"""What a model is and what it takes, found without loading it; and how hard its density bends a path, with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.manifold import Sphere
from latent_geodesics.core.path import GreatCircle
from latent_geodesics.models.accelerator import choose_device
from latent_geodesics.models.components import LARGE, read_component, read_components
from latent_geodesics.models.headers import shapes
from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.models.precision import PRECISIONS
from latent_geodesics.models.scores import Score
from latent_geodesics.models.single_file import Contents, contents
from latent_geodesics.models.sources import SIZES, Source, check_source, on_disk, weight_files

POINTS = 5
"""Positions at which a score is looked at."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A component: the bytes of the files that are read of it, and how many numbers they hold (0 where not told)."""

    name: str
    bytes: int
    numbers: int


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A model that is on disk."""

    folder: Path  # where, a folder or a file of all weights
    family: str  # the pipeline that its family is called by
    parts: tuple[Part, ...]  # its components that have weights
    network: str  # which of them is the denoising network
    precision: str  # that of the network when it is loaded, as far as it is known beforehand

    @property
    def bytes(self) -> int:
        """The size of its weights on disk."""
        return sum(part.bytes for part in self.parts)

    @property
    def numbers(self) -> int:
        """How many weights it has."""
        return sum(part.numbers for part in self.parts)

    @property
    def memory(self) -> int:
        """The bytes of its weights in memory: the network in its precision, the others in float32.

        Large text encoders stay in the precision that they are stored in; see `components.LARGE`.
        """

        def width(part: Part) -> float:
            if part.name == self.network:
                return PRECISIONS[self.precision].itemsize
            kept = part.name.startswith("text_encoder") and part.numbers >= LARGE
            return part.bytes / part.numbers if kept else 4

        return round(sum(part.numbers * width(part) for part in self.parts))


def inspect(
    sources: Source | Sequence[Source], *, device: str = "auto", dtype: str = "auto", settings_of: Source | None = None
) -> Inspection:
    """Looks at the first of the folders, files and hub ids that is on this machine; options are those of `load_model`.

    Raises:
        UserError: when none is on this machine, saying which could be downloaded; or when the folder lacks something.
    """
    check_source(sources)
    candidates = [sources] if isinstance(sources, str | Path) else list(sources)
    folder = next((place for each in candidates if (place := on_disk(each)) is not None), None)
    if folder is None:
        raise UserError(
            f"the model is not on this machine; it can be had from the hub: run `hf download {candidates[0]}`, or "
            f"start the run, which downloads it{_size_of(candidates, device)}"
        )
    if folder.is_file():
        content = contents(folder, settings_of=settings_of)
        family, pipeline, parts = content.family, content.pipeline, _parts_with(folder, content)
    else:
        components = read_components(folder, None)
        family, pipeline = components.family, components.family.pipelines[0]
        names = (family.network, "vae", *components.text_encoders)
        parts = [_part(name, weight_files(folder / name)) for name in names]
    precision = family.usual_precision(choose_device(device)) if dtype == "auto" else dtype
    return Inspection(folder=folder, family=pipeline, parts=tuple(parts), network=family.network, precision=precision)


def _size_of(candidates: Sequence[Source], device: str) -> str:
    """How large a known model is and what memory is free, in words; nothing of one that is not known."""
    size = next((SIZES[str(each)] for each in candidates if str(each) in SIZES), None)
    if size is None:
        return ""
    free = free_memory(device)
    told = f", of which {choose_device(device)} has {free / 1e9:.0f} GB free" if free else ""
    return f"; its weights are about {size} GB, and need somewhat more than that in memory{told}"


def _parts_with(file: Path, content: Contents) -> list[Part]:
    """Those of a file of all weights, or of some, the others being in the folder of its settings."""
    share = file.stat().st_size / sum(content.numbers.values())
    parts = [Part(name=name, bytes=round(share * count), numbers=count) for name, count in content.numbers.items()]
    if content.folder is not None:
        for name in content.borrowed:
            read_component(content.folder, content.family, name, None)
            parts.append(_part(name, weight_files(content.folder / name)))
    return parts


def free_memory(device: str = "auto") -> int:
    """The bytes that a device has free; of a CPU, what the system could give without swapping. 0 where not told."""
    chosen, meminfo = choose_device(device), Path("/proc/meminfo")
    if chosen.type == "cuda":
        return int(torch.cuda.mem_get_info(chosen)[0])
    if chosen.type != "cpu" or not meminfo.exists():
        return 0
    told: Mapping[str, str] = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return 1024 * int(told.get("MemAvailable", "0 kB").split()[0])


@torch.no_grad()
def usual_strength(
    model: LatentModel,
    images: Float[Tensor, "2 3 h w"],
    prompts: Sequence[str],
    *,
    score: Score,
    tau: float,
    alpha: float,
) -> float:
    """How hard a density bends the geodesic between two images, alpha mean|P s| L, from above, in seconds.

    Along the great circle between both images with drawn noise: to invert them takes a hundred times as long. Inverted
    images lie nearer to each other; ten pairs of the shipped model have 0.3 to 0.9 of what is found here. Images are of
    the model's size, in [0, 1]; `score` makes the geometry, with the power alpha on its density.
    """
    noise = torch.randn(2, model.dimension, generator=torch.Generator().manual_seed(0)).to(model.device)
    x = model.abar(tau) ** 0.5 * model.encode(images) + model.sigma(tau) * noise
    sphere = Sphere(x.norm(dim=-1).mean(0, keepdim=True))
    ends = sphere.project(x)
    circle = GreatCircle(x0=ends[:1], x1=ends[1:], sphere=sphere)
    u = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    field = model.field(condition0=model.condition(prompts).mean(0, keepdim=True), tau=tau, score=score)
    points = circle.point(u)
    scores = sphere.tangent(points, field.score(points, u.to(points).expand(points.shape[:-1])))
    length = circle.velocity(u).norm(dim=-1).mean()
    return alpha * float(scores.norm(dim=-1).mean() * length)


def _part(name: str, files: Sequence[Path]) -> Part:
    """A component of some files: their numbers by the header; of pickled files, as many as have four bytes each."""
    sizes = {file: file.stat().st_size for file in files}
    numbers = (
        sum(tensor.numel() for tensor in shapes(file).values()) if file.suffix == ".safetensors" else size // 4
        for file, size in sizes.items()
    )
    return Part(name=name, bytes=sum(sizes.values()), numbers=sum(numbers))
