"""Stable Diffusion 1, 2 and XL: a U-Net that reads the tokens of one or two text encoders."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.models.families.base import (
    Components,
    Family,
    Maps,
    beside_tokens,
    reduction_factor,
    split_pooled,
)
from latent_geodesics.models.noise_schedule import FLOW_SCHEDULER, NoiseSchedule

SCHEDULERS = (
    *("DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler"),
    *("DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler"),
    *("EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler"),
    *("LMSDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler"),
)
"""Schedulers that differ in how they sample, not in the noise of a training time, which is all that is read of them."""
OLD_SIDE = 64
"""The side in latents of the images that Stable Diffusion 1 was trained on."""


class StableDiffusion(Family):
    """Stable Diffusion 1 and 2, and small models of the same parts, which may predict a flow's velocity instead."""

    pipelines = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
    network = "unet"
    parts = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "scheduler": (*SCHEDULERS, FLOW_SCHEDULER),
    }
    controlled = True
    measured = True
    unknown: ClassVar[tuple[str, ...]] = (
        *("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type"),
        *("class_embeddings_concat", "dual_cross_attention"),
    )
    """Settings by which a U-Net needs more than a noisy latent, a time and one text."""
    settings: ClassVar[Mapping[str, Any]] = {"steps_offset": 1}
    """What the pipeline sets of a scheduler, whatever a folder says; it takes `clip_sample` back too."""
    sampling: ClassVar[tuple[str, ...]] = ("thresholding",)

    def embedder(self, components: Components) -> Callable[[str], Float[Tensor, "l c"]]:
        """Without its pipeline, which asks for more than these components."""
        return torch.no_grad()(partial(self.embed, components, None))

    def embed(self, components: Components, pipeline: Any, text: str) -> Float[Tensor, "l c"]:  # noqa: D102
        tokenizer, encoder = components.texts["tokenizer"], components.texts["text_encoder"]
        # One prompt at a time, so that its embedding does not depend on its neighbours even to rounding.
        length = tokenizer.model_max_length
        tokens = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        warn_of_dropped_words(tokenizer, text, length)
        uses_mask = getattr(encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(encoder.device) if uses_mask else None
        return torch.as_tensor(encoder(tokens.input_ids.to(encoder.device), attention_mask=mask)[0][0]).float()

    def predict(self, network: Any, images: Maps, told: Tensor, condition: Tensor, pixels: int) -> Maps:  # noqa: D102
        return torch.as_tensor(network(images, told, encoder_hidden_states=condition).sample)

    def schedule(self, components: Components, steps: int, latent_shape: tuple[int, int, int]) -> NoiseSchedule:  # noqa: D102
        scheduler = components.scheduler
        if type(scheduler).__name__ == FLOW_SCHEDULER:
            return NoiseSchedule.from_flow(scheduler, steps)
        return NoiseSchedule.from_scheduler(scheduler, steps, **self.settings)

    def problems(self, components: Components) -> list[str]:  # noqa: D102
        unet, vae = components.network.config, components.vae.config
        found = super().problems(components)
        for side, channels in (("reads", unet.in_channels), ("returns", unet.out_channels)):
            if channels != vae.latent_channels:
                found.append(f"its U-Net {side} {channels} channels and its latents have {vae.latent_channels}")
        if unet.get("time_cond_proj_dim") is not None:
            found.append("its U-Net is told the weight of a guidance that it was distilled from (time_cond_proj_dim)")
        moved = [name for name in ("shift_factor", "latents_mean", "latents_std") if vae.get(name)]
        if moved:
            found.append(f"its autoencoder's latents are moved by more than a factor ({', '.join(moved)})")
        named = [name for name in self.unknown if unet.get(name) is not None and unet[name] is not False]
        return found + ([f"its U-Net needs a further embedding ({', '.join(named)})"] if named else [])

    def widths(self, components: Components) -> list[tuple[str, Any, int]]:  # noqa: D102
        width = components.texts["text_encoder"].config.hidden_size
        return [("texts", text_width(components.network.config), width)]

    def multiple(self, components: Components) -> int:  # noqa: D102
        return int(reduction_factor(components.vae) * 2 ** (len(components.network.config.block_out_channels) - 1))

    def sample_size(self, components: Components) -> Any:
        """What the U-Net's settings tell; before diffusers 0.9 they said 32 where the training had 64."""
        config = components.network.config
        version = re.match(r"(\d+)\.(\d+)", str(config.get("_diffusers_version", "")))
        old = version is not None and (int(version[1]), int(version[2])) < (0, 9)
        return max(config.sample_size, OLD_SIDE) if old and isinstance(config.sample_size, int) else config.sample_size


def warn_of_dropped_words(tokenizer: Any, text: str, length: int) -> None:
    """Warns of what of a text a text encoder of so many tokens does not read."""
    tokens = tokenizer(text, truncation=False, verbose=False).input_ids
    if len(tokens) > length:
        dropped = tokenizer.decode(tokens[length - 1 : -1]).strip()
        warnings.warn(
            f"the prompt has {len(tokens)} tokens and the text encoder reads {length}; dropped: {dropped!r}",
            stacklevel=5,
        )


def text_width(unet: Any) -> Any:
    """The channels of a text that a U-Net reads; it may say them of each block, of which not all read texts."""
    told = unet.cross_attention_dim
    if not isinstance(told, Sequence):
        return told
    blocks = (*unet.down_block_types, unet.mid_block_type, *unet.up_block_types)
    widths = (*told, told[-1], *reversed(told))
    read = {width for width, block in zip(widths, blocks, strict=True) if "CrossAttn" in str(block)}
    return read.pop() if len(read) == 1 else told


class StableDiffusionXL(StableDiffusion):
    """SDXL and its fine-tuned models (Podell et al. 2023, arXiv 2307.01952).

    Their U-Net is told of a text as a whole too, and of sizes of images: that they have the size that they have and
    were not cropped, as the pipeline does.
    """

    pipelines = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
    parts = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "scheduler": SCHEDULERS,
    }
    pooled = True
    settings: ClassVar[Mapping[str, Any]] = {}
    sampling = Family.sampling
    embedder = Family.embedder
    unknown = tuple(name for name in StableDiffusion.unknown if name != "addition_embed_type")

    def embed(self, components: Components, pipeline: Any, text: str) -> Float[Tensor, "l c"]:  # noqa: D102
        texts = components.texts
        warn_of_dropped_words(texts["tokenizer"], text, texts["tokenizer"].model_max_length)
        tokens, _, pooled, _ = pipeline.encode_prompt(
            text, device=texts["text_encoder"].device, do_classifier_free_guidance=False
        )
        embedded = beside_tokens(tokens[0].float(), pooled[0].float())
        # What stood for no text while it was trained; the pipeline's too, unless a folder says otherwise.
        empty_is_zero = components.options.get("force_zeros_for_empty_prompt", True)
        return torch.zeros_like(embedded) if text == "" and empty_is_zero else embedded

    def predict(self, network: Any, images: Maps, told: Tensor, condition: Tensor, pixels: int) -> Maps:  # noqa: D102
        # What is told besides: the sizes before and after cropping, and the corner, each as two numbers.
        times = network.config.addition_time_embed_dim
        tokens, pooled = split_pooled(condition, network.config.projection_class_embeddings_input_dim - 6 * times)
        height, width = (pixels * side for side in images.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=pooled.dtype, device=images.device)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(images), -1)}
        output = network(images, told, encoder_hidden_states=tokens, added_cond_kwargs=added).sample
        return torch.as_tensor(output)

    def problems(self, components: Components) -> list[str]:  # noqa: D102
        kind = components.network.config.addition_embed_type
        other = [] if kind == "text_time" else [f"its U-Net needs another further embedding ({kind})"]
        return super().problems(components) + other

    def widths(self, components: Components) -> list[tuple[str, Any, int]]:  # noqa: D102
        unet, first, second = components.network.config, *(each.config for each in components.text_encoders.values())
        found = [("texts", text_width(unet), first.hidden_size + second.hidden_size)]
        if unet.addition_embed_type == "text_time":
            pooled = unet.projection_class_embeddings_input_dim - 6 * unet.addition_time_embed_dim
            found.append(("a text as a whole", pooled, second.projection_dim))
        return found
