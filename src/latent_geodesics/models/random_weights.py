"""Models of published sizes with random weights: for measuring speed, which does not depend on the values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from latent_geodesics.models.accelerator import choose_device
from latent_geodesics.models.families import Components
from latent_geodesics.models.families.stable_diffusion import StableDiffusion
from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.models.loading import choose_precision, place


def random_model(
    *,
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    parts: str | Path,
    image_size: int,
    device: str = "auto",
    dtype: str = "auto",
    steps: int = 50,
    batch_size: int = 16,
    cache_dir: str | Path | None = None,
    seed: int = 0,
) -> LatentModel:
    """Makes a latent diffusion model of given sizes and no training.

    Args:
        unet: Arguments of diffusers' `UNet2DConditionModel`.
        vae: Arguments of diffusers' `AutoencoderKL`.
        parts: A model in diffusers' format whose tokenizer and noise schedule are borrowed.
        image_size: Side of the images in pixels.
        device: See `load_model`.
        dtype: See `load_model`.
        steps: See `load_model`.
        batch_size: See `load_model`.
        cache_dir: See `load_model`.
        seed: Of the weights.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTokenizer

    target = choose_device(device)
    tokenizer = CLIPTokenizer.from_pretrained(Path(parts) / "tokenizer")

    def network() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return UNet2DConditionModel(**unet)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        components = Components(
            family=StableDiffusion(),
            network=network(),
            vae=AutoencoderKL(**vae),
            texts={
                "tokenizer": tokenizer,
                "text_encoder": _text_encoder(tokenizer, width=int(unet["cross_attention_dim"])),
            },
            scheduler=DDIMScheduler.from_pretrained(Path(parts) / "scheduler"),
            reload=lambda: network().to(target),
        )
    folder = None if cache_dir is None else Path(cache_dir)
    return LatentModel(
        components=components,
        image_size=(image_size, image_size),
        steps=steps,
        batch_size=batch_size,
        cache_dir=folder,
        precision=place(components, target, choose_precision(dtype, target), folder=folder),
    )


def _text_encoder(tokenizer: Any, *, width: int) -> Any:
    """Of two layers: it runs once."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)
