"""Loading a model: a folder in diffusers' format, or the name of one on the Hugging Face hub; or making a random one.

The folder must hold `model_index.json`, which says of which family it is, and that family's components. Nothing about
its sizes is assumed: the image size follows from the denoising network and the autoencoder. What is loaded in half
precision is the network alone.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.accelerator import choose_device, compile_network
from latent_geodesics.models.components import family_of, quiet, read_component, read_components
from latent_geodesics.models.families import Components, reduction_factor
from latent_geodesics.models.families.stable_diffusion import StableDiffusion
from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.models.precision import PRECISIONS, Precision, fitting_precision
from latent_geodesics.models.single_file import unpacked
from latent_geodesics.models.sources import Source, hub_problem, is_hub_id, no_model

log = logging.getLogger(__name__)


def load_model(
    path_or_name: Source | Sequence[Source],
    *,
    device: str = "auto",
    dtype: str = "auto",
    steps: int = 50,
    image_size: int | Sequence[int] | None = None,
    batch_size: int = 32,
    refinements: int = 20,
    inversion_tolerance: float | None = None,
    cache_dir: str | Path | None = None,
    cache_limit_mb: float = 2000.0,
    compile: bool = False,
    settings_of: Source | None = None,
) -> LatentModel:
    """Load a latent diffusion or flow model of one of `models.families`.

    Args:
        path_or_name: a folder in diffusers' format, a file of all weights, a hub id, or several, the first wins.
        device: a torch device, or `auto` for an accelerator where there is one.
        dtype: `float32`, `tf32`, `float16` or `bfloat16` of the network, or `auto`: the fastest in hardware whose error
            is measured to be small enough (`models.precision`); without a cache folder, and for networks that were
            trained in bfloat16 (the transformers of SD3 and FLUX), the family's usual one, nothing measured.
        steps: DDIM steps from pure noise to a clean latent; the noise level tau stands for `round(tau * steps)` of
            them.
        image_size: side or `(height, width)` of the images in pixels; None is what the model was trained on.
        batch_size: the largest number of images in one network call; halved when memory runs out.
        refinements: the most fixed-point refinements of a DDIM inversion step; 0 is the published inversion.
        inversion_tolerance: relative change below which a step is solved; None is 1e-5, in half precision 5e-4.
        cache_dir: folder that keeps inversions, embeddings and measurements of the device between runs, or None.
        cache_limit_mb: how large its tensors may be together, in 10^6 bytes; the longest unused go first.
        compile: whether to compile the network (`accelerator.compile_network`); it then keeps its memory layout.
        settings_of: for a file of weights, the folder or hub id of its settings and of what it lacks; None: diffusers'.

    Raises:
        UserError: when no model can be had, a component is missing or unreadable, or an option is out of range.
    """
    target = choose_device(device)
    precision = choose_precision(dtype, target)
    cache = None if cache_dir is None else Path(cache_dir)
    folder = _find([path_or_name] if isinstance(path_or_name, str | Path) else list(path_or_name))
    if folder.is_file():
        folder = unpacked(folder, settings_of=settings_of, folder=cache)
    family = family_of(folder)
    if precision is None and not family.measured:
        precision = family.usual_precision(target)
    components = replace(
        read_components(folder, PRECISIONS[precision or "float32"]),
        reload=lambda: read_component(folder, family, family.network, torch.float32).to(target),
    )
    for note in family.notes(components):
        log.warning("Of the model %s: %s.", folder, note)
    measured = place(components, target, precision, folder=cache)
    if compile:
        compile_network(components.network, target)
    return LatentModel(
        components=components,
        image_size=_image_size(image_size, components),
        steps=steps,
        batch_size=batch_size,
        refinements=refinements,
        inversion_tolerance=inversion_tolerance,
        cache_dir=cache,
        cache_limit_mb=cache_limit_mb,
        precision=measured,
    )


def choose_precision(name: str, device: torch.device) -> str | None:
    """The precision of a name, None for `auto`: the one that is measured to be fastest and near enough."""
    if name == "auto":
        return None
    if name not in PRECISIONS:
        raise UserError(f"dtype must be auto or one of {', '.join(PRECISIONS)}; received {name!r}")
    if name == "tf32" and device.type != "cuda":
        raise UserError(f"dtype=tf32 is a precision of NVIDIA's GPUs, and the device is {device}; use dtype=float32")
    return name


def place(components: Components, device: torch.device, precision: str | None, *, folder: Path | None) -> Precision:
    """Brings networks to their device, without gradients, and the denoising one to a precision; None measures which.

    A network whose precision is to be measured is in float32; `folder` is as of `fitting_precision`.
    """
    for part in (components.vae, components.network, *components.text_encoders.values()):
        part.requires_grad_(False).eval().to(device)
    found = Precision(dtype=precision or "float32")
    if precision is None:
        condition = components.family.embedder(components)("a photograph")[None]
        found = fitting_precision(components.network, components.family, condition=condition, folder=folder)
    # Torch's own `to`: that of diffusers warns of what was weighed here.
    torch.nn.Module.to(components.network, PRECISIONS[found.dtype])
    return found


def _find(candidates: Sequence[Source]) -> Path:
    """The folder or file of the first candidate that can be had, downloaded if need be."""
    failures = []
    for candidate in candidates:
        if Path(candidate).exists():
            return Path(candidate)
        if isinstance(candidate, Path) or not is_hub_id(candidate):
            failures.append(f"{candidate} (no such folder)")
            continue
        try:
            return fetch(candidate)
        except (OSError, ValueError) as error:
            failures.append(f"{candidate} (no such folder; {hub_problem(error)})")
    raise no_model(failures)


def fetch(hub_id: str) -> Path:
    """The local folder of a model on the hub, downloaded unless it is in the hub's cache.

    `OSError` when the hub or the model cannot be reached; `ValueError` for what it cannot serve.
    """
    with quiet("bitsandbytes"):
        from diffusers import DiffusionPipeline

    # Parts that are given as None are not downloaded.
    unused: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    with quiet("diffusers"):
        return Path(DiffusionPipeline.download(hub_id, use_safetensors=True, **unused))


def _image_size(requested: int | Sequence[int] | None, components: Components) -> tuple[int, int]:
    family = components.family
    if requested is None:
        trained = family.sample_size(components)
        if trained is None:
            raise UserError(
                "the model's network does not say what size of images it was trained on (its sample_size is null): "
                "give image_size"
            )
        sides = [side * reduction_factor(components.vae) for side in _pair(trained)]
    else:
        sides = _pair(requested)
    multiple, largest = family.multiple(components), family.largest(components)
    if len(sides) != 2 or any(not isinstance(side, int) or side <= 0 or side % multiple for side in sides):
        raise UserError(
            f"image_size must be one or two positive multiples of {multiple}, which this model's networks can halve; "
            f"received {sides if requested is None else requested}"
        )
    if largest is not None and max(sides) > largest:
        raise UserError(f"image_size must be at most {largest}, up to which this model has positions; received {sides}")
    return sides[0], sides[1]


def _pair(sides: Any) -> list[Any]:
    return list(sides) if isinstance(sides, Sequence) and not isinstance(sides, str) else [sides] * 2


def random_model(
    *,
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    parts: str | Path,
    image_size: int,
    device: str = "auto",
    dtype: str = "auto",
    steps: int = 50,
    batch_size: int = 16,
    cache_dir: str | Path | None = None,
    seed: int = 0,
) -> LatentModel:
    """Makes a latent diffusion model of given sizes with random weights: its speed does not depend on the values.

    `unet` and `vae` are arguments of diffusers' `UNet2DConditionModel` and `AutoencoderKL`; the tokenizer and the noise
    schedule are borrowed from `parts`, a model in diffusers' format. Images have `image_size` pixels a side, `seed` is
    that of the weights, and the other options are those of `load_model`.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTokenizer

    target, folder = choose_device(device), None if cache_dir is None else Path(cache_dir)
    tokenizer = CLIPTokenizer.from_pretrained(Path(parts) / "tokenizer")

    def network() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return UNet2DConditionModel(**unet)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        components = Components(
            family=StableDiffusion(),
            network=network(),
            vae=AutoencoderKL(**vae),
            texts={"tokenizer": tokenizer, "text_encoder": _text_encoder(tokenizer, int(unet["cross_attention_dim"]))},
            scheduler=DDIMScheduler.from_pretrained(Path(parts) / "scheduler"),
            reload=lambda: network().to(target),
        )
    return LatentModel(
        components=components,
        image_size=(image_size, image_size),
        steps=steps,
        batch_size=batch_size,
        cache_dir=folder,
        precision=place(components, target, choose_precision(dtype, target), folder=folder),
    )


def _text_encoder(tokenizer: Any, width: int) -> Any:
    """A text encoder of two layers: it runs once."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)
