"""Where a model is taken from, a folder in diffusers' format or the hub, and which of its files hold the weights.

Found without the libraries that load it.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from latent_geodesics.core.errors import UserError

Source = str | Path
"""A folder in diffusers' format, a file of all weights, or the name of a model on the hub."""

INDEX = "model_index.json"
SUFFIXES = (".safetensors", ".ckpt")
"""Files that hold all weights of a model."""
WEIGHTS = ("*.safetensors", "*.bin")
# What the libraries call a file of weights, of one of its variants, or of a shard of either; what else lies beside it
# (the state of an optimiser, weights for other programs) is not read.
_VARIANT = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:-\d{5}-of-\d{5})?(?:\.([^.]+?))?(?:-\d{5}-of-\d{5})?"
    r"\.(?:safetensors|bin)"
)
_VARIANTS = ("fp32", "fp16", "bf16", "ema", "non_ema")
"""The variants that diffusers' models are published in, the one to take first; without a name comes before all."""
_SHARD = "-of-"
PATIENCE = 10  # seconds without an answer of the hub
_UNREACHABLE = {
    *("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError", "ConnectError"),
    *("Timeout", "ConnectTimeout", "ReadTimeout"),
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-]+")

SIZES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": 3,
    "stabilityai/stable-diffusion-2-1-base": 3,
    "stabilityai/stable-diffusion-2-1": 3,
    "stabilityai/stable-diffusion-xl-base-1.0": 7,
    "stabilityai/stable-diffusion-3.5-medium": 16,
    "black-forest-labs/FLUX.1-dev": 34,
    "black-forest-labs/FLUX.2-klein-base-4B": 13,
}
"""GB of the models of `conf/model/` in half precision, as in docs/models.md; the hub is not asked."""


def is_hub_id(candidate: Source) -> bool:
    """Whether a text may be the name of a model on the hub."""
    return isinstance(candidate, str) and _HUB_ID.fullmatch(candidate) is not None


def on_disk(source: Source) -> Path | None:
    """The folder of a source that is on this machine, downloaded earlier or not from a hub at all."""
    if Path(source).exists():
        return Path(source)
    if not is_hub_id(source):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None


def check_source(path_or_name: Source | Sequence[Source]) -> None:
    """Refuses sources of which none can be had, or the first folder is no model; looks no deeper than their index."""
    failures = []
    for candidate in [path_or_name] if isinstance(path_or_name, str | Path) else path_or_name:
        if Path(candidate).is_dir():
            return check_model_folder(Path(candidate))
        if Path(candidate).is_file() and Path(candidate).suffix in SUFFIXES:
            return None
        problem = _problem(candidate)
        if problem is None:
            return None
        size = f"; its weights are about {SIZES[str(candidate)]} GB" if str(candidate) in SIZES else ""
        failures.append(f"{candidate} ({problem}{size})")
    raise no_model(failures)


def _problem(candidate: Source) -> str | None:
    """Why something that is no folder cannot be had, or None where it can."""
    if Path(candidate).is_file():
        return f"a file, neither a folder nor all weights of a model ({', '.join(SUFFIXES)})"
    if not is_hub_id(candidate):
        return "no such folder"
    from huggingface_hub import HfApi, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(str(candidate), INDEX), str):
        return None
    try:
        # A question of its own: a download asks a hub that cannot be reached again and again, for half a minute.
        files = [entry.rfilename for entry in HfApi().model_info(str(candidate), timeout=PATIENCE).siblings or ()]
    except Exception as error:  # noqa: BLE001 - the hub's own errors, or those of its library for the network
        return f"no such folder; {hub_problem(error)}"
    return None if INDEX in files else f"on the hub, but not a model in diffusers' format: it has no {INDEX}"


def check_model_folder(folder: Path) -> None:
    """Refuses a folder without what every model in diffusers' format has."""
    if not (folder / INDEX).is_file():
        whole = sorted(file.name for file in folder.glob("*") if file.suffix in SUFFIXES) if folder.is_dir() else []
        remedy = f"give its file, {folder / whole[0]}" if whole else "save one with `pipeline.save_pretrained(folder)`"
        raise UserError(f"{folder} is not a model in diffusers' format: it has no {INDEX}; {remedy}")


def no_model(failures: Sequence[str]) -> UserError:
    """The error for when none of the candidates could be had."""
    return UserError(
        f"no model could be loaded, tried: {'; '.join(failures) or 'an empty list'}. "
        "Give the folder of a model in diffusers' format, or the id of one while the network is reachable"
    )


def hub_problem(error: BaseException) -> str:
    """Why the hub gave nothing, in a few words; the library chains its reasons and words them for programmers."""
    reasons = {type(link).__name__ for link in _chain(error)}
    if "GatedRepoError" in reasons:
        return "on the hub, but only for those who accepted its terms and logged in with `hf auth login`"
    if "RepositoryNotFoundError" in reasons:
        return "no such public model on the hub"
    if reasons & _UNREACHABLE:
        return "not in the hub's cache, and the hub cannot be reached"
    return f"the hub could not serve it: {first_line(error)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it: the hub's library raises its own while it handles that of the network."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def file_hash(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def why_unreadable(error: BaseException) -> str:
    """Why a file of tensors cannot be read, in words for a person.

    What the libraries say is of their formats, and of a pickled file torch advises to trust whoever made it.
    """
    told = isinstance(error, PermissionError | FileNotFoundError | IsADirectoryError) and error.strerror
    return told or "it is damaged, or holds other things than tensors"


def weight_files(part: Path) -> list[Path]:
    """The files of weights that are read of a component: those of one variant, safe ones before pickled ones."""
    variant = variant_of(part)
    for pattern in WEIGHTS:
        files = sorted(
            file for file in part.glob(pattern) if (named := _VARIANT.fullmatch(file.name)) and named[1] == variant
        )
        if not files:
            continue
        whole = [file for file in files if _SHARD not in file.name]
        told = shard_index(part, files[0].suffix)
        # Where there are both, diffusers reads the shards and transformers the one file.
        if told is not None and (not whole or whole[0].name.startswith("diffusion")):
            return sorted(part / name for name in set(told.values()))
        return whole[:1] or files
    return []


def shard_index(part: Path, suffix: str) -> dict[str, str] | None:
    """The file of each tensor, as told where the weights of a component lie in several; None where they do not."""
    wanted = {suffix[1:], "index", "json"} | {variant_of(part)} - {None}
    for file in sorted(part.glob("*.json")):
        if set(file.name.split(".")[1:]) == wanted:
            try:
                return {str(key): str(name) for key, name in json.loads(file.read_text())["weight_map"].items()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{file} cannot be read ({first_line(error)}); copy the model folder again") from error
    return None


def variant_of(part: Path) -> str | None:
    """Which of a component's sets of weights to read: the one without a name, else the most precise one.

    Libraries name a variant, and a shard of it, behind the first dot: `model.fp16.safetensors`,
    `model.fp16-00001-of-00002.safetensors`.
    """
    names = {path.name for pattern in WEIGHTS for path in part.glob(pattern)}
    found = {match.group(1) for name in names if (match := _VARIANT.fullmatch(name))}
    if not found or None in found:
        return None
    return min(found, key=lambda name: (_VARIANTS.index(name) if name in _VARIANTS else len(_VARIANTS), name))
