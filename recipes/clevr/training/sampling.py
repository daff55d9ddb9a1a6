"""Images from prompts; an image depends on its prompt, its number and the seed, not on its batch."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from recipes.clevr.training.frames import step_generator

__all__ = ["sample"]


def sample(
    pipeline: Any, prompts: list[str], *, seed: int, steps: int, guidance: float, first: int = 0, chunk: int = 32
) -> Float[Tensor, "n 3 h w"]:
    """Images in [0, 1] of a `StableDiffusionPipeline`, on the CPU.

    Args:
        pipeline: the pipeline; its scheduler may be that of a flow, which the pipeline itself cannot call.
        prompts: one an image.
        seed: image i starts from the noise of (seed, i).
        steps: DDIM steps, of a flow Euler steps.
        guidance: scale; 1 is none.
        first: number of the first image: samples in parts are those of one call.
        chunk: images at a time.
    """
    pipeline.set_progress_bar_config(disable=True)
    flows = isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler)
    parts = []
    for start in range(0, len(prompts), chunk):
        chosen = prompts[start : start + chunk]
        generators = [step_generator(seed=seed, step=first + start + place) for place in range(len(chosen))]
        if flows:
            images = _follow_flow(pipeline, chosen, generators, steps=steps, guidance=guidance)
        else:
            images = pipeline(
                chosen, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="pt"
            ).images
        parts.append(images.float().cpu())
    return torch.cat(parts)


@torch.no_grad()
def _follow_flow(
    pipeline: Any, prompts: list[str], generators: Sequence[torch.Generator], *, steps: int, guidance: float
) -> Float[Tensor, "n 3 h w"]:
    """Images of a flow by its scheduler's Euler steps, from pure noise to none."""
    unet, scheduler, device = pipeline.unet, pipeline.scheduler, pipeline.device
    guided = guidance != 1
    given, empty = pipeline.encode_prompt(prompts, device, 1, guided)
    states = torch.cat([empty, given]) if guided else given
    size = unet.config.sample_size
    shape = (len(prompts), unet.config.in_channels, size, size)
    latents = randn_tensor(shape, generator=list(generators), device=device, dtype=states.dtype)
    scheduler.set_timesteps(sigmas=[1 - step / steps for step in range(steps)], device=device)
    for time in scheduler.timesteps:
        if guided:
            without, with_prompt = unet(torch.cat([latents, latents]), time, states).sample.chunk(2)
            velocity = without + guidance * (with_prompt - without)
        else:
            velocity = unet(latents, time, states).sample
        latents = scheduler.step(velocity, time, latents).prev_sample
    decoded: Tensor = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    return (decoded / 2 + 0.5).clamp(0, 1)
