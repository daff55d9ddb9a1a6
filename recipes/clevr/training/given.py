"""Parts of models that training starts from or takes as they are, and what of its settings results depend on."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.files import file_hash

__all__ = ["given_autoencoder", "hash_of_weights", "lasting"]

# Of the trained stages' settings, what changes no result.
INCIDENTAL = ("save_every", "show_every", "graph")


def given_autoencoder(folder: Path) -> AutoencoderKL:
    """The autoencoder of a model, float32, not trainable.

    Raises:
        UserError: when there is none.
    """
    try:
        autoencoder = AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"There is no autoencoder in '{folder}' ({' '.join(str(error).split())[:200]}): give "
            "task.given_autoencoder the folder of a model in diffusers' layout."
        ) from error
    found: AutoencoderKL = autoencoder.eval().requires_grad_(False)
    return found


def hash_of_weights(folder: Path, *parts: str) -> str:
    """A hash of the weights of some parts of a model, wherever it lies; that of nothing where there are none."""
    total = hashlib.sha256()
    for part in parts or ("",):
        for path in sorted((folder / part).glob("*.safetensors")):
            total.update(f"{part} {file_hash(path)}\n".encode())
    return total.hexdigest()


def lasting(settings: Any) -> dict[str, Any]:
    """What a stage's result depends on of its settings; of a model to start from, the weights, not the place."""
    found = {key: value for key, value in asdict(settings).items() if key not in INCIDENTAL}
    if found.get("start_from") is not None:
        found["start_from"] = hash_of_weights(Path(found["start_from"]), "unet", "text_encoder")
    return found
