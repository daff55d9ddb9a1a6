"""Stable Diffusion 1 and 2: a U-Net that reads the tokens of one CLIP text encoder."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.models.families.base import Components, Family, reduction_factor
from latent_geodesics.models.noise_schedule import FLOW_SCHEDULER, NoiseSchedule

__all__ = ["SCHEDULERS", "StableDiffusion"]

SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
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

    def embedder(self, components: Components) -> Callable[[str], Float[Tensor, "l c"]]:  # noqa: D102
        return ClipText(tokenizer=components.texts["tokenizer"], text_encoder=components.texts["text_encoder"])

    def predict(  # noqa: D102
        self, network: Any, images: Tensor, told: Tensor, condition: Tensor, pixels: int
    ) -> Tensor:
        return torch.as_tensor(network(images, told, encoder_hidden_states=condition).sample)

    def schedule(self, scheduler: Any, steps: int, latent_shape: tuple[int, int, int]) -> NoiseSchedule:  # noqa: D102
        flow = type(scheduler).__name__ == FLOW_SCHEDULER
        return NoiseSchedule.from_flow(scheduler, steps) if flow else NoiseSchedule.from_scheduler(scheduler, steps)

    def problems(self, components: Components) -> list[str]:  # noqa: D102
        text = components.texts["text_encoder"].config
        return [*u_net_problems(components), *_further(components.network.config, text.hidden_size)]

    def multiple(self, components: Components) -> int:  # noqa: D102
        return int(reduction_factor(components.vae) * 2 ** (len(components.network.config.block_out_channels) - 1))

    def sample_size(self, components: Components) -> Any:
        """What the U-Net's settings tell; before diffusers 0.9 they said 32 where the training had 64."""
        config = components.network.config
        version = re.match(r"(\d+)\.(\d+)", str(config.get("_diffusers_version", "")))
        old = version is not None and (int(version[1]), int(version[2])) < (0, 9)
        return max(config.sample_size, OLD_SIDE) if old and isinstance(config.sample_size, int) else config.sample_size


class ClipText:
    """Embeds texts by the tokens of a CLIP text encoder.

    Args:
        tokenizer: A CLIP tokenizer.
        text_encoder: A CLIP text encoder, on its device.
    """

    def __init__(self, *, tokenizer: Any, text_encoder: Any) -> None:
        self._tokenizer, self._text_encoder = tokenizer, text_encoder
        # A tokenizer whose settings name no length says 1e30; the text encoder has an embedding for each position.
        positions = getattr(text_encoder.config, "max_position_embeddings", None) or tokenizer.model_max_length
        self._length = int(min(tokenizer.model_max_length, positions))

    @torch.no_grad()
    def __call__(self, text: str) -> Float[Tensor, "l c"]:
        """The embedding of a text; too long a text is cut, with a warning that names the words cut."""
        # One prompt at a time, so that the embedding of a prompt does not depend on its neighbours even to rounding.
        length = self._length
        tokens = self._tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        warn_of_dropped_words(self._tokenizer, text, length)
        uses_mask = getattr(self._text_encoder.config, "use_attention_mask", False)
        device = self._text_encoder.device
        mask = tokens.attention_mask.to(device) if uses_mask else None
        output = self._text_encoder(tokens.input_ids.to(device), attention_mask=mask)
        return torch.as_tensor(output[0][0]).float()


def warn_of_dropped_words(tokenizer: Any, text: str, length: int) -> None:
    """Warns of what of a text a text encoder of so many tokens does not read."""
    tokens = tokenizer(text, truncation=False, verbose=False).input_ids
    if len(tokens) > length:
        dropped = tokenizer.decode(tokens[length - 1 : -1]).strip()
        warnings.warn(
            f"the prompt has {len(tokens)} tokens and the text encoder reads {length}; dropped: {dropped!r}",
            stacklevel=5,
        )


def u_net_problems(components: Components) -> list[str]:
    """Where a U-Net does not read and return the latents of its autoencoder, or is told of a guidance."""
    unet, channels = components.network.config, components.vae.config.latent_channels
    problems = [
        f"its U-Net {side} {found} channels and its latents have {channels}"
        for side, found in (("reads", unet.in_channels), ("returns", unet.out_channels))
        if found != channels
    ]
    if unet.get("time_cond_proj_dim") is not None:
        problems.append("its U-Net is told the weight of a guidance that it was distilled from (time_cond_proj_dim)")
    return problems


def _further(unet: Any, width: int) -> list[str]:
    """What more than a noisy latent, a time and one text the U-Net needs."""
    problems = []
    if unet.cross_attention_dim != width:
        problems.append(f"its U-Net reads texts of {unet.cross_attention_dim} channels, not {width}")
    further = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
    named = [name for name in further if unet.get(name) is not None]
    if named:
        problems.append(f"its U-Net needs a further embedding ({', '.join(named)})")
    return problems
