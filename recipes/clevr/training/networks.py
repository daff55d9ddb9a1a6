"""The networks of the latent diffusion model: a `UNet2DConditionModel` and a small `CLIPTextModel`."""

from typing import TYPE_CHECKING

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from latent_geodesics.core.errors import UserError

if TYPE_CHECKING:
    from recipes.clevr.training.diffusion import DiffusionSettings

__all__ = ["build_networks", "build_text_encoder", "build_unet", "set_dropout"]


def build_unet(settings: "DiffusionSettings", autoencoder: AutoencoderKL) -> UNet2DConditionModel:
    """An untrained U-Net for the latents of `autoencoder`."""
    halvings = len(autoencoder.config.block_out_channels) - 1
    unet = UNet2DConditionModel(
        sample_size=autoencoder.config.sample_size // 2**halvings,
        in_channels=autoencoder.config.latent_channels,
        out_channels=autoencoder.config.latent_channels,
        layers_per_block=settings.layers,
        block_out_channels=tuple(settings.channels),
        down_block_types=tuple("CrossAttnDownBlock2D" if on else "DownBlock2D" for on in settings.attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if on else "UpBlock2D" for on in settings.attention[::-1]),
        cross_attention_dim=settings.text_width,
        attention_head_dim=settings.heads,
        norm_num_groups=min(16, settings.channels[0]),
    )
    # the fused kernel's bfloat16 backward on a CPU takes about twice the time with heads this small
    unet.set_attn_processor(AttnProcessor())
    return unet


def build_text_encoder(settings: "DiffusionSettings", tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.text_width,
            intermediate_size=4 * settings.text_width,
            num_hidden_layers=settings.text_layers,
            num_attention_heads=settings.heads,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=settings.text_width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_networks(
    settings: "DiffusionSettings", autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer
) -> nn.ModuleDict:
    """U-Net (`unet`) and text encoder (`text_encoder`), untrained or those of the model `settings.start_from`.

    Raises:
        UserError: when the model to start from is not there, or its networks have other shapes.
    """
    networks = nn.ModuleDict(
        {"unet": build_unet(settings, autoencoder), "text_encoder": build_text_encoder(settings, tokenizer)}
    )
    if settings.start_from is not None:
        try:
            unet = UNet2DConditionModel.from_pretrained(settings.start_from, subfolder="unet", local_files_only=True)
            text_encoder = CLIPTextModel.from_pretrained(
                settings.start_from, subfolder="text_encoder", local_files_only=True
            )
            networks["unet"].load_state_dict(unet.float().state_dict())
            networks["text_encoder"].load_state_dict(text_encoder.float().state_dict())
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"Training cannot start from '{settings.start_from}' ({' '.join(str(error).split())[:200]}): give "
                "task.diffusion.start_from a model in diffusers' layout with networks as task.diffusion describes them."
            ) from error
    return networks


def set_dropout(unet: UNet2DConditionModel, share: float) -> None:
    """Sets the dropout of the residual blocks, and leaves the configuration that ships as it is."""
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            module.dropout.p = share
