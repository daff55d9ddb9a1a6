"""Models in one file, under the names that the first implementations of their families gave to their tensors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Rules = tuple[tuple[str, str], ...]
_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
)
_UNET: Rules = (
    (r"^time_embedding.linear_1", "time_embed.0"),
    (r"^time_embedding.linear_2", "time_embed.2"),
    (r"^add_embedding.linear_1", "label_emb.0.0"),
    (r"^add_embedding.linear_2", "label_emb.0.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^mid_block.attentions.0", "middle_block.1"),
)
_VAE: Rules = (
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
"""Of the autoencoders, and of each level of the U-Nets, in `tiny_families`."""
# In the rules below, what stands behind a slash is the place of a tensor in one that it is a part of.
_OPEN_CLIP: Rules = (
    (r"^text_model.", ""),
    (r"^embeddings.token_embedding", "token_embedding"),
    (r"^embeddings.position_embedding.weight", "positional_embedding"),
    (r"^encoder.layers", "transformer.resblocks"),
    (r"self_attn.q_proj.(\w+)", r"attn.in_proj_\1/0"),
    (r"self_attn.k_proj.(\w+)", r"attn.in_proj_\1/1"),
    (r"self_attn.v_proj.(\w+)", r"attn.in_proj_\1/2"),
    (r"self_attn", "attn"),
    (r"layer_norm([12])", r"ln_\1"),
    (r"mlp.fc1", "mlp.c_fc"),
    (r"mlp.fc2", "mlp.c_proj"),
    (r"^final_layer_norm", "ln_final"),
    (r"^text_projection.weight", "text_projection"),
)
_SD3: Rules = (
    (r"^pos_embed.pos_embed", "pos_embed"),
    (r"^pos_embed.proj", "x_embedder.proj"),
    (r"^time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    (r"^time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    (r"^time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
    (r"^time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    (r"^norm_out.linear", "final_layer.adaLN_modulation.1"),
    (r"^proj_out", "final_layer.linear"),
    (r"^transformer_blocks", "joint_blocks"),
    (r"(attn2?).to_q.(\w+)", r"x_block.\1.qkv.\2/0"),
    (r"(attn2?).to_k.(\w+)", r"x_block.\1.qkv.\2/1"),
    (r"(attn2?).to_v.(\w+)", r"x_block.\1.qkv.\2/2"),
    (r"attn.add_q_proj.(\w+)", r"context_block.attn.qkv.\1/0"),
    (r"attn.add_k_proj.(\w+)", r"context_block.attn.qkv.\1/1"),
    (r"attn.add_v_proj.(\w+)", r"context_block.attn.qkv.\1/2"),
    (r"(attn2?).norm_([qk])", r"x_block.\1.ln_\2"),
    (r"attn.norm_added_([qk])", r"context_block.attn.ln_\1"),
    (r"(attn2?).to_out.0", r"x_block.\1.proj"),
    (r"attn.to_add_out", "context_block.attn.proj"),
    (r"norm1.linear", "x_block.adaLN_modulation.1"),
    (r"norm1_context.linear", "context_block.adaLN_modulation.1"),
    (r"ff.net.0.proj", "x_block.mlp.fc1"),
    (r"ff.net.2", "x_block.mlp.fc2"),
    (r"ff_context.net.0.proj", "context_block.mlp.fc1"),
    (r"ff_context.net.2", "context_block.mlp.fc2"),
)
_FLUX: Rules = (
    (r"^time_text_embed.timestep_embedder.linear_1", "time_in.in_layer"),
    (r"^time_text_embed.timestep_embedder.linear_2", "time_in.out_layer"),
    (r"^time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
    (r"^time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer"),
    (r"^time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
    (r"^time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
    (r"^context_embedder", "txt_in"),
    (r"^x_embedder", "img_in"),
    (r"^norm_out.linear", "final_layer.adaLN_modulation.1"),
    (r"^proj_out", "final_layer.linear"),
    (r"^(single_transformer_blocks.\d+).attn.to_q.(\w+)", r"\1.linear1.\2/0"),
    (r"^(single_transformer_blocks.\d+).attn.to_k.(\w+)", r"\1.linear1.\2/1"),
    (r"^(single_transformer_blocks.\d+).attn.to_v.(\w+)", r"\1.linear1.\2/2"),
    (r"^(single_transformer_blocks.\d+).proj_mlp.(\w+)", r"\1.linear1.\2/3"),
    (r"^(single_transformer_blocks.\d+).proj_out", r"\1.linear2"),
    (r"^(single_transformer_blocks.\d+).norm.linear", r"\1.modulation.lin"),
    (r"^(single_transformer_blocks.\d+).attn.norm", r"\1.norm"),
    (r"^single_transformer_blocks", "single_blocks"),
    (r"^transformer_blocks", "double_blocks"),
    (r"attn.to_q.(\w+)", r"img_attn.qkv.\1/0"),
    (r"attn.to_k.(\w+)", r"img_attn.qkv.\1/1"),
    (r"attn.to_v.(\w+)", r"img_attn.qkv.\1/2"),
    (r"attn.add_q_proj.(\w+)", r"txt_attn.qkv.\1/0"),
    (r"attn.add_k_proj.(\w+)", r"txt_attn.qkv.\1/1"),
    (r"attn.add_v_proj.(\w+)", r"txt_attn.qkv.\1/2"),
    (r"attn.norm_added_([qk])", r"txt_attn.norm_\1"),
    (r"\.attn.norm_([qk])", r".img_attn.norm_\1"),
    (r"norm_q.weight", "norm.query_norm.scale"),
    (r"norm_k.weight", "norm.key_norm.scale"),
    (r"attn.to_out.0", "img_attn.proj"),
    (r"attn.to_add_out", "txt_attn.proj"),
    (r"norm1.linear", "img_mod.lin"),
    (r"norm1_context.linear", "txt_mod.lin"),
    (r"ff.net.0.proj", "img_mlp.0"),
    (r"ff.net.2", "img_mlp.2"),
    (r"ff_context.net.0.proj", "txt_mlp.0"),
    (r"ff_context.net.2", "txt_mlp.2"),
)


def write(pipeline: Any, file: Path, *, without: str | tuple[str, ...] = ()) -> Path:
    """Writes the weights of a pipeline, but for those whose names begin with `without`."""
    tensors = {
        "StableDiffusionPipeline": _stable_diffusion,
        "StableDiffusionXLPipeline": _xl,
        "StableDiffusion3Pipeline": _stable_diffusion_3,
        "FluxPipeline": _flux,
    }[type(pipeline).__name__](pipeline)
    # Copies: a file cannot hold a tensor under two names.
    save_file(
        {name: value.clone().contiguous() for name, value in tensors.items() if not name.startswith(without)}, file
    )
    return file


def _stable_diffusion(pipeline: Any) -> dict[str, torch.Tensor]:
    second = pipeline.text_encoder.config.hidden_act == "gelu"  # the second version's texts are read by OpenCLIP
    texts = _open_clip(pipeline.text_encoder) if second else _clip(pipeline.text_encoder)
    return _u_net(pipeline) | _under("cond_stage_model.model." if second else "cond_stage_model.transformer.", texts)


def _xl(pipeline: Any) -> dict[str, torch.Tensor]:
    texts = _under("conditioner.embedders.0.transformer.", _clip(pipeline.text_encoder))
    return _u_net(pipeline) | texts | _under("conditioner.embedders.1.model.", _open_clip(pipeline.text_encoder_2))


def _stable_diffusion_3(pipeline: Any) -> dict[str, torch.Tensor]:
    network = _in_rows(pipeline.transformer, _SD3)
    last = f"joint_blocks.{pipeline.transformer.config.num_layers - 1}.context_block.adaLN_modulation.1"
    texts = {"clip_l": _clip(pipeline.text_encoder), "clip_g": _clip(pipeline.text_encoder_2)}
    if pipeline.text_encoder_3 is not None:
        texts["t5xxl"] = pipeline.text_encoder_3.state_dict()
    return _transformer(
        pipeline, _turned(network, ("final_layer.adaLN_modulation.1", last)), texts, "first_stage_model."
    )


def _flux(pipeline: Any) -> dict[str, torch.Tensor]:
    network = _turned(_in_rows(pipeline.transformer, _FLUX), ("final_layer.adaLN_modulation.1",))
    # Some such files hold T5's embeddings under one of its two names for them.
    t5 = {name: value for name, value in pipeline.text_encoder_2.state_dict().items() if "embed_tokens" not in name}
    return _transformer(pipeline, network, {"clip_l": _clip(pipeline.text_encoder), "t5xxl": t5}, "vae.")


def _transformer(pipeline: Any, network: Mapping, texts: Mapping[str, Mapping], vae: str) -> dict[str, torch.Tensor]:
    tensors = _under("model.diffusion_model.", network) | _autoencoder(pipeline, vae)
    for name, encoder in texts.items():
        tensors |= _under(f"text_encoders.{name}.transformer.", encoder)
    return tensors


def _u_net(pipeline: Any) -> dict[str, torch.Tensor]:
    state = pipeline.unet.state_dict()
    # A level's upsampler comes behind its attention, where it has one.
    attending = {found[1] for name in state if (found := re.match(r"up_blocks\.(\d)\.attentions", name))}
    network = {_unet(name, attending): value for name, value in state.items()}
    return _under("model.diffusion_model.", network) | _autoencoder(pipeline, "first_stage_model.")


def _autoencoder(pipeline: Any, prefix: str) -> dict[str, torch.Tensor]:
    return _under(prefix, dict(_vae(name, value) for name, value in pipeline.vae.state_dict().items()))


def _unet(name: str, attending: set[str]) -> str:
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
        number = (LAYERS + 1) * int(found[1]) + LAYERS
        return f"output_blocks.{number}.{2 if found[1] in attending else 1}.{found[2]}"
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
    return name, value[..., None, None] if projection else value


def _clip(encoder: Any) -> dict[str, torch.Tensor]:
    """Named as in the library, where all but the projection was once one level deeper."""
    return {
        name if name.startswith("text_projection") else f"text_model.{name.removeprefix('text_model.')}": value
        for name, value in encoder.state_dict().items()
    }


def _open_clip(encoder: Any) -> dict[str, torch.Tensor]:
    """Its projection is multiplied from the other side."""
    tensors = _in_rows(encoder, _OPEN_CLIP)
    return {name: value.T if name == "text_projection" else value for name, value in tensors.items()}


def _in_rows(network: torch.nn.Module, rules: Rules) -> dict[str, torch.Tensor]:
    """Renamed, and what is part of one tensor put together along its rows."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in network.state_dict().items():
        whole, _, place = _renamed(name, rules).partition("/")
        parts.setdefault(whole, {})[place] = value
    return {whole: torch.cat([rows[place] for place in sorted(rows)]) for whole, rows in parts.items()}


def _turned(tensors: Mapping[str, torch.Tensor], names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The first implementation has the shift of a norm before its scale, the library behind it."""
    return {
        name: torch.cat(value.chunk(2)[::-1]) if name.startswith(names) else value for name, value in tensors.items()
    }


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
