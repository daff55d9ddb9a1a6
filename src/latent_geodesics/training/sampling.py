"""Images from prompts; an image depends on its prompt, its number and the seed, not on its batch."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.training.frames import step_generator

__all__ = ["sample"]


def sample(
    pipeline: Any, prompts: list[str], *, seed: int, steps: int, guidance: float, first: int = 0, chunk: int = 32
) -> Float[Tensor, "n 3 h w"]:
    """Images in [0, 1] of a `StableDiffusionPipeline`, on the CPU.

    Args:
        pipeline: the pipeline.
        prompts: one an image.
        seed: image i starts from the noise of (seed, i).
        steps: DDIM steps.
        guidance: scale; 1 is none.
        first: number of the first image: samples in parts are those of one call.
        chunk: images at a time.
    """
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for start in range(0, len(prompts), chunk):
        chosen = prompts[start : start + chunk]
        generators = [step_generator(seed=seed, step=first + start + place) for place in range(len(chosen))]
        output = pipeline(
            chosen, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="pt"
        )
        parts.append(output.images.float().cpu())
    return torch.cat(parts)
