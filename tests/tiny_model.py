"""A Stable-Diffusion-shaped model with random weights, small enough to build in a second and to run in milliseconds."""

import json
import string
from pathlib import Path

import torch

WORDS = ("a", "red", "blue", "cube", "sphere")
LENGTH = 8
SIDE = 16


def _save_tokenizer(folder: Path) -> int:
    """Write a CLIP tokenizer that knows letters and a few words; the size of its vocabulary."""
    from transformers import CLIPTokenizer

    letters = list(string.ascii_lowercase)
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary.append(parts[0])
    numbered = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(numbered))
    pairs = [f"{left} {right}" for left, right in dict.fromkeys(merges)]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]))
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH, pad_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(folder)
    return len(numbered)


def build_tiny_model(folder: Path, *, prediction: str = "epsilon") -> Path:
    """Write the model folder of a latent diffusion model of 16 x 16 images and 4 x 8 x 8 latents."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        words = _save_tokenizer(folder / "tokenizer")
        AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=SIDE,
            scaling_factor=0.5,
            mid_block_add_attention=False,
        ).save_pretrained(folder / "vae")
        UNet2DConditionModel(
            sample_size=SIDE // 2,
            block_out_channels=(16, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            cross_attention_dim=16,
            attention_head_dim=4,
        ).save_pretrained(folder / "unet")
        config = CLIPTextConfig(
            vocab_size=words,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    ).save_pretrained(folder / "scheduler")
    parts = {
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False, **parts}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def pictures(count: int, *, seed: int = 0) -> torch.Tensor:
    """Random images of the tiny model's size in [0, 1]."""
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
