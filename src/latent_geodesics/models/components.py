"""The components of a model's folder, read by what the folder says they are: nothing is guessed, nothing made up.

`model_index.json` names the pipeline that wrote the folder and the class of each component. A class whose meaning is
not known here is refused, and so are weights of which some are missing or left over: the libraries would put random
numbers in the place of the former, anew at every load.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from latent_geodesics.core.errors import UserError, is_out_of_memory
from latent_geodesics.models.families import FAMILIES, Components, Family
from latent_geodesics.models.headers import compared, shapes
from latent_geodesics.models.noise_schedule import FLOW_SCHEDULER
from latent_geodesics.models.sources import (
    INDEX,
    WEIGHTS,
    check_model_folder,
    first_line,
    shard_index,
    variant_of,
    weight_files,
    why_unreadable,
)

FLOW_PREDICTION = "flow_prediction"
"""What diffusers calls the velocity of a flow model where a scheduler takes several predictions."""
# Of a kind of component: its settings, and one of these patterns of files that hold the rest of it.
_FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "network": ("config.json", WEIGHTS),
    "tokenizer": ("tokenizer_config.json", ("tokenizer.json", "vocab.json", "spiece.model")),
    "scheduler": ("scheduler_config.json", ("scheduler_config.json",)),
}
_OTHER_NOISE: Mapping[str, Any] = {"timestep_type": "continuous", "use_flow_sigmas": True, "invert_sigmas": True}
"""Settings by which a known scheduler tells the network other times, or means another noise."""
_LIBRARIES = ("diffusers", "transformers")  # any other class is code that a folder brings along
_READ_AS = {"DPMSolverSDEScheduler": "HeunDiscreteScheduler"}
"""A scheduler that needs a library of its own, and one of the same noise and the same defaults."""
KINDS = {"missing": "lack", "unexpected": "have besides", "mismatched": "have in another shape"}
"""How weights may differ from those of their component, in diffusers' words and in ours."""
SHOWN = 3
LARGE = 1_000_000_000
"""The weights of a text encoder that is not brought to float32."""


def read_components(folder: Path, precision: torch.dtype | None) -> Components:
    """The components of a folder in diffusers' format, all looked at before one is read: what is missing is named.

    The precision is that of the denoising network; the autoencoder and the text encoders are read in float32, text
    encoders of more than a milliard weights in the precision that they are stored in. None reads no weights: the
    tensors that the files tell of are held against those that each component needs.

    Raises:
        UserError: when the folder lacks something, or holds what is not known here, or does not fit together.
    """
    family, index = family_of(folder), _mapping(folder / INDEX)
    absent = absent_parts(folder, family)
    _check_classes(folder, family, index, absent)
    present = [name for name in family.parts if name not in absent]
    for name in present:
        _check_component(folder, name)
    made = {name: read_component(folder, family, name, precision) if name in present else None for name in family.parts}
    network, vae, scheduler = (made.pop(name) for name in (family.network, "vae", "scheduler"))
    _limit_tokens(made)
    options = {name: value for name, value in index.items() if isinstance(value, bool)}
    components = Components(family=family, vae=vae, network=network, scheduler=scheduler, texts=made, options=options)
    problems = family.problems(components)
    if problems:
        raise UserError(
            f"the model {folder} is not like those of {family.pipelines[0]}: {' and '.join(problems)}; choose another "
            "model"
        )
    return components


def read_component(folder: Path, family: Family, name: str, precision: torch.dtype | None) -> Any:
    """One component, as `read_components` has it; the libraries' many kinds of error become one `UserError`."""
    weighty = _kind_of(name) == "network"
    files = _whole_files(folder / name) if weighty else []
    held = {key: tensor for file in files for key, tensor in shapes(file).items()} if precision is None else {}
    options: dict[str, Any] = {"local_files_only": True}
    if weighty:  # told which file to read, the libraries do not complain of others that are not there
        options |= {"variant": variant_of(folder / name), "use_safetensors": files[0].suffix == ".safetensors"}
        options["output_loading_info"] = True
    if name in (family.network, "vae"):
        options["torch_dtype"] = precision if name == family.network else torch.float32
    elif weighty:
        options["ignore_mismatched_sizes"] = True  # they are refused below, by name
    try:
        kind = _class(folder, family, name)
        with _without_progress_bars(), quiet("diffusers"), quiet("transformers"):
            if not weighty:
                return _checked(kind.from_pretrained(str(folder / name), **options))
            if precision is None:
                part, differences = compared(kind, folder / name, held, shards=len(files) > 1)
            else:
                part, said = kind.from_pretrained(str(folder / name), **options)
                differences = {how: said[f"{how}_keys"] for how in KINDS}
    except Exception as error:
        raise _unreadable(folder, name, error) from error
    _check_keys(folder, name, differences)
    _check_kinds(folder, name, files, {key for key, _ in part.named_parameters()})
    small = name.startswith("text_encoder") and sum(each.numel() for each in part.parameters()) < LARGE
    return part.float() if small and precision is not None else part


def _checked(part: Any) -> Any:
    """A scheduler, or a tokenizer that can fill texts up to a length."""
    length = getattr(part, "model_max_length", 1)
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"model_max_length is {length!r} in tokenizer_config.json, and must be a whole number above 0")
    if getattr(part, "pad_token", "") is None:
        raise ValueError("pad_token is not given in tokenizer_config.json")
    return part


def _whole_files(part: Path) -> list[Path]:
    """The files of weights of a component, each of which has what the list of all says that it has.

    Diffusers goes by the list alone, and would leave a tensor that is missing as it happens to be.
    """
    files = weight_files(part)
    told = shard_index(part, files[0].suffix)
    if told is None and len(files) > 1:
        raise UserError(
            f"the weights in {part} are {len(files)} files without an index; copy the whole model folder again"
        )
    if told is None or files[0].name not in told.values():
        return files
    if gone := [file for file in files if not file.is_file()]:
        raise UserError(f"the weights in {part} lack the file {gone[0].name}; copy the whole model folder again")
    held = {(key, file.name) for file in files for key in shapes(file)}
    if differing := sorted(held ^ set(told.items())):
        key, file = differing[0]
        wrong = f"it lacks {key} of {file}" if differing[0] in held else f"{file} lacks {key}, which it tells of"
        raise UserError(
            f"the weights in {part} are not those of their index: {wrong}; copy the whole model folder again"
        )
    return files


def _unreadable(folder: Path, name: str, error: Exception) -> Exception:
    """The error for a component that a library cannot read; one of the memory stays what it is."""
    if is_out_of_memory(error):
        return error
    said = first_line(error).partition(". If you want")[0]  # what follows is for programmers
    for file in weight_files(folder / name):
        try:
            shapes(file)
        except UserError as cause:
            said = f"{file.name}: {why_unreadable(cause.__cause__ or cause)}"
    return UserError(
        f"the component {name} of the model {folder} cannot be read ({said}); "
        "copy the whole model folder again, or download it afresh"
    )


def _check_keys(folder: Path, name: str, differences: Mapping[str, Iterable[Any]]) -> None:
    """Refuse weights that are not all of those that the component has, and no others."""
    problems = []
    for kind, words in KINDS.items():
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in differences[kind] or ())
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
    """Refuse a component that lacks its settings or what else it is made of, or is quantized."""
    settings, patterns = _FILES[_kind_of(name)]
    part = folder / name
    missing = None
    if not (part / settings).is_file():
        missing = settings
    elif not (weight_files(part) if patterns is WEIGHTS else any(any(part.glob(pattern)) for pattern in patterns)):
        missing = " or ".join(patterns)
    if missing:
        raise UserError(
            f"the model {folder} lacks the component {name}: there is no {part / missing}; "
            "copy the whole model folder again, or download it afresh"
        )
    if _mapping(part / settings).get("quantization_config"):
        raise UserError(
            f"the {name} of the model {folder} is quantized, and such weights are not read: choose a model in "
            "float32, float16 or bfloat16"
        )


def family_of(folder: Path) -> Family:
    """The family of the pipeline that wrote a folder; a `UserError` when it is none that is known."""
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
    """The components that a folder says it has not, or neither names nor has, and that its family can do without."""
    index = _mapping(folder / INDEX)
    named = {name: index.get(name, ["", "" if (folder / name).is_dir() else None]) for name in family.optional}
    return frozenset(name for name, entry in named.items() if not entry or entry[-1] is None)


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
        library, kind = entry
        found[INDEX] = kind if library in (None, *_LIBRARIES) else f"{library}.{kind}"
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
