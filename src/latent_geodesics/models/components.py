"""The components of a model's folder, read by what the folder says they are: nothing is guessed, nothing made up.

`model_index.json` names the pipeline that wrote the folder and the class of each component. A class whose meaning is
not known here is refused, and so are weights of which some are missing or left over: the libraries would put random
numbers in the place of the former, anew at every load.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from latent_geodesics.core.errors import UserError, is_out_of_memory
from latent_geodesics.models.families import FAMILIES, Components, Family
from latent_geodesics.models.noise_schedule import FLOW_SCHEDULER
from latent_geodesics.models.sources import INDEX, check_model_folder, first_line

FLOW_PREDICTION = "flow_prediction"
"""What diffusers calls the velocity of a flow model where a scheduler takes several predictions."""
_WEIGHTS = ("*.safetensors", "*.bin")
# What the libraries call a file of weights, of one of its variants, or of a shard of either; what else lies beside it
# (the state of an optimiser, weights for other programs) is not read.
_VARIANT = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:-\d{5}-of-\d{5})?(?:\.([^.]+?))?(?:-\d{5}-of-\d{5})?"
    r"\.(?:safetensors|bin)"
)
_VARIANTS = ("fp32", "fp16", "bf16", "ema", "non_ema")
"""The variants that diffusers' models are published in, the one to take first; without a name comes before all."""
# Of a kind of component: its settings, and one of these patterns of files that hold the rest of it.
_FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "network": ("config.json", _WEIGHTS),
    "tokenizer": ("tokenizer_config.json", ("tokenizer.json", "vocab.json", "spiece.model")),
    "scheduler": ("scheduler_config.json", ("scheduler_config.json",)),
}
_OTHER_NOISE: Mapping[str, Any] = {"timestep_type": "continuous", "use_flow_sigmas": True, "invert_sigmas": True}
"""Settings by which a known scheduler tells the network other times, or means another noise."""
_READ_AS = {"DPMSolverSDEScheduler": "HeunDiscreteScheduler"}
"""A scheduler that needs a library of its own, and one of the same noise and the same defaults."""
SHOWN = 3
LARGE = 1_000_000_000
"""The weights of a text encoder that is not brought to float32."""


def read_components(folder: Path, precision: torch.dtype) -> Components:
    """The components of a folder, each checked first so that what is missing is named.

    Args:
        folder: A folder in diffusers' format.
        precision: That of the denoising network; the autoencoder and the text encoders are read in float32, text
            encoders of more than a milliard weights in the precision that they are stored in.

    Raises:
        UserError: when the folder lacks something, or holds what is not known here.
    """
    family = family_of(folder)
    present = check_components(folder, family)
    made = {name: read_component(folder, family, name, precision) if name in present else None for name in family.parts}
    network, vae, scheduler = (made.pop(name) for name in (family.network, "vae", "scheduler"))
    _limit_tokens(made)
    options = {name: value for name, value in _mapping(folder / INDEX).items() if isinstance(value, bool)}
    components = Components(family=family, vae=vae, network=network, scheduler=scheduler, texts=made, options=options)
    problems = family.problems(components)
    if problems:
        raise UserError(
            f"the model {folder} is not like those of {family.pipelines[0]}: {' and '.join(problems)}; choose another "
            "model"
        )
    return components


def check_components(folder: Path, family: Family) -> tuple[str, ...]:
    """The components that a folder has, each looked at without reading its weights.

    Raises:
        UserError: when it lacks one that its family needs, or one is of a class whose meaning is not known.
    """
    absent = absent_parts(folder, family)
    _check_classes(folder, family, _mapping(folder / INDEX), absent)
    present = tuple(name for name in family.parts if name not in absent)
    for name in present:
        _check_component(folder, name)
        if _mapping(folder / name / _FILES[_kind_of(name)][0]).get("quantization_config"):
            raise UserError(
                f"the {name} of the model {folder} is quantized, and such weights are not read: choose a model in "
                "float32, float16 or bfloat16"
            )
    return present


def weight_files(part: Path) -> list[Path]:
    """The files of weights that are read of a component: those of one variant, safe ones before pickled ones."""
    variant = _variant(part)
    for pattern in _WEIGHTS:
        files = sorted(
            file for file in part.glob(pattern) if (named := _VARIANT.fullmatch(file.name)) and named[1] == variant
        )
        if files:
            return files
    return []


def read_component(folder: Path, family: Family, name: str, precision: torch.dtype) -> Any:
    """One component; the libraries' many kinds of error become one sentence.

    Raises:
        UserError: when it cannot be read, or its weights are not those of its class.
    """
    weighty = _kind_of(name) == "network"
    options: dict[str, Any] = {}
    if weighty:  # told which file to read, the libraries do not complain of others that are not there
        files = weight_files(folder / name)
        options = {"variant": _variant(folder / name), "use_safetensors": files[0].suffix == ".safetensors"}
    if name in (family.network, "vae"):
        options["torch_dtype"] = precision if name == family.network else torch.float32
    elif weighty:
        options["ignore_mismatched_sizes"] = True  # they are refused below, by name
    try:
        kind = _class(folder, family, name)
        with _without_progress_bars(), quiet("diffusers"), quiet("transformers"):
            if not weighty:
                return _checked(kind.from_pretrained(str(folder / name), local_files_only=True))
            part, said = kind.from_pretrained(
                str(folder / name), local_files_only=True, output_loading_info=True, **options
            )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"the component {name} of the model {folder} cannot be read ({_said(error)}); "
            "copy the whole model folder again, or download it afresh"
        ) from error
    _check_keys(folder, name, said)
    _check_kinds(folder, name, files, {key for key, _ in part.named_parameters()})
    small = name.startswith("text_encoder") and sum(each.numel() for each in part.parameters()) < LARGE
    return part.float() if small else part


def _checked(part: Any) -> Any:
    """A scheduler, or a tokenizer that can fill texts up to a length.

    Raises:
        ValueError: where a tokenizer cannot.
    """
    length = getattr(part, "model_max_length", 1)
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"model_max_length is {length!r} in tokenizer_config.json, and must be a whole number above 0")
    if getattr(part, "pad_token", "") is None:
        raise ValueError("pad_token is not given in tokenizer_config.json")
    return part


def _said(error: Exception) -> str:
    """What a library says was wrong, without what it then says to programmers."""
    return first_line(error).partition(". If you want")[0]


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


def _check_kinds(folder: Path, name: str, files: Sequence[Path], weights: Set[str]) -> None:
    """Refuse weights that are stored as whole numbers: they are quantised, and their scales are not known."""
    from safetensors import safe_open

    for file in files:
        if file.suffix != ".safetensors":
            continue
        with safe_open(file, framework="pt") as content:
            stored = {key: content.get_slice(key).get_dtype() for key in weights & set(content.keys())}
        whole = sorted(key for key, kind in stored.items() if "F" not in kind)
        if whole:
            raise UserError(
                f"the weights of the component {name} in {file} are stored as whole numbers ({whole[0]} and "
                f"{len(whole) - 1} more), as quantised ones are: choose a folder of weights that are not quantised"
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


def _limit_tokens(texts: Mapping[str, Any]) -> None:
    """Lets tokenizers give no more tokens than their text encoders have positions for; some name no limit at all."""
    for name, tokenizer in texts.items():
        encoder = texts.get(name.replace("tokenizer", "text_encoder"))
        positions = getattr(getattr(encoder, "config", None), "max_position_embeddings", None)
        if name.startswith("tokenizer") and positions is not None:
            tokenizer.model_max_length = min(tokenizer.model_max_length, positions)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Reading a file takes no time worth a bar; a download, elsewhere, does."""
    import diffusers
    import transformers

    libraries = [each.utils.logging for each in (diffusers, transformers)]
    enabled = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in enabled:
            library.enable_progress_bar()


def _check_component(folder: Path, name: str) -> None:
    settings, patterns = _FILES[_kind_of(name)]
    part = folder / name
    missing = None
    if not (part / settings).is_file():
        missing = settings
    elif not (weight_files(part) if patterns is _WEIGHTS else any(any(part.glob(pattern)) for pattern in patterns)):
        missing = " or ".join(patterns)
    if missing:
        raise UserError(
            f"the model {folder} lacks the component {name}: there is no {part / missing}; "
            "copy the whole model folder again, or download it afresh"
        )


def family_of(folder: Path) -> Family:
    """The family of the pipeline that wrote a folder.

    Raises:
        UserError: when it is none that is known.
    """
    check_model_folder(folder)
    pipeline = _mapping(folder / INDEX).get("_class_name")
    for family in FAMILIES:
        if pipeline in family.pipelines:
            return family
    known = ", ".join(family.pipelines[0] for family in FAMILIES)
    raise UserError(
        f"{folder / INDEX} is of the pipeline {pipeline}, which is not supported: choose a model of one of {known}"
    )


def absent_parts(folder: Path, family: Family) -> frozenset[str]:
    """The components that a folder says it has not, and that its family can do without."""
    index = _mapping(folder / INDEX)
    return frozenset(name for name in family.optional if (index.get(name) or [None, None])[1] is None)


def _check_classes(folder: Path, family: Family, index: Mapping[str, Any], absent: frozenset[str]) -> None:
    """Refuse a component of a class whose meaning is not known, and a scheduler that means another noise."""
    for name, known in family.parts.items():
        for place, found in _named_classes(folder, name, index).items():
            if found not in known and name not in absent:
                what = f", whose noise is not that of {family.pipelines[0]}" if name == "scheduler" else ""
                raise UserError(
                    f"the model {folder} has the {name} {found} ({place}){what}: choose a model with one of "
                    f"{', '.join(known)}"
                )
    settings = folder / "scheduler" / _FILES["scheduler"][0]
    content = _mapping(settings) if settings.is_file() else {}
    other = [f"{name}={content[name]}" for name, value in _OTHER_NOISE.items() if content.get(name) == value]
    if other:
        raise UserError(
            f"the noise of the model {folder} is not that of {family.pipelines[0]} ({', '.join(other)} in {settings}): "
            "choose another model, or the scheduler that this one was trained with"
        )
    either = {FLOW_SCHEDULER} < set(family.parts["scheduler"])
    if either and content.get("_class_name") == FLOW_SCHEDULER and content.get("prediction_type") != FLOW_PREDICTION:
        # Put beside a network that predicts noise it would change what every output means.
        raise UserError(
            f"the model {folder} has the scheduler {FLOW_SCHEDULER} beside Stable Diffusion's network, whose noise is "
            "not that of a flow: choose the scheduler that it was trained with; if it predicts the velocity, "
            f'say "prediction_type": "{FLOW_PREDICTION}" in {settings}'
        )


def _named_classes(folder: Path, name: str, index: Mapping[str, Any]) -> dict[str, Any]:
    """Where a component's class is named, and which it is; files that are not there are missed elsewhere."""
    found = {}
    entry = index.get(name)
    if isinstance(entry, list) and len(entry) == 2:
        found[INDEX] = entry[1]
    settings = folder / name / _FILES[_kind_of(name)][0]
    if settings.is_file():
        content = _mapping(settings)
        named = content.get("_class_name") or content.get("tokenizer_class")
        written = named or next(iter(content.get("architectures") or []), None)
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


def _kind_of(name: str) -> str:
    """Which files a component is made of."""
    return "tokenizer" if name.startswith("tokenizer") else "scheduler" if name == "scheduler" else "network"


def _class(folder: Path, family: Family, name: str) -> Any:
    """The library's class of a component; both libraries import their parts when they are first named."""
    with quiet("bitsandbytes"):
        import diffusers
        import transformers

        known = family.parts[name]
        if name == "scheduler":  # by its own class, whose defaults are what the file leaves out
            named = _named_classes(folder, name, _mapping(folder / INDEX))
            written = next(reversed(named.values()), known[0])
            return getattr(diffusers, _READ_AS.get(written, written))
        return getattr(diffusers if hasattr(diffusers, known[0]) else transformers, known[0])


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
