"""The tensors of weight files as their headers tell them, held against those that a component needs.

No numbers are read, so that a model of many gigabytes is looked at in seconds.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from latent_geodesics.core.errors import UserError, is_out_of_memory
from latent_geodesics.models.sources import first_line, why_unreadable

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
# What safetensors calls the precisions that are kept, and the whole numbers beside them; all else is read in float32.
_PRECISIONS = {"F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How the tensors of a component's files differ from those that it needs, by name.

    Attributes:
        differences: Those that are `missing`, those that are `unexpected`, and those of another shape, `mismatched`.
        component: The component, its tensors without numbers.
    """

    differences: Mapping[str, Collection[str]]
    component: Any


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


def shapes(file: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, without their numbers.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as content:
                found = {key: content.get_slice(key) for key in content.keys()}  # noqa: SIM118 - it is no mapping
                return {
                    key: torch.empty(
                        each.get_shape(), dtype=_PRECISIONS.get(each.get_dtype(), torch.float32), device="meta"
                    )
                    for key, each in found.items()
                }
        loaded = torch.load(file, map_location="meta", weights_only=True)
        found = loaded.get("state_dict", loaded)
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}
    except Exception as error:
        if is_out_of_memory(error):
            raise
        other = "" if file.suffix == ".safetensors" else ", or give the same weights as .safetensors"
        raise UserError(f"'{file}' cannot be read ({why_unreadable(error)}); copy it again{other}") from error


def compared(kind: Any, part: Path, held: Mapping[str, Tensor], *, shards: bool) -> Compared:
    """What the tensors of a component's files are to the class that reads them.

    Args:
        kind: A class of diffusers or transformers.
        part: The component's folder.
        held: What its files hold, without numbers.
        shards: Whether these are several, in which diffusers knows no former names.
    """
    from diffusers import ModelMixin

    if not issubclass(kind, ModelMixin):
        model, said = kind.from_pretrained(
            None,
            config=kind.config_class.from_pretrained(str(part), local_files_only=True),
            state_dict=dict(held),
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        differences = {kind: said[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched")}
        return Compared(differences=differences, component=model)
    with torch.device("meta"):
        model = kind.from_config(kind.load_config(str(part), local_files_only=True))
    held, needed = dict(held), model.state_dict()
    if not shards:
        model._fix_state_dict_keys_on_load(held)
    ignored = kind._keys_to_ignore_on_load_unexpected or ()
    differences = {
        "missing": needed.keys() - held.keys(),
        "unexpected": [key for key in held.keys() - needed.keys() if not any(re.search(each, key) for each in ignored)],
        "mismatched": [key for key in held.keys() & needed.keys() if held[key].shape != needed[key].shape],
    }
    return Compared(differences=differences, component=model)
