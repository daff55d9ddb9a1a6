"""Stable Diffusion 3 and 3.5: a transformer that predicts the velocity of a flow, and up to three text encoders."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.models.families.base import (
    Components,
    FlowTransformer,
    Maps,
    beside_tokens,
    image_shift,
    reduction_factor,
    split_pooled,
)
from latent_geodesics.models.families.stable_diffusion import warn_of_dropped_words
from latent_geodesics.models.noise_schedule import FLOW_SCHEDULER, NoiseSchedule


class StableDiffusion3(FlowTransformer):
    """SD3 and SD3.5 (Esser et al. 2024, arXiv 2403.03206); the third text encoder, T5, may be absent."""

    pipelines = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
    parts = {
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_3": ("T5Tokenizer", "T5TokenizerFast"),
        "scheduler": (FLOW_SCHEDULER,),
    }
    optional = frozenset({"text_encoder_3", "tokenizer_3"})
    pooled = True
    packed = False

    def embed(self, components: Components, pipeline: Any, text: str) -> Float[Tensor, "l c"]:  # noqa: D102
        texts = components.texts
        if texts["text_encoder_3"] is None:  # it reads more than the others
            warn_of_dropped_words(texts["tokenizer"], text, texts["tokenizer"].model_max_length)
        tokens, _, pooled, _ = pipeline.encode_prompt(
            text, None, None, device=texts["text_encoder"].device, do_classifier_free_guidance=False
        )
        return beside_tokens(tokens[0].float(), pooled[0].float())

    def predict(self, network: Any, images: Maps, told: Tensor, condition: Tensor, pixels: int) -> Maps:  # noqa: D102
        tokens, pooled = split_pooled(condition, network.config.pooled_projection_dim)
        (output,) = network(
            hidden_states=images,
            timestep=told,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            return_dict=False,
        )
        return torch.as_tensor(output)

    def schedule(self, components: Components, steps: int, latent_shape: tuple[int, int, int]) -> NoiseSchedule:  # noqa: D102
        scheduler, patch, shift = components.scheduler, components.network.config.patch_size, None
        if scheduler.config.get("use_dynamic_shifting"):
            shift = image_shift(scheduler.config, (latent_shape[1] // patch) * (latent_shape[2] // patch))
        return NoiseSchedule.from_flow(scheduler, steps, shift=shift)

    def widths(self, components: Components) -> list[tuple[str, Any, int]]:  # noqa: D102
        network, texts = components.network.config, components.texts
        first, second, third = (texts[f"text_encoder{number}"] for number in ("", "_2", "_3"))
        read, clip = network.joint_attention_dim, first.config.hidden_size + second.config.hidden_size
        pooled = first.config.projection_dim + second.config.projection_dim
        return [
            ("texts", read, max(read, clip) if third is None else third.config.d_model),  # those of CLIP are padded
            ("a text as a whole", network.pooled_projection_dim, pooled),
        ]

    def largest(self, components: Components) -> int | None:  # noqa: D102
        return int(self.multiple(components) * components.network.config.pos_embed_max_size)

    def multiple(self, components: Components) -> int:  # noqa: D102
        return reduction_factor(components.vae) * int(components.network.config.patch_size)
