"""The components of a model's folder, read by what the folder says they are: nothing is guessed, nothing made up.

`model_index.json` names the pipeline that wrote the folder and the class of each component. A class whose meaning is
not known here is refused, and so are weights of which some are missing or left over: the libraries would put random
numbers in the place of the former, anew at every load.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from latent_geodesics.errors import UserError, is_out_of_memory
from latent_geodesics.models.latent_model import Components
from latent_geodesics.models.noise_schedule import FLOW_SCHEDULER
from latent_geodesics.models.sources import INDEX, check_model_folder, first_line

__all__ = ["quiet", "read_component", "read_components"]

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
"""Pipelines whose U-Net takes a noisy latent, a time and one text."""
SCHEDULERS = (
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
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "scheduler": (*SCHEDULERS, FLOW_SCHEDULER),
}
"""Component -> the classes of it whose meaning is known."""
FLOW_PREDICTION = "flow_prediction"
"""What diffusers calls the velocity of a flow model where a scheduler takes several predictions."""
_WEIGHTS = ("*.safetensors", "*.bin")
_VARIANT = re.compile(r"[^.]+?(?:\.([^.]+?))?(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin)")
_VARIANTS = ("fp32", "fp16", "bf16", "ema", "non_ema")
"""The variants that diffusers' models are published in, the one to take first; without a name comes before all."""
# Of each component: its settings, and one of these patterns of files that hold the rest of it.
_REQUIRED: dict[str, tuple[str, tuple[str, ...]]] = {
    "unet": ("config.json", _WEIGHTS),
    "vae": ("config.json", _WEIGHTS),
    "text_encoder": ("config.json", _WEIGHTS),
    "tokenizer": ("tokenizer_config.json", ("tokenizer.json", "vocab.json")),
    "scheduler": ("scheduler_config.json", ("scheduler_config.json",)),
}
SHOWN = 3


def read_components(folder: Path, precision: torch.dtype) -> Components:
    """The components of a folder, each checked first so that what is missing is named.

    Args:
        folder: A folder in diffusers' format.
        precision: That of the U-Net; the others are read in float32.

    Raises:
        UserError: when the folder lacks something, or holds what is not known here.
    """
    check_model_folder(folder)
    _check_classes(folder)
    for name in _REQUIRED:
        _check_component(folder, name)
    components = Components(**{name: read_component(folder, name, precision) for name in _REQUIRED})
    _check_architecture(folder, components)
    return components


def read_component(folder: Path, name: str, precision: torch.dtype) -> Any:
    """One component; the libraries' many kinds of error become one sentence.

    Raises:
        UserError: when it cannot be read, or its weights are not those of its class.
    """
    weighty = _WEIGHTS in _REQUIRED[name][1:]
    variant = _variant(folder / name) if weighty else None
    options: dict[str, Any] = {} if variant is None else {"variant": variant}
    kind = _kind(folder, name)
    if name in ("unet", "vae"):
        options["torch_dtype"] = precision if name == "unet" else torch.float32
    try:
        with _without_progress_bars(), quiet("diffusers"), quiet("transformers"):
            if not weighty:
                return kind.from_pretrained(str(folder / name), local_files_only=True)
            part, said = kind.from_pretrained(
                str(folder / name), local_files_only=True, output_loading_info=True, **options
            )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"the component {name} of the model {folder} cannot be read ({first_line(error)}); "
            "copy the whole model folder again, or download it afresh"
        ) from error
    _check_keys(folder, name, said)
    return part.float() if name == "text_encoder" else part


def _check_keys(folder: Path, name: str, said: Mapping[str, Any]) -> None:
    """Refuse weights that are not all of those that the component has, and no others."""
    problems = []
    for kind, words in (("missing", "lack"), ("unexpected", "have besides"), ("mismatched", "have in another shape")):
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in said.get(f"{kind}_keys") or ())
        if keys:
            more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
            problems.append(f"{words} {len(keys)} of its tensors ({', '.join(keys[:SHOWN])}{more})")
    if problems:
        raise UserError(
            f"the weights in {folder / name} are not those of the component {name}: they {' and '.join(problems)}; "
            "copy the whole model folder again, or choose another model"
        )


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Hold back a library's warnings about what is reported anyway."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


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


def _check_classes(folder: Path) -> None:
    """Refuse a pipeline, or a component's class, whose meaning is not known."""
    index = _mapping(folder / INDEX)
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise UserError(
            f"{folder / INDEX} is of the pipeline {pipeline}, which is not supported: choose a model of one of "
            f"{', '.join(PIPELINES)}"
        )
    for name, known in CLASSES.items():
        for place, found in _named_classes(folder, name, index).items():
            if found not in known:
                what = ", whose noise is not that of Stable Diffusion 1 and 2" if name == "scheduler" else ""
                raise UserError(
                    f"the model {folder} has the {name} {found} ({place}){what}: choose a model with one of "
                    f"{', '.join(known)}"
                )
    settings = folder / "scheduler" / _REQUIRED["scheduler"][0]
    content = _mapping(settings) if settings.is_file() else {}
    if _is_flow(content) and content.get("prediction_type") != FLOW_PREDICTION:
        # Put beside a network that predicts noise it would change what every output means.
        raise UserError(
            f"the model {folder} has the scheduler {FLOW_SCHEDULER} beside Stable Diffusion's network, whose noise is "
            "not that of a flow: choose the scheduler that it was trained with; if it predicts the velocity, "
            f'say "prediction_type": "{FLOW_PREDICTION}" in {settings}'
        )


def _is_flow(settings: Mapping[str, Any]) -> bool:
    """Whether a scheduler's settings are a flow model's."""
    return settings.get("_class_name") == FLOW_SCHEDULER


def _named_classes(folder: Path, name: str, index: Mapping[str, Any]) -> dict[str, Any]:
    """Where a component's class is named, and which it is; files that are not there are missed elsewhere."""
    found = {}
    entry = index.get(name)
    if isinstance(entry, list) and len(entry) == 2:
        found[INDEX] = entry[1]
    settings = folder / name / _REQUIRED[name][0]
    if settings.is_file():
        content = _mapping(settings)
        written = content.get("_class_name") or next(iter(content.get("architectures") or []), None)
        if written is not None:
            found[f"{name}/{settings.name}"] = written
    return found


def _mapping(file: Path) -> dict[str, Any]:
    """What a JSON file holds."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({first_line(error)}); copy the model folder again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a file of settings; copy the model folder again")
    return content


def _kind(folder: Path, name: str) -> Any:
    """The library's class of a component; both libraries import their parts when they are first named."""
    with quiet("bitsandbytes"):
        import diffusers
        import transformers

        if name == "scheduler" and _is_flow(_mapping(folder / name / _REQUIRED[name][0])):
            return diffusers.FlowMatchEulerDiscreteScheduler

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


def _check_architecture(folder: Path, components: Components) -> None:
    """Refuse U-Nets that need more than a noisy latent, a time and a text, such as an inpainting model's or LCM's."""
    unet, vae, text = components.unet.config, components.vae.config, components.text_encoder.config
    problems = []
    for side, channels in (("reads", unet.in_channels), ("returns", unet.out_channels)):
        if channels != vae.latent_channels:
            problems.append(f"its U-Net {side} {channels} channels and its latents have {vae.latent_channels}")
    if unet.cross_attention_dim != text.hidden_size:
        problems.append(f"its U-Net reads texts of {unet.cross_attention_dim} channels, not {text.hidden_size}")
    further = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
    named = [name for name in further if unet.get(name) is not None]
    if named:
        problems.append(f"its U-Net needs a further embedding ({', '.join(named)})")
    if unet.get("time_cond_proj_dim") is not None:
        problems.append("its U-Net is told the weight of a guidance that it was distilled from (time_cond_proj_dim)")
    if problems:
        raise UserError(
            f"the model {folder} is not like Stable Diffusion 1 or 2: {' and '.join(problems)}; choose another model"
        )
