"""What a run is given, looked at before anything heavy is imported: files, folders, texts, and values of a wrong kind.

`READS` declares them in the configuration's own terms, the names of options. They are found at whatever depth of a
task they stand, so that a new experiment, data set or metric whose options are called as others' has nothing to add;
what is called otherwise, or means this in one class alone, gets a line. What is not declared is missed later, by its
class.

A person may write `data.limit=1.5` or `model.image_size=100.0`; what the class does with that value would be told in
the words of whatever operation fails first, so that plain values are held against its annotations (`check_kinds`).
"""

import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from latent_geodesics.core.errors import UserError, near_file, near_name
from latent_geodesics.models.sources import check_source
from latent_geodesics.run.config import check_read

FILE, FOLDER, EITHER, MODEL = "file", "folder", "file or folder", "model"
TEXT, OPTIONS, NAME = "text", "options", "name"
_REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([\w.]+)(?:,.*)?\}")

KIND_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def _always(options: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Input:
    """An option whose value is read from disk, or is a text.

    Attributes:
        kind: What must stand there: `file`, `folder`, `file or folder`, `model` (a folder or a hub id), `text`,
            `options` (a mapping whose keys are known), or `name`, which is nothing of these. A list or a mapping of
            paths is looked through; null is nothing.
        what: What it is, for the person who mistyped it.
        remedy: What to do about it.
        names: The keys of a mapping of options.
        needed: Whether it is read at all, given the other options of its class.
    """

    kind: str
    what: str
    remedy: str = ""
    names: tuple[str, ...] = ()
    needed: Callable[[Mapping[str, Any]], bool] = _always


def _unless(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda options: all(options.get(name) is None for name in names)


def _trains_afresh(options: Mapping[str, Any]) -> bool:
    """A training that has begun may be past the stages that read frames."""
    return not Path(str(options.get("work_dir"))).exists()


_IMAGE = Input(kind=FILE, what="image", remedy="give the path of an image file")
_IMAGES = Input(kind=EITHER, what="images", remedy="give a folder of images or a CSV manifest")
_NETWORK = Input(kind=FOLDER, what="network's folder", remedy="give the folder of an attribute network")
_FRAMES = Input(kind=FOLDER, what="folder of frames", remedy="render them by task=render_clevr", needed=_trains_afresh)
_SEQUENCES = Input(kind=EITHER, what="sequences", remedy="give a folder of them, a film, or a CSV manifest")
_MODEL_FOLDER = Input(kind=FOLDER, what="model's folder", remedy="give one in diffusers' format")
_TEXT = Input(kind=TEXT, what="text")
_EXPECTED = Input(kind=FILE, what="file of bounds", remedy="name one such as experiments/demo/expected.json")

PLURAL = frozenset({"images", "sequences", "weights"})
READS: Mapping[str, Input] = {
    # Whatever class has an option of that name.
    "given_autoencoder": _MODEL_FOLDER,
    "image_a": _IMAGE,
    "image_b": _IMAGE,
    "manifest": Input(
        kind=FILE, what="manifest", remedy="give a CSV file", needed=_unless("image_a", "image_b", "keys", "video")
    ),
    "negative_prompt": _TEXT,
    "network": _NETWORK,
    "path_or_name": Input(kind=MODEL, what="model"),
    "prompt": _TEXT,
    "prompt_a": _TEXT,
    "prompt_b": _TEXT,
    "renderer_python": Input(kind=FILE, what="renderer's Python", remedy="run `make render-env`"),
    "root": Input(kind=FOLDER, what="folder", remedy="give the unpacked data; data/README.md says where they are had"),
    "start_from": _MODEL_FOLDER,
    "textual_inversion": Input(
        kind=OPTIONS, what="options", names=("steps", "learning_rate", "batch_size", "shared", "progress")
    ),
    "video": Input(kind=EITHER, what="video", remedy="give a video file, a folder of frames, or a folder of videos"),
    # Keys of a configuration of task=score, which its sequences take over.
    ".frames": _SEQUENCES,
    ".pairs": Input(kind=FILE, what="manifest", remedy="give a CSV file of pairs"),
    # These classes alone.
    "CompareRuns.runs": Input(kind=FOLDER, what="folder", remedy="name folders of runs, such as runs/interpolation"),
    "FolderPairs.prompts": Input(kind=FILE, what="file of prompts", remedy="give a text file, or null for no prompts"),
    "FolderPairs.root": Input(kind=FOLDER, what="folder", remedy="give the folder that your images are in"),
    "KeyData.keys": _IMAGE,
    "Submit.runs": Input(kind=FOLDER, what="folder", remedy="name the folder of a run of experiment=benchmark"),
    "Leaderboard.suite": Input(kind=FOLDER, what="suite", remedy="make one by task=submit task.runs=[<run's folder>]"),
    "MorphBench.prompts": Input(
        kind=FILE, what="file of prompts", remedy="give a CSV file with the columns id, prompt_a, prompt_b"
    ),
    "SequenceData.frames": _SEQUENCES,
    "SequenceData.pairs": Input(kind=FILE, what="manifest", remedy="give a CSV file of pairs"),
    "SequenceData.true": _SEQUENCES,
    "SmoothDiffusion.weights": Input(kind=EITHER, what="weights", remedy="give their file or folder"),
    "FromFile.file": Input(kind=FILE, what="file of velocities", remedy="give a .pt, .npy or .safetensors file"),
    "ClevrFeatures.folder": _NETWORK,
    "Protocol.network": Input(kind=NAME, what="network"),
    "Typicality.reference": _IMAGES,
    "random_model.parts": _MODEL_FOLDER,
    "WeightsRegistry.files": Input(kind=FILE, what="weight file", remedy="correct it or leave it out"),
    "Distances.images": _IMAGES,
    "Distances.known": Input(kind=FILE, what="manifest", remedy="give a CSV file of pairs, or null"),
    "Distances.resume": Input(kind=FOLDER, what="folder", remedy="give that of a run of distances"),
    "Extrapolation.images": _IMAGES,
    "Extrapolation.reference": _IMAGES,
    "TrainClevrLdm.attribute_frames": _FRAMES,
    "TrainClevrLdm.frames": _FRAMES,
    "FloorError.scenes": Input(kind=FILE, what="file of scenes", remedy="give a file of one scene a line"),
}

WRITES = frozenset({"output_dir", "work_dir", "model_dir", "attributes_dir", "cache_dir"})
"""Options that name folders which are written to."""


def is_text(option: str) -> bool:
    """Whether an option is a text, whatever its value looks like: a prompt."""
    return option in READS and READS[option].kind == TEXT


def is_path(option: str) -> bool:
    """Whether an option is a file, a folder or a model, whatever its value looks like."""
    return option in WRITES or option == "expected" or (option in READS and READS[option].kind not in (TEXT, OPTIONS))


def may_be_path(option: str) -> bool:
    """Whether an option is one in some classes."""
    return is_path(option) or option == "folder" or any(key.endswith(f".{option}") for key in READS)


def check_inputs(config: DictConfig) -> None:
    """Looks for everything that the task of a composed configuration reads.

    Raises:
        UserError: for the first file or folder that is not there, or is of another kind, for a prompt that is no text,
            and for a key that was added and that nothing reads.
    """
    raw = OmegaConf.to_container(config, resolve=False)
    assert isinstance(raw, dict)
    _check_added(raw)
    check_read(raw)
    _check("expected", config.expected, _EXPECTED)
    task = OmegaConf.to_container(config.task, resolve=True, throw_on_missing=True) if config.task else None
    for key, options in nodes("task", task, lambda key, _: _written(key, raw)):
        kind = str(options["_target_"]).rpartition(".")[2]
        for name, value in options.items():
            found = READS.get(f"{kind}.{name}") or READS.get(str(name))
            if found is not None and found.needed(options):
                _check(_written(f"{key}.{name}", raw), value, found)


def _check_added(raw: Mapping[Any, Any]) -> None:
    """A mistyped key that was added by a plus would be in the configuration, and do nothing there."""
    if not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    for argument in hydra.overrides.task:
        key = argument.partition("=")[0].lstrip("+")
        if not argument.startswith("+") or "." in key or key not in raw or key in hydra.runtime.choices:
            continue
        others = {name: value for name, value in raw.items() if name != key}
        if not re.search(rf"\$\{{(?:oc\.select:)?{re.escape(key)}\b", repr(others)):
            raise UserError(f"Nothing reads the key '{key}' that {argument} adds.{near_name(key, map(str, others))}")


def nodes(key: str, node: Any, written: Callable[[str, Any], str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Everything that names a class, with its key as a person would write it.

    Args:
        key: The node's key.
        node: The node.
        written: What a person writes for a key and its value.
    """
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from nodes(written(f"{key}.{name}", value), value, written)
    elif isinstance(node, list):
        for value in node:
            yield from nodes(key, value, written)


def _written(key: str, raw: Any) -> str:
    """The key that decides a value: `image_a` for `data.image_a`, which takes over what `image_a` is."""
    value = raw
    for part in key.split("."):
        if not isinstance(value, Mapping):
            return key
        value = value.get(part)
    reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return _written(reference.group(1), raw) if reference else key


def _check(key: str, value: Any, found: Input) -> None:
    if value is None or found.kind == NAME or (isinstance(value, Mapping) and "_target_" in value):
        return
    if found.kind == TEXT:
        if not isinstance(value, str):
            raise UserError(f"{key} must be a text, got {value!r}: put it in quotes, as in {key}='\"{value}\"'.")
    elif found.kind == OPTIONS:
        for name in value if isinstance(value, Mapping) else [str(value)]:
            if name not in found.names:
                raise UserError(
                    f"{key} has no option '{name}', it has {', '.join(found.names)}.{near_name(name, found.names)}"
                )
    elif found.kind == MODEL:
        check_source(_paths(key, value))
    elif isinstance(value, Mapping):
        for name, each in value.items():
            _check(f"{key}.{name}", each, found)
    else:
        for path in _paths(key, value):
            _check_path(key, path, found)


def _paths(key: str, value: Any) -> Sequence[str]:
    values = value if isinstance(value, list) else [value]
    for each in values:
        if not isinstance(each, str) or not each:
            raise UserError(f"{key} must be a path, got {each!r}: put it in quotes, as in {key}='\"{each}\"'.")
    return values


def _check_path(key: str, path: str, found: Input) -> None:
    place = Path(path)
    right = {FILE: place.is_file, FOLDER: place.is_dir, EITHER: place.exists}[found.kind]
    if right():
        return
    if place.exists():
        problem = "is a folder, not a file" if place.is_dir() else "is a file, not a folder"
    else:
        problem = f"{'do' if found.what in PLURAL else 'does'} not exist"
    raise UserError(f"The {found.what} '{path}' ({key}) {problem}: {found.remedy}.{near_file(place)}")


def check_kinds(key: str, node: Any, groups: Mapping[str, Any] | None = None) -> None:
    """Compares the plain values of everything that names a class with that class's annotations.

    Args:
        key: The node's key in the configuration.
        node: The node, resolved.
        groups: Key -> node of what a person writes in place of `task.<key>`, which takes it over.

    Raises:
        UserError: for the first value that is of another kind.
    """

    def written(key: str, value: Any) -> str:
        name = key.removeprefix("task.")
        return name if groups and name in groups and groups[name] == value else key

    for place, options in nodes(key, node, written):
        for name, kinds in _plain_kinds(str(options["_target_"])).items():
            value = options.get(name)
            if (
                name in options
                and not isinstance(value, Mapping | list)
                and not any(_is(value, kind) for kind in kinds)
            ):
                wanted = " or ".join(KIND_NAMES[kind] for kind in kinds)
                raise UserError(f"{place}.{name} must be {wanted}, got {value!r}.")


def _plain_kinds(target: str) -> dict[str, tuple[type, ...]]:
    """The parameters of a class that take numbers, texts and truth values alone, and which of them."""
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except (ImportError, AttributeError, TypeError, ValueError):  # said when it is made
        return {}
    found = {}
    for name, parameter in parameters.items():
        union = get_origin(parameter.annotation) in (Union, types.UnionType)
        kinds = get_args(parameter.annotation) if union else (parameter.annotation,)
        if all(kind in KIND_NAMES for kind in kinds):
            found[name] = kinds
    return found


def _is(value: Any, kind: type) -> bool:
    """Whether a value of the configuration is of a kind: a whole number is a number too, a truth value is neither."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
