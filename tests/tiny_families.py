"""Folders of every family with random weights, in the published structures with small sizes, saved by diffusers."""

from functools import partial
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny_model import _save_tokenizer
from tokenizers import Tokenizer, models
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

FAMILIES = (
    "stable_diffusion_1",
    "stable_diffusion_2_base",
    "stable_diffusion_2",
    "stable_diffusion_xl",
    "stable_diffusion_3",
    "stable_diffusion_3_without_t5",
    "flux",
    "flux2_klein",
)
TOKENS = 77


def sides(folder: Path) -> tuple[int, int]:
    """The side of the smallest images of a family, and what theirs are multiples of."""
    return (64, 64) if (folder / "unet").exists() and not (folder / "text_encoder_2").exists() else (32, 16)


def build(name: str, folder: Path, **options) -> Path:
    """Writes the folder of a family; the options are those of the function that makes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = {
            "stable_diffusion_1": _sd,
            "stable_diffusion_2_base": partial(_sd, second=True),
            "stable_diffusion_2": partial(_sd, second=True, prediction="v_prediction"),
            "stable_diffusion_xl": _xl,
            "stable_diffusion_3": _sd3,
            "stable_diffusion_3_without_t5": partial(_sd3, t5=False),
            "flux": _flux,
            "flux2_klein": _flux2,
        }[name](folder, **options)
        for part in pipeline.components.values():  # biases begin at zero, and some outputs with them
            if isinstance(part, torch.nn.Module):
                for value in part.parameters():
                    value.data += 0.02 * torch.randn_like(value)
        # What changes slowly with the latents can be inverted in few steps.
        network = pipeline.unet.conv_out if hasattr(pipeline, "unet") else pipeline.transformer.proj_out
        network.weight.data *= 0.1
    pipeline.save_pretrained(folder / "model")
    return folder / "model"


def _vae(channels: int, **options) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        **options,
    )


def _clip(place: Path, *, projection: int | None = None, hidden: int = 16, layers: int = 3, **options):
    words = _save_tokenizer(place)
    tokenizer = CLIPTokenizer.from_pretrained(place, model_max_length=TOKENS)
    config = CLIPTextConfig(
        vocab_size=words, hidden_size=hidden, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=TOKENS, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        projection_dim=projection or hidden, **options,
    )  # fmt: skip
    return tokenizer, (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _letters() -> list[str]:
    return ["<pad>", "</s>", "<unk>", *(chr(97 + k) for k in range(26))]


def _t5(width: int = 32):
    pieces = Tokenizer(models.Unigram([(letter, -1.0) for letter in _letters()], unk_id=2))
    tokenizer = T5TokenizerFast(tokenizer_object=pieces, extra_ids=0, model_max_length=512)
    config = T5Config(vocab_size=40, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return tokenizer, T5EncoderModel(config)


def _sd(folder: Path, *, second: bool = False, prediction: str = "epsilon"):
    """Stable Diffusion 1, or 2: other texts, heads and projections."""
    tokenizer, encoder = _clip(folder / "tokenizer_1", hidden_act="gelu" if second else "quick_gelu")
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=16, attention_head_dim=(1, 2, 2, 2) if second else 2, use_linear_projection=second,
    )  # fmt: skip
    noise = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
        "set_alpha_to_one": False, "prediction_type": prediction,
    }  # fmt: skip
    shipped = DDIMScheduler(clip_sample=False, **noise) if second else PNDMScheduler(skip_prk_steps=True, **noise)
    return StableDiffusionPipeline(
        vae=_vae(4, scaling_factor=0.18215), unet=unet, text_encoder=encoder, tokenizer=tokenizer, scheduler=shipped,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _xl(folder: Path, *, hidden: int = 16, layers: int = 3):
    """Stable Diffusion XL, whose second text encoder is of this width and so many layers."""
    tokenizer, encoder = _clip(folder / "tokenizer_1")
    tokenizer_2, encoder_2 = _clip(folder / "tokenizer_2", projection=20, hidden=hidden, layers=layers)
    unet = UNet2DConditionModel(
        sample_size=4, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16 + hidden, attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=20 + 6 * 8,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=_vae(4, scaling_factor=0.13025), unet=unet, text_encoder=encoder, text_encoder_2=encoder_2,
        tokenizer=tokenizer, tokenizer_2=tokenizer_2,
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
            set_alpha_to_one=False,
        ),
    )  # fmt: skip


def _sd3(folder: Path, *, t5: bool = True, hidden: int = 16, layers: int = 2, **options):
    """Stable Diffusion 3, whose second text encoder is of this width, and whose network has so many layers."""
    tokenizer, encoder = _clip(folder / "tokenizer_1", projection=16)
    tokenizer_2, encoder_2 = _clip(folder / "tokenizer_2", projection=24, hidden=hidden)
    tokenizer_3, encoder_3 = _t5(48) if t5 else (None, None)
    transformer = SD3Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=16, num_layers=layers, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=48, caption_projection_dim=16, pooled_projection_dim=40, out_channels=16,
        pos_embed_max_size=24, **options,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        vae=_vae(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        transformer=transformer, text_encoder=encoder, text_encoder_2=encoder_2, text_encoder_3=encoder_3,
        tokenizer=tokenizer, tokenizer_2=tokenizer_2, tokenizer_3=tokenizer_3,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def _flux(folder: Path, *, heads: int = 2, head: int = 16, axes: tuple[int, ...] = (4, 6, 6)):
    """FLUX.1, with so many heads of this width, whose positions take these shares of it."""
    tokenizer, encoder = _clip(folder / "tokenizer_1")
    tokenizer_2, encoder_2 = _t5(32)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=head,
        num_attention_heads=heads, joint_attention_dim=32, pooled_projection_dim=16, guidance_embeds=True,
        axes_dims_rope=axes,
    )  # fmt: skip
    return FluxPipeline(
        vae=_vae(16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        transformer=transformer, text_encoder=encoder, text_encoder_2=encoder_2, tokenizer=tokenizer,
        tokenizer_2=tokenizer_2, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )  # fmt: skip


def _flux2(folder: Path):
    vocabulary = {letter: number for number, letter in enumerate(_letters())}
    pieces = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer = Qwen2TokenizerFast(tokenizer_object=pieces, pad_token="<pad>", model_max_length=512)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=28,
            num_attention_heads=2, num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=1,
        )
    )  # fmt: skip
    transformer = Flux2Transformer2DModel(
        patch_size=1, in_channels=32, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=8, norm_num_groups=4, sample_size=32,
    )  # fmt: skip
    vae.bn.running_mean.normal_(std=0.1)
    vae.bn.running_var.uniform_(0.5, 2.0)
    return Flux2KleinPipeline(
        vae=vae, transformer=transformer, text_encoder=encoder, tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), is_distilled=False,
    )  # fmt: skip
