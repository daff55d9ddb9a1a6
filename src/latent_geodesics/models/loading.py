"""Loading a model: a folder in diffusers' format, or the name of one on the Hugging Face hub.

The folder must hold `model_index.json` and the components `vae`, `unet`, `text_encoder`, `tokenizer` and `scheduler`.
Nothing about its sizes is assumed: the image size follows from the U-Net and the autoencoder. What is loaded in half
precision is the U-Net alone.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from latent_geodesics.errors import UserError, is_out_of_memory
from latent_geodesics.models.accelerator import choose_device
from latent_geodesics.models.compilation import compile_network
from latent_geodesics.models.conditioning import TextConditioner
from latent_geodesics.models.image_codec import reduction_factor
from latent_geodesics.models.latent_model import Components, LatentModel
from latent_geodesics.models.precision import PRECISIONS, Precision, fitting_precision
from latent_geodesics.models.sources import check_model_folder, first_line, hub_problem, is_hub_id, no_model

__all__ = ["choose_precision", "load_model", "place"]


# Of each component: its settings, and one of these patterns of files that hold the rest of it.
_SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
"""Schedulers that differ in how they sample, not in the noise of a training time, which is all that is read of them."""
_WEIGHTS = ("*.safetensors", "*.bin")
_VARIANT = re.compile(r"[^.]+?(?:\.([^.]+?))?(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin)")
_VARIANTS = ("fp32", "fp16", "bf16", "ema", "non_ema")
"""The variants that diffusers' models are published in, the one to take first; without a name comes before all."""
_REQUIRED: dict[str, tuple[str, tuple[str, ...]]] = {
    "unet": ("config.json", _WEIGHTS),
    "vae": ("config.json", _WEIGHTS),
    "text_encoder": ("config.json", _WEIGHTS),
    "tokenizer": ("tokenizer_config.json", ("tokenizer.json", "vocab.json")),
    "scheduler": ("scheduler_config.json", ("scheduler_config.json",)),
}


def load_model(
    path_or_name: str | Path | Sequence[str | Path],
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
) -> LatentModel:
    """Load a Stable-Diffusion-like latent diffusion model.

    Args:
        path_or_name: a folder in diffusers' format, a hub id, or several of them, of which the first that can be had
            is taken.
        device: a torch device, or `auto` for an accelerator where there is one.
        dtype: `float32`, `tf32`, `float16` or `bfloat16` of the U-Net, or `auto`: the fastest of those that the device
            has in hardware whose error is measured to be small enough (`models.precision`); without a cache folder
            nothing is measured: float16 on an accelerator, float32 on a CPU.
        steps: DDIM steps from pure noise to a clean latent; the noise level tau stands for `round(tau * steps)` of
            them.
        image_size: side or `(height, width)` of the images in pixels; None is the size that the model was trained on.
        batch_size: the largest number of images in one network call; halved when memory runs out.
        refinements: the most fixed-point refinements of a DDIM inversion step; 0 is the published inversion.
        inversion_tolerance: relative change below which a step is solved; None is 1e-5, in half precision 5e-4.
        cache_dir: folder that keeps inversions, embeddings and what was measured of the device between runs, or None.
        cache_limit_mb: how large its tensors may be together, in 10^6 bytes; the longest unused go first.
        compile: whether to compile the U-Net (`models.compilation`); it then keeps its memory layout.

    Raises:
        UserError: when no model can be had, a component is missing or unreadable, or an option is out of range.
    """
    target = choose_device(device)
    precision = choose_precision(dtype, target)
    folder = _find([path_or_name] if isinstance(path_or_name, str | Path) else list(path_or_name))
    cache = None if cache_dir is None else Path(cache_dir)
    components = _load_components(folder, PRECISIONS[precision or "float32"])
    _check_architecture(folder, components)
    components = replace(components, reload=partial(_reload_unet, folder, target))
    measured = place(components, target, precision, folder=cache)
    if compile:
        compile_network(components.unet, target)
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
    """Brings networks to their device, without gradients, and the U-Net to a precision; None measures which.

    Args:
        components: the parts of a model, whose U-Net is in float32 where the precision is None.
        device: where to.
        precision: one of `PRECISIONS`, or None.
        folder: where measurements are remembered; see `fitting_precision`.
    """
    for part in (components.vae, components.text_encoder, components.unet):
        part.requires_grad_(False).eval().to(device)
    found = Precision(dtype=precision or "float32")
    if precision is None:
        embed = TextConditioner(tokenizer=components.tokenizer, text_encoder=components.text_encoder)
        found = fitting_precision(components.unet, condition=embed(["a photograph"]), folder=folder)
    # Torch's own `to`: that of diffusers warns of what was weighed here.
    torch.nn.Module.to(components.unet, PRECISIONS[found.dtype])
    return found


def _reload_unet(folder: Path, device: torch.device) -> Any:
    with _without_progress_bars():
        return _load_component(folder, "unet", torch.float32).to(device)


def _find(candidates: Sequence[str | Path]) -> Path:
    """The folder of the first candidate that can be had, downloaded if need be."""
    failures = []
    for candidate in candidates:
        if Path(candidate).is_dir():
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

    Raises:
        OSError: when the hub or the model cannot be reached; `ValueError` for what it cannot serve.
    """
    with _quiet("bitsandbytes"):
        from diffusers import StableDiffusionPipeline

    # Parts that are given as None are not downloaded.
    unused: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    with _quiet("diffusers"):
        return Path(StableDiffusionPipeline.download(hub_id, use_safetensors=True, **unused))


@contextmanager
def _quiet(library: str) -> Iterator[None]:
    """Hold back a library's warnings about what is reported anyway."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _load_components(folder: Path, precision: torch.dtype) -> Components:
    """The components of a folder, each checked first so that what is missing is named; `precision` is the U-Net's."""
    check_model_folder(folder)
    for name in _REQUIRED:
        _check_component(folder, name)
    _check_scheduler(folder)
    with _without_progress_bars():
        return Components(**{name: _load_component(folder, name, precision) for name in _REQUIRED})


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Reading a file takes no time worth a bar; a download, elsewhere, does."""
    from transformers.utils import logging as transformers_logging

    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


def _check_component(folder: Path, name: str) -> None:
    settings, patterns = _REQUIRED[name]
    part = folder / name
    missing = None
    if not (part / settings).is_file():
        missing = settings
    elif not any(any(part.glob(pattern)) for pattern in patterns):
        missing = " or ".join(patterns)
    if missing:
        raise UserError(
            f"the model {folder} lacks the component {name}: there is no {part / missing}; "
            "copy the whole model folder again, or download it afresh"
        )


def _load_component(folder: Path, name: str, precision: torch.dtype) -> Any:
    """One component; the library's many kinds of error become one sentence."""
    variant = _variant(folder / name) if _WEIGHTS in _REQUIRED[name] else None
    options: dict[str, Any] = {} if variant is None else {"variant": variant}
    if name in ("unet", "vae"):
        options["torch_dtype"] = precision if name == "unet" else torch.float32
    try:
        part = _kind(name).from_pretrained(str(folder / name), local_files_only=True, **options)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"the component {name} of the model {folder} cannot be read ({first_line(error)}); "
            "copy the whole model folder again, or download it afresh"
        ) from error
    return part.float() if name == "text_encoder" else part


def _kind(name: str) -> Any:
    """The library's class of a component; both libraries import their parts when they are first named."""
    with _quiet("bitsandbytes"):
        import diffusers
        import transformers

        return {
            "unet": diffusers.UNet2DConditionModel,
            "vae": diffusers.AutoencoderKL,
            "text_encoder": transformers.CLIPTextModel,
            "tokenizer": transformers.CLIPTokenizer,
            "scheduler": diffusers.DDIMScheduler,
        }[name]


def _variant(part: Path) -> str | None:
    """Which of a component's sets of weights to read: the one without a name, else the most precise one.

    Libraries name a variant, and a shard of it, behind the first dot: `model.fp16.safetensors`,
    `model.fp16-00001-of-00002.safetensors`.
    """
    names = {path.name for pattern in _WEIGHTS for path in part.glob(pattern)}
    found = {match.group(1) for name in names if (match := _VARIANT.fullmatch(name))}
    if not found or None in found:
        return None
    return min(found, key=lambda name: (_VARIANTS.index(name) if name in _VARIANTS else len(_VARIANTS), name))


def _check_scheduler(folder: Path) -> None:
    """Refuse a scheduler whose noise is not that of `x_t = sqrt(abar_t) x_0 + sigma_t eps` at discrete times."""
    file = folder / "scheduler" / "scheduler_config.json"
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("_class_name", "DDIMScheduler")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} cannot be read ({first_line(error)}); copy the model folder again") from error
    if name not in _SCHEDULERS:
        raise UserError(
            f"the model {folder} has the scheduler {name}, whose noise is not that of Stable Diffusion 1 and 2: "
            f"choose a model with one of {', '.join(_SCHEDULERS)}"
        )


def _check_architecture(folder: Path, components: Components) -> None:
    """Refuse U-Nets that need more than a noisy latent, a time and a text, such as SDXL's or an inpainting model's."""
    unet, vae, text = components.unet.config, components.vae.config, components.text_encoder.config
    problems = []
    if unet.in_channels != vae.latent_channels:
        problems.append(f"its U-Net reads {unet.in_channels} channels and its latents have {vae.latent_channels}")
    if unet.cross_attention_dim != text.hidden_size:
        problems.append(f"its U-Net reads texts of {unet.cross_attention_dim} channels, not {text.hidden_size}")
    if unet.addition_embed_type is not None or unet.class_embed_type is not None:
        problems.append("its U-Net needs a further embedding")
    if problems:
        raise UserError(
            f"the model {folder} is not like Stable Diffusion 1 or 2: {' and '.join(problems)}; choose another model"
        )


def _image_size(requested: int | Sequence[int] | None, components: Components) -> tuple[int, int]:
    factor = reduction_factor(components.vae)
    if requested is None:
        sample = components.unet.config.sample_size
        sides = [side * factor for side in ([sample] * 2 if isinstance(sample, int) else sample)]
    else:
        sides = [requested] * 2 if isinstance(requested, int) else list(requested)
    multiple = factor * 2 ** (len(components.unet.config.block_out_channels) - 1)
    if len(sides) != 2 or any(side <= 0 or side % multiple for side in sides):
        raise UserError(
            f"image_size must be one or two positive multiples of {multiple}, which this model's networks can halve; "
            f"received {requested}"
        )
    return int(sides[0]), int(sides[1])
