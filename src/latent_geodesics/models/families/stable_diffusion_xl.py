"""Stable Diffusion XL: a U-Net that reads the tokens of two text encoders, a text as a whole, and sizes of images."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.models.families.base import Components, Family, beside_tokens, reduction_factor, split_pooled
from latent_geodesics.models.families.stable_diffusion import SCHEDULERS, u_net_problems, warn_of_dropped_words

__all__ = ["StableDiffusionXL"]


class StableDiffusionXL(Family):
    """SDXL and its fine-tuned models.

    The network is told that the images have the size that they have and were not cropped, as the pipeline does.

    References:
        Podell et al. 2023, arXiv 2307.01952.
    """

    pipelines = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
    network = "unet"
    parts = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "scheduler": SCHEDULERS,
    }
    controlled = True
    pooled = True
    measured = True

    def embedder(self, components: Components) -> Callable[[str], Float[Tensor, "l c"]]:  # noqa: D102
        texts, pipeline = components.texts, self.pipeline(components)

        @torch.no_grad()
        def embed(text: str) -> Float[Tensor, "l c"]:
            warn_of_dropped_words(texts["tokenizer"], text, texts["tokenizer"].model_max_length)
            tokens, _, pooled, _ = pipeline.encode_prompt(
                text, device=texts["text_encoder"].device, do_classifier_free_guidance=False
            )
            return beside_tokens(tokens[0].float(), pooled[0].float())

        return embed

    def predict(  # noqa: D102
        self, network: Any, images: Tensor, told: Tensor, condition: Tensor, pixels: int
    ) -> Tensor:
        # What is told besides: the sizes before and after cropping, and the corner, each as two numbers.
        times = network.config.addition_time_embed_dim
        tokens, pooled = split_pooled(condition, network.config.projection_class_embeddings_input_dim - 6 * times)
        height, width = (pixels * side for side in images.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=pooled.dtype, device=images.device)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(images), -1)}
        output = network(images, told, encoder_hidden_states=tokens, added_cond_kwargs=added).sample
        return torch.as_tensor(output)

    def problems(self, components: Components) -> list[str]:  # noqa: D102
        unet = components.network.config
        found = u_net_problems(components)
        if unet.addition_embed_type != "text_time":
            found.append(f"its U-Net needs another further embedding ({unet.addition_embed_type})")
        return found

    def multiple(self, components: Components) -> int:  # noqa: D102
        return int(reduction_factor(components.vae) * 2 ** (len(components.network.config.block_out_channels) - 1))
