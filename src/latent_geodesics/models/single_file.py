"""A model in one file, as it is shared for other programs: unpacked once into a folder in diffusers' format.

The file holds weights alone. Their settings and the tokenizer are those of the model that it was made from: diffusers
tells by the weights which that is, and takes them from the hub or its cache; a folder of the same family may be given
in its place, so that nothing is asked of the hub. Many files hold the denoising network without all that goes with it
(`flux1-dev.safetensors` has neither text encoders nor an autoencoder): the rest comes from that folder.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from latent_geodesics.core.errors import UserError, is_out_of_memory
from latent_geodesics.models.components import absent_parts, family_of, read_component
from latent_geodesics.models.families import FAMILIES, Family
from latent_geodesics.models.headers import shapes
from latent_geodesics.models.sources import INDEX, SUFFIXES, Source, first_line, hub_problem, on_disk, weight_files

_LACKS = (
    "lacks some of the weights of a {}: copy it again, or give model.settings_of=<a folder in diffusers' format of the "
    "model that it was made from>"
)
# What diffusers calls the kinds of files that it tells apart, by how these names begin.
_PIPELINES = {
    **dict.fromkeys(("v1", "v2"), "StableDiffusionPipeline"),
    "xl_base": "StableDiffusionXLPipeline",
    **dict.fromkeys(("sd3", "sd35"), "StableDiffusion3Pipeline"),
    **dict.fromkeys(("flux-dev", "flux-schnell"), "FluxPipeline"),
}
_NETWORK = "model.diffusion_model."
"""How the names of the denoising network's tensors begin; a file of it alone may leave that out."""
_ADDED = f"{_NETWORK}label_emb.0.0.weight"
"""What only the U-Net of an XL has."""
# How the names of the other components' tensors begin.
_AUTOENCODER = {"first_stage_model.": "vae", "vae.": "vae"}
_TEXTS = {
    "StableDiffusionPipeline": {"cond_stage_model.": "text_encoder"},
    "StableDiffusionXLPipeline": {
        "conditioner.embedders.0.": "text_encoder",
        "conditioner.embedders.1.": "text_encoder_2",
    },
    "StableDiffusion3Pipeline": {
        "text_encoders.clip_l.": "text_encoder",
        "text_encoders.clip_g.": "text_encoder_2",
        "text_encoders.t5xxl.": "text_encoder_3",
    },
    "FluxPipeline": {"text_encoders.clip_l.": "text_encoder", "text_encoders.t5xxl.": "text_encoder_2"},
}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file holds of a model."""

    pipeline: str  # the pipeline of diffusers that it is a model of
    family: Family  # the family of it
    parts: Mapping[str, Sequence[torch.Tensor]]  # component -> its tensors, without their numbers
    folder: Path | None  # that of the settings, where one on this machine is given
    borrowed: tuple[str, ...]  # the components that the file lacks and this folder has
    absent: frozenset[str]  # the components that the model does without, as this folder says

    @property
    def numbers(self) -> dict[str, int]:
        """Component -> how many numbers the file holds of it."""
        return {name: _numbers(part) for name, part in self.parts.items()}


def unpacked(file: Path, *, settings_of: Source | None, folder: Path | None) -> Path:
    """The folder of a model in one file, made unless it was made before.

    Args:
        file: A file of weights.
        settings_of: A folder in diffusers' format, or a hub id, whose settings and tokenizer go with the weights, and
            which has the components that the file lacks; None for the one that diffusers takes them for.
        folder: Where what is unpacked is kept; None for a place that lasts until the machine is started anew.

    Raises:
        UserError: when it is not a model that is known, or its settings or a component cannot be had.
    """
    beside = sorted(each for each in Path(settings_of).rglob("*") if each.is_file()) if settings_of else []
    states = [(str(each.resolve()), (state := each.stat()).st_size, state.st_mtime_ns) for each in (file, *beside)]
    key = repr((states, str(settings_of)))
    place = (folder or Path(tempfile.gettempdir())) / f"model-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
    if (place / INDEX).is_file():
        return place
    pipeline = _read(file, settings_of)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        pipeline.save_pretrained(partial)
        partial.rename(place)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not (place / INDEX).is_file():  # another process may have been first
            raise
    return place


def contents(file: Path, *, settings_of: Source | None) -> Contents:
    """What a file holds of a model, by its tensors' names and shapes, and what comes from its settings' folder."""
    if file.suffix not in SUFFIXES:
        raise UserError(f"'{file}' is no file of weights ({' or '.join(SUFFIXES)}): give one, or a model's folder")
    tensors = shapes(file)
    pipeline = _pipeline_of(file, tensors)
    family = next(family for family in FAMILIES if pipeline in family.pipelines)
    parts = _parts(tensors, _AUTOENCODER | _TEXTS[pipeline], family.network)
    if family.network not in parts:  # taken from elsewhere, it would not be the model that is asked for
        raise UserError(f"'{file}' is a {pipeline} without its {family.network}: choose a file that has it")
    # Its settings are diffusers' own where no folder of them is on this machine as a whole.
    folder = None if settings_of is None else on_disk(settings_of)
    if folder is not None and folder != Path(str(settings_of)) and not (folder / INDEX).is_file():
        folder = None
    if folder is not None and family_of(folder) is not family:
        raise UserError(
            f"'{file}' is a {pipeline}, and model.settings_of={settings_of} is a model of another family: give the "
            "folder of the model that it was made from"
        )
    absent = frozenset[str]() if folder is None else absent_parts(folder, family)
    lacking = [part for part in (*_TEXTS[pipeline].values(), "vae") if part not in parts and part not in absent]
    missing = [part for part in lacking if folder is None or not weight_files(folder / part)]
    if missing:
        looked = "" if settings_of is None else f", and no weights of that are in {settings_of}"
        raise UserError(
            f"'{file}' is a {pipeline} without its {' and '.join(missing)}{looked}: choose a file of all weights, or "
            "give model.settings_of=<a folder in diffusers' format that has what the file lacks>"
        )
    return Contents(
        pipeline=pipeline, family=family, parts=parts, folder=folder, borrowed=tuple(lacking), absent=absent
    )


def _parts(tensors: Mapping[str, Any], begin: Mapping[str, str], network: str) -> dict[str, list[torch.Tensor]]:
    """The tensors of each component; where those of the network are marked, others may be of none."""
    marked = any(name.startswith(_NETWORK) for name in tensors)
    found: dict[str, list[torch.Tensor]] = {}
    for name, tensor in tensors.items():
        part = next((part for start, part in begin.items() if name.startswith(start)), None)
        if part is None and (name.startswith(_NETWORK) or not marked):
            part = network
        if part is not None:
            found.setdefault(part, []).append(tensor)
    return found


def _pipeline_of(file: Path, tensors: Mapping[str, Any]) -> str:
    """The pipeline of diffusers that a file of these tensors is a model of."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    known = ", ".join(family.pipelines[0] for family in FAMILIES)
    try:
        kind = str(infer_diffusers_model_type(tensors))
    except (AttributeError, IndexError, KeyError, UnboundLocalError, ValueError):  # of shapes that it does not expect
        kind = ""
    # What it knows nothing about, such as a file of adapters, it takes for a v1.
    if not kind or (kind == "v1" and not any(name.startswith(_NETWORK) for name in tensors)):
        raise UserError(
            f"'{file}' does not hold the weights of a whole model that is known: choose a file of one of {known}, or "
            "give a folder in diffusers' format"
        )
    if kind == "v1" and _ADDED in tensors:  # an XL is told by its second text encoder, which the file may lack
        kind = "xl_base"
    name = next((found for begin, found in _PIPELINES.items() if kind.startswith(begin)), None)
    if name is None:
        raise UserError(f"'{file}' is a model of the kind {kind}, which is not supported: choose one of {known}")
    return name


def _read(file: Path, settings_of: Source | None) -> Any:
    """The pipeline of a file, every weight of which comes from it or from the folder of its settings."""
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    content = contents(file, settings_of=settings_of)
    name, family = content.pipeline, content.family
    options: dict[str, Any] = {} if settings_of is None else {"config": str(settings_of)}
    options |= dict.fromkeys(content.absent)
    if content.folder is not None:
        options |= {part: read_component(content.folder, family, part, torch.float32) for part in content.borrowed}
    precisions = {tensor.dtype for part in content.parts.values() for tensor in part if tensor.is_floating_point()}
    if precisions in ({torch.float16}, {torch.bfloat16}):  # in float32, the largest networks would fill the memory
        options["torch_dtype"] = precisions.pop()
    try:
        pipeline = getattr(diffusers, name).from_single_file(str(file), **options)
    # What diffusers did not find it looks up in vain, or it has no numbers, and it stumbles over that.
    except (KeyError, NotImplementedError, SingleFileComponentError) as error:
        raise UserError(f"'{file}' {_LACKS.format(name)}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        said = hub_problem(error) if isinstance(error, OSError) else first_line(error)
        raise UserError(
            f"'{file}' looks like a {name}, and its settings cannot be had or do not fit ({said}): give "
            "model.settings_of=<a folder in diffusers' format of the model that it was made from>"
        ) from error
    for part in pipeline.components.values():
        if hasattr(part, "tie_weights"):  # diffusers fills one of two names of the same weights
            part.tie_weights()
        if isinstance(part, torch.nn.Module) and any(value.is_meta for value in part.state_dict().values()):
            raise UserError(f"'{file}' {_LACKS.format(type(part).__name__)}")
    network = getattr(pipeline, family.network)
    if content.numbers[family.network] > _numbers(network.state_dict().values()):  # diffusers drops the others
        raise UserError(
            f"'{file}' has more weights of a {type(network).__name__} than its settings tell of: choose one that is "
            "not quantized, or give model.settings_of=<a folder in diffusers' format of the model it was made from>"
        )
    return pipeline


def _numbers(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
