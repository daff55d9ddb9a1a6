"""How good the trained model is: reconstruction, and the share of samples that show what was asked for.

A sample is confirmed when the network sees every object that its prompt names, with its colour and shape, and
no further object. Prompts are those of scenes drawn by the renderer's sampler with a seed that no training
frame has, objects in the sampler's order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from latent_geodesics.models.attributes import AttributeNetwork
from recipes.clevr.training.autoencoder import psnr, reconstruct
from recipes.clevr.training.confirmation import confirms
from recipes.clevr.training.frames import Frames, as_unit
from recipes.clevr.training.sampling import sample

__all__ = [
    "NUMBERS",
    "EvaluationSettings",
    "PromptedScene",
    "captioned_grid",
    "confirmed_shares",
    "draw_prompts",
    "reconstruction",
]


NUMBERS: tuple[str, ...] = ("one", "two", "three")  # of objects that the sampler is used for


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How the model is measured.

    Args:
        prompts: samples behind the confirmed share for each number of objects, one to `most_objects`.
        most_objects: the largest number of objects in a prompt.
        steps: of DDIM.
        guidance: scale at which the share is stated; null takes the best of `sweep`.
        sweep: scales to compare on `sweep_prompts` samples.
        sweep_prompts: samples a scale, all numbers of objects in turn.
        seed: of prompts and noise; no training frame may have it.
        frames: held-out frames behind the reconstruction figures.
    """

    prompts: int = 256
    most_objects: int = 3
    steps: int = 50
    guidance: float | None = None
    sweep: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0)
    sweep_prompts: int = 64
    seed: int = 1000
    frames: int = 500

    def __post_init__(self) -> None:
        if min(self.prompts, self.sweep_prompts, self.steps, self.frames) < 1:
            raise ValueError("prompts, sweep_prompts, steps and frames must be >= 1")
        if not 1 <= self.most_objects <= len(NUMBERS):
            raise ValueError(f"most_objects must be 1 to {len(NUMBERS)}, got {self.most_objects}")
        if not self.sweep and self.guidance is None:
            raise ValueError("give a guidance, or a sweep to choose it from")


@dataclass(frozen=True, kw_only=True)
class PromptedScene:
    """A prompt and the objects that it names.

    Args:
        prompt: the caption.
        objects: shape, color, size and material of each.
    """

    prompt: str
    objects: Sequence[Mapping[str, Any]]


def draw_prompts(*, count: int, seed: int, most: int = len(NUMBERS)) -> list[PromptedScene]:
    """Captions of `count` random scenes with one to `most` objects in turn."""
    import numpy as np

    from recipes.clevr.rendering.captions import caption
    from recipes.clevr.rendering.sampling import SceneSampler

    sampler, drawn = SceneSampler(), []
    for index in range(count):
        scene = sampler.draw(np.random.default_rng([seed, index]), count=1 + index % most)
        objects = [
            {"shape": item.shape, "color": item.color, "size": item.size, "material": item.material}
            for item in scene.objects
        ]
        drawn.append(PromptedScene(prompt=caption(scene), objects=objects))
    return drawn


def confirmed_shares(
    images: Float[Tensor, "n 3 h w"], prompts: Sequence[PromptedScene], network: AttributeNetwork
) -> dict[str, float]:
    """Confirmed shares: of all samples, of those with each number of objects, with size and material right as well."""
    seen = network.detect(images)
    pairs = list(zip(prompts, seen, strict=True))
    shares = {"confirmed": _share([confirms(prompt.objects, found) for prompt, found in pairs])}
    for number, word in enumerate(NUMBERS, start=1):
        hits = [confirms(prompt.objects, found) for prompt, found in pairs if len(prompt.objects) == number]
        if hits:
            shares[f"confirmed_{word}"] = _share(hits)
    names = ("color", "shape", "size", "material")
    shares["confirmed_all_attributes"] = _share([confirms(prompt.objects, found, names) for prompt, found in pairs])
    shares["right_count"] = _share([len(prompt.objects) == len(found) for prompt, found in pairs])
    return shares


def reconstruction(autoencoder: AutoencoderKL, frames: Frames, network: AttributeNetwork) -> dict[str, float]:
    """Held-out PSNR (mean over images, dB), `perceptual_clevr`, and shares of scenes read right before and after."""
    images = as_unit(frames.images)
    decoded = reconstruct(autoencoder, images)
    right = [
        _share([confirms(record["objects"], found) for record, found in zip(frames.records, seen, strict=True)])
        for seen in (network.detect(images), network.detect(decoded))
    ]
    with torch.no_grad():
        distance = torch.cat(
            [
                network.perceptual_distance(a, b)
                for a, b in zip(torch.split(images, 64), torch.split(decoded, 64), strict=True)
            ]
        )
    return {
        "psnr": float(psnr(images, decoded).mean()),
        "perceptual_clevr": float(distance.mean()),
        "read_right_frames": right[0],
        "read_right_reconstructions": right[1],
    }


@dataclass(frozen=True, kw_only=True)
class GuidanceSweep:
    """Confirmed share by guidance, and the guidance with the largest.

    Args:
        guidance: the best scale; of equal ones the first.
        shares: scale -> share.
    """

    guidance: float
    shares: Mapping[float, float]


def best_guidance(pipeline: Any, settings: EvaluationSettings, network: AttributeNetwork) -> GuidanceSweep:
    """Compare the scales of `settings.sweep` on prompts other than those of the stated share."""
    prompts = draw_prompts(count=settings.sweep_prompts, seed=settings.seed + 1, most=settings.most_objects)
    texts = [item.prompt for item in prompts]
    shares: dict[float, float] = {}
    for scale in settings.sweep:
        images = sample(pipeline, texts, seed=settings.seed + 1, steps=settings.steps, guidance=scale)
        shares[scale] = confirmed_shares(images, prompts, network)["confirmed"]
    return GuidanceSweep(guidance=max(shares, key=lambda scale: shares[scale]), shares=shares)


def captioned_grid(images: Float[Tensor, "n 3 h w"], captions: Sequence[str], *, columns: int) -> Image.Image:
    """Images in [0, 1], each at least 128 pixels wide, above its caption."""
    scale = max(1, -(-128 // images.shape[-1]))
    height, width = scale * images.shape[-2], scale * images.shape[-1]
    band, gap = 36, 4
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (width + gap), rows * (height + band + gap)), "white")
    pen = ImageDraw.Draw(page)
    for index, (image, text) in enumerate(zip(images, captions, strict=True)):
        left, top = index % columns * (width + gap), index // columns * (height + band + gap)
        pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        page.paste(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC), (left, top))
        lines = text.replace(", ", ",\n").replace(" and ", "\nand ")
        pen.multiline_text((left + 2, top + height + 2), lines, fill="black", font_size=8)
    return page


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)
