"""The tensors of weight files as their headers tell them, held against those that a component needs.

No numbers are read, so that a model of many gigabytes is looked at in seconds.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from latent_geodesics.core.errors import UserError, is_out_of_memory
from latent_geodesics.models.sources import why_unreadable

# What safetensors calls the precisions that are kept, and the whole numbers beside them; all else is read in float32.
_PRECISIONS = {"F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


def shapes(file: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, without their numbers; a `UserError` when it cannot be read."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as content:
                slices = {key: content.get_slice(key) for key in content.keys()}  # noqa: SIM118 - it is no mapping
                kinds = {key: _PRECISIONS.get(one.get_dtype(), torch.float32) for key, one in slices.items()}
                return {
                    key: torch.empty(one.get_shape(), dtype=kinds[key], device="meta") for key, one in slices.items()
                }
        loaded = torch.load(file, map_location="meta", weights_only=True)
        found = loaded.get("state_dict", loaded)
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}
    except Exception as error:
        if is_out_of_memory(error):
            raise
        other = "" if file.suffix == ".safetensors" else ", or give the same weights as .safetensors"
        raise UserError(f"'{file}' cannot be read ({why_unreadable(error)}); copy it again{other}") from error


def compared(
    kind: Any, part: Path, held: Mapping[str, Tensor], *, shards: bool
) -> tuple[Any, Mapping[str, Collection[Any]]]:
    """A component, its tensors without numbers, and how those of its files differ from those that it needs.

    By name: those that are `missing`, `unexpected`, and of another shape, `mismatched`. Of `shards` diffusers knows no
    former names.
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
        return model, {how: said[f"{how}_keys"] for how in ("missing", "unexpected", "mismatched")}
    with torch.device("meta"):
        model = kind.from_config(kind.load_config(str(part), local_files_only=True))
    held, needed = dict(held), model.state_dict()
    if not shards:
        model._fix_state_dict_keys_on_load(held)
    ignored = kind._keys_to_ignore_on_load_unexpected or ()
    return model, {
        "missing": needed.keys() - held.keys(),
        "unexpected": [key for key in held.keys() - needed.keys() if not any(re.search(each, key) for each in ignored)],
        "mismatched": [key for key in held.keys() & needed.keys() if held[key].shape != needed[key].shape],
    }
