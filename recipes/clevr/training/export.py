"""Writes what ships: a half-precision folder that `StableDiffusionPipeline` loads with no network."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from recipes.clevr.training.tokenizer import build_tokenizer

__all__ = ["assemble", "export_pipeline", "weights_size"]


def assemble(
    autoencoder: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scheduler: DDIMScheduler,
) -> Any:
    """The parts as a `StableDiffusionPipeline` without a safety checker."""
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export_pipeline(pipeline: Any, folder: Path) -> int:
    """Write `pipeline` to `folder` as fp16 safetensors; the pipeline's own weights stay as they are.

    Returns:
        The size of all weights written, bytes.
    """
    parts = {"vae": pipeline.vae, "unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    halves = {name: _half(part) for name, part in parts.items()}
    assemble(
        halves["vae"], halves["unet"], halves["text_encoder"], pipeline.tokenizer, pipeline.scheduler
    ).save_pretrained(folder, safe_serialization=True)
    build_tokenizer(folder / "tokenizer")
    _read_in_float32(folder / "text_encoder" / "config.json")
    return weights_size(folder)


def weights_size(folder: Path) -> int:
    """Bytes of all safetensors below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def _read_in_float32(config: Path) -> None:
    """Have transformers read half-precision weights as float32, as diffusers does the other networks' by default."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(settings | {"dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


def _half(part: Any) -> Any:
    if isinstance(part, CLIPTextModel):
        copy = CLIPTextModel(part.config)
    else:
        copy = type(part).from_config(part.config)
    copy.load_state_dict(part.state_dict())
    return copy.to(torch.float16)
