"""FLUX.1: a transformer over tokens of two by two latents that predicts the velocity of a flow."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.models.families.base import (
    PATCH,
    Components,
    FlowTransformer,
    Maps,
    beside_tokens,
    image_shift,
    split_pooled,
)
from latent_geodesics.models.noise_schedule import FLOW_SCHEDULER, NoiseSchedule

GUIDANCE = 3.5
"""What the distilled models are told of guidance, the pipeline's default.

FLUX.1 [dev] was distilled from a guided model, so that its velocity is that of a guided flow: its score is not that of
one density p(x | c).
"""


class Flux(FlowTransformer):
    """FLUX.1 [dev] and [schnell] (Labs et al. 2025, arXiv 2506.15742)."""

    pipelines = ("FluxPipeline", "FluxImg2ImgPipeline")
    parts = {
        "transformer": ("FluxTransformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("T5EncoderModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("T5Tokenizer", "T5TokenizerFast"),
        "scheduler": (FLOW_SCHEDULER,),
    }
    pooled = True

    def embed(self, components: Components, pipeline: Any, text: str) -> Float[Tensor, "l c"]:  # noqa: D102
        tokens, pooled, _ = pipeline.encode_prompt(text, None, device=components.texts["text_encoder"].device)
        return beside_tokens(tokens[0].float(), pooled[0].float())

    def predict(self, network: Any, images: Maps, told: Tensor, condition: Tensor, pixels: int) -> Maps:  # noqa: D102
        tokens, pooled = split_pooled(condition, network.config.pooled_projection_dim)
        height, width = images.shape[-2:]
        guidance = torch.full_like(told, GUIDANCE) if network.config.guidance_embeds else None
        (output,) = network(
            hidden_states=torch.nn.functional.pixel_unshuffle(images, PATCH).flatten(2).mT,  # row by row
            timestep=told.to(images.dtype) / 1000,
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=tokens,
            txt_ids=images.new_zeros(tokens.shape[1], 3),
            img_ids=_positions(height // PATCH, width // PATCH).to(images),
            return_dict=False,
        )
        grid = torch.as_tensor(output).mT.reshape(len(images), -1, height // PATCH, width // PATCH)
        return torch.nn.functional.pixel_shuffle(grid, PATCH)

    def widths(self, components: Components) -> list[tuple[str, Any, int]]:  # noqa: D102
        network, texts = components.network.config, components.texts
        return [
            ("texts", network.joint_attention_dim, texts["text_encoder_2"].config.d_model),
            ("a text as a whole", network.pooled_projection_dim, texts["text_encoder"].config.hidden_size),
        ]

    def schedule(self, components: Components, steps: int, latent_shape: tuple[int, int, int]) -> NoiseSchedule:  # noqa: D102
        scheduler = components.scheduler
        shift = image_shift(scheduler.config, latent_shape[1] * latent_shape[2] // PATCH**2)
        return NoiseSchedule.from_flow(scheduler, steps, evenly=True, shift=shift)


def _positions(rows: int, columns: int) -> Float[Tensor, "m 3"]:
    """Where each token lies: a zero, its row and its column."""
    return torch.cartesian_prod(torch.zeros(1), torch.arange(rows).float(), torch.arange(columns).float())
