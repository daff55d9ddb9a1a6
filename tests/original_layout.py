"""A Stable Diffusion 1 model in one file, under the names that its first implementation gave to its tensors."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
)
_UNET = (
    (r"^time_embedding.linear_1", "time_embed.0"),
    (r"^time_embedding.linear_2", "time_embed.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^mid_block.attentions.0", "middle_block.1"),
)
_VAE = (
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
    (r"mid_block.attentions.0", "mid.attn_1"),
    (r"down_blocks.(\d).resnets", r"down.\1.block"),
    (r"down_blocks.(\d).downsamplers.0", r"down.\1.downsample"),
    (r"group_norm", "norm"),
    (r"to_out.0", "proj_out"),
    (r"to_([qkv])\b", r"\1"),
)
LEVELS, LAYERS = 4, 1
"""Of the U-Net in `tiny_families`."""


def write(pipeline: Any, file: Path, *, without: str = "") -> Path:
    """Writes the weights of a pipeline, but for those whose names begin with `without` where that is given."""
    unet = {f"model.diffusion_model.{_unet(name)}": value for name, value in pipeline.unet.state_dict().items()}
    vae = dict(_vae(name, value) for name, value in pipeline.vae.state_dict().items())
    texts = {
        f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": value
        for name, value in pipeline.text_encoder.state_dict().items()
    }
    tensors = {name: value.contiguous() for name, value in (unet | vae | texts).items()}
    save_file({name: value for name, value in tensors.items() if not without or not name.startswith(without)}, file)
    return file


def _unet(name: str) -> str:
    """The first implementation counts all layers of the way down, and those of the way up, in one row."""
    if found := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", name):
        way, block, kind, layer, rest = found.groups()
        down = way == "down"
        number = (LAYERS + 1) * int(block) + int(layer) + (1 if down else 0)
        part = 0 if kind == "resnets" else 1
        return f"{'input' if down else 'output'}_blocks.{number}.{part}.{_resnet(rest) if part == 0 else rest}"
    if found := re.match(r"down_blocks\.(\d)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(LAYERS + 1) * (int(found[1]) + 1)}.0.op.{found[2]}"
    if found := re.match(r"up_blocks\.(\d)\.upsamplers\.0\.(.*)", name):
        block = int(found[1])
        return f"output_blocks.{(LAYERS + 1) * block + LAYERS}.{1 if block == 0 else 2}.{found[2]}"
    if found := re.match(r"mid_block\.resnets\.(\d)\.(.*)", name):
        return f"middle_block.{2 * int(found[1])}.{_resnet(found[2])}"
    return _renamed(name, _UNET)


def _resnet(name: str) -> str:
    for ours, theirs in _RESNET:
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return name


def _vae(name: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
    """The way up is counted from its end, and projections of attention are convolutions."""
    attention = "attentions" in name
    name = _renamed(name, _VAE)
    name = re.sub(r"up_blocks.(\d).resnets", lambda found: f"up.{LEVELS - 1 - int(found[1])}.block", name)
    name = re.sub(r"up_blocks.(\d).upsamplers.0", lambda found: f"up.{LEVELS - 1 - int(found[1])}.upsample", name)
    name = re.sub(r"mid_block.resnets.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    projection = attention and value.ndim == 2
    return f"first_stage_model.{name}", value[..., None, None] if projection else value


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
