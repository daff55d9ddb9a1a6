"""A model in one file, as it is shared for other programs: unpacked once into a folder in diffusers' format.

The file holds weights alone. Their settings and the tokenizer are those of the model that it was made from: diffusers
tells by the weights which that is, and takes them from the hub or its cache; a folder of the same family may be given
in its place, so that nothing is asked of the hub.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from latent_geodesics.core.errors import UserError, is_out_of_memory
from latent_geodesics.models.families import FAMILIES
from latent_geodesics.models.sources import INDEX, SUFFIXES, first_line, hub_problem

_LACKS = (
    "lacks some of the weights of a {}: copy it again, or give model.settings_of=<a folder in diffusers' format of the "
    "model that it was made from>"
)
# What diffusers calls the kinds of files that it tells apart, by how these names begin.
_PIPELINES = {
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "xl_base": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sd35": "StableDiffusion3Pipeline",
    "flux-dev": "FluxPipeline",
    "flux-schnell": "FluxPipeline",
}
_NETWORK = "model.diffusion_model."
"""How the names of the U-Net's tensors begin."""


def unpacked(file: Path, *, settings_of: str | Path | None, folder: Path | None) -> Path:
    """The folder of a model in one file, made unless it was made before.

    Args:
        file: A file of weights.
        settings_of: A folder in diffusers' format, or a hub id, whose settings and tokenizer go with the weights; None
            for the one that diffusers takes them for.
        folder: Where what is unpacked is kept; None for a place that lasts until the machine is started anew.

    Raises:
        UserError: when it is not a model that is known, or its settings cannot be had.
    """
    state = file.stat()
    key = repr((str(file.resolve()), state.st_size, state.st_mtime_ns, str(settings_of)))
    place = (folder or Path(tempfile.gettempdir())) / f"model-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
    if (place / INDEX).is_file():
        return place
    pipeline = _read(file, settings_of)
    partial = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=_made(place.parent)))
    try:
        pipeline.save_pretrained(partial)
        partial.rename(place)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not (place / INDEX).is_file():  # another process may have been first
            raise
    return place


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shapes(file: Path) -> dict[str, Any]:
    """The tensors of a file without their numbers.

    Raises:
        UserError: when it is no file of weights, or cannot be read.
    """
    if file.suffix not in SUFFIXES:
        raise UserError(f"'{file}' is no file of weights ({' or '.join(SUFFIXES)}): give one, or a model's folder")
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as content:
                return {
                    key: torch.empty(content.get_slice(key).get_shape(), device="meta")
                    for key in content.keys()  # noqa: SIM118 - it is no mapping
                }
        loaded = torch.load(file, map_location="meta", weights_only=True)
        found = loaded.get("state_dict", loaded)
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"'{file}' cannot be read ({first_line(error)}); copy it again") from error


def pipeline_of(file: Path, tensors: Mapping[str, Any]) -> str:
    """The pipeline of diffusers that a file of these tensors is a model of.

    Raises:
        UserError: when it is none that is known.
    """
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
    name = next((found for begin, found in _PIPELINES.items() if kind.startswith(begin)), None)
    if name is None:
        raise UserError(f"'{file}' is a model of the kind {kind}, which is not supported: choose one of {known}")
    return name


def _read(file: Path, settings_of: str | Path | None) -> Any:
    """The pipeline of a file, every weight of which comes from it or from the folder of its settings."""
    import diffusers

    name = pipeline_of(file, shapes(file))
    options = {} if settings_of is None else {"config": str(settings_of)}
    try:
        pipeline = getattr(diffusers, name).from_single_file(str(file), **options)
    except NotImplementedError as error:  # what diffusers did not find has no numbers, and it stumbles over that
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
        if isinstance(part, torch.nn.Module) and any(value.is_meta for value in part.state_dict().values()):
            raise UserError(f"'{file}' {_LACKS.format(type(part).__name__)}")
    return pipeline
