"""How good the trained model is, and its model card: reconstruction, and the share of samples that show what was asked.

A sample is confirmed when the network sees every object that its prompt names, with its colour and shape, and
no further object. Prompts are those of scenes drawn by the renderer's sampler with a seed that no training
frame has, objects in the sampler's order.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.images import psnr
from latent_geodesics.models.attributes import AttributeNetwork
from latent_geodesics.run.files import write_json, write_text
from recipes.clevr.training.attributes import confirms
from recipes.clevr.training.autoencoder import reconstruct
from recipes.clevr.training.frames import Frames, as_unit
from recipes.clevr.training.model import sample, weights_size

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

    from recipes.clevr.rendering.sampling import SceneSampler
    from recipes.clevr.rendering.scene import caption

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


def confirmed_by_guidance(pipeline: Any, settings: EvaluationSettings, network: AttributeNetwork) -> dict[float, float]:
    """The confirmed share at each scale of `settings.sweep`, on prompts other than those of the stated share."""
    prompts = draw_prompts(count=settings.sweep_prompts, seed=settings.seed + 1, most=settings.most_objects)
    texts = [item.prompt for item in prompts]
    shares: dict[float, float] = {}
    for scale in settings.sweep:
        images = sample(pipeline, texts, seed=settings.seed + 1, steps=settings.steps, guidance=scale)
        shares[scale] = confirmed_shares(images, prompts, network)["confirmed"]
    return shares


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


_SHOWN = 32

_CARD = """---
license: mit
library_name: diffusers
pipeline_tag: text-to-image
---

# {name}

{kind} of CLEVR scenes with one to {numbers} objects, {side:.0f} x {side:.0f} pixels, in the folder format of
Stable Diffusion:

{example}
![samples](samples.png)

The first {shown} of the {samples:.0f} samples behind the figures below, not chosen: {steps:.0f} {sampler} steps,
guidance {guidance:g}.

## Figures
| what | value |
|---|---|
| held-out reconstruction, {held_out:.0f} frames, mean PSNR | {psnr:.1f} dB |
| the same, `perceptual_clevr` | {perceptual_clevr:.4f} |
| squared error of the {target} on frames held out / as many trained on | {held_error:.4f} / {training_error:.4f} |
| samples confirmed: every named object found with its colour and shape, and no other object | {confirmed:.1%} |
{confirmed_each}
| samples with the right number of objects | {right_count:.1%} |
| samples with size and material right as well | {confirmed_all_attributes:.1%} |
| held-out frames that the judge reads right (colour and shape of all objects) | {read_right_frames:.1%} |
| the same frames after encoding and decoding | {read_right_reconstructions:.1%} |
{sweep}
The judge is the attribute network in `../clevr-attributes`: trained on other frames (another seed), and
never shown a sample or a reconstruction. On {judged:.0f} held-out frames of its own it reads colour and shape of all
objects right in {judge:.1%}, and all four attributes in {judge_all:.1%}.

## Training
`python run.py experiment={experiment}` with seed {seed}: {minutes}. The weights are the exponential average with
the least loss on frames held out, that of step {kept:.0f}. Weights: {megabytes:.1f} MB in fp16.
All hyper-parameters are in `conf/task/train_clevr_ldm.yaml`, the losses in `recipes.clevr.training`.

Data: frames rendered by this project (`recipes.clevr.rendering`) after the rules of CLEVR (Johnson et al.,
2017, arXiv 1612.06890) with Cycles; no published image was used. Captions: "a large red rubber
cube and a small yellow metal cylinder", objects in any order, some without size, material or both.
{notes}
## Limits
One to {numbers} objects, the camera and lamps of CLEVR within its jitter, {side:.0f} x {side:.0f} pixels. Words outside
the captions' have no meaning to the model, and neither have spatial relations. Other numbers of objects are outside its
data.

Licence: MIT, as the project.
"""

_KINDS = {
    "epsilon": ("A small latent diffusion model", "noise", "DDIM", "train_clevr_ldm"),
    "velocity": (
        "A small latent flow model (rectified flow, x_t = (1 - t) z + t e, v = e - z)",
        "velocity",
        "Euler",
        "train_clevr_flow",
    ),
}

_EXAMPLES = {
    "epsilon": """```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("data/models/{name}")
image = pipeline("a large red rubber cube and a small cyan metal sphere", guidance_scale={guidance:g}).images[0]
```
""",
    "velocity": """```python
from diffusers import StableDiffusionPipeline
from recipes.clevr.training.model import sample

pipeline = StableDiffusionPipeline.from_pretrained("data/models/{name}")
image = sample(pipeline, ["a large red rubber cube"], seed=0, steps={steps:.0f}, guidance={guidance:g})[0]
```

The pipeline holds the parts; it cannot call a flow's scheduler itself. The network is told 1000 t.
""",
}


def evaluate(
    *, model_dir: Path, attributes_dir: Path, held_out: Frames, settings: EvaluationSettings
) -> dict[str, float]:
    """Figures of the model as it ships; writes `samples.png` beside it.

    Args:
        model_dir: the diffusers folder.
        attributes_dir: the attribute network's folder.
        held_out: frames that were never trained on.
        settings: see `EvaluationSettings`.
    """
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True)
    network = AttributeNetwork.from_folder(attributes_dir)
    chosen = Frames(images=held_out.images[: settings.frames], records=held_out.records[: settings.frames])
    figures = reconstruction(pipeline.vae, chosen, network) | {"held_out": float(len(chosen))}
    swept = confirmed_by_guidance(pipeline, settings, network) if settings.sweep else {}
    guidance = max(swept, key=lambda scale: swept[scale]) if settings.guidance is None else settings.guidance
    count = settings.prompts * settings.most_objects
    prompts = draw_prompts(count=count, seed=settings.seed, most=settings.most_objects)
    texts = [item.prompt for item in prompts]
    images = sample(pipeline, texts, seed=settings.seed, steps=settings.steps, guidance=guidance)
    captioned_grid(images[:_SHOWN], texts[:_SHOWN], columns=8).save(model_dir / "samples.png", optimize=True)
    figures |= confirmed_shares(images, prompts, network)
    figures |= {f"confirmed_guidance_{scale:g}": share for scale, share in swept.items()}
    return figures | {
        "guidance": float(guidance),
        "prompts": float(settings.prompts),
        "samples": float(count),
        "sweep_prompts": float(settings.sweep_prompts),
        "steps": float(settings.steps),
        "side": float(images.shape[-1]),
        "weights_bytes": float(weights_size(model_dir)),
    }


def judge_figures(folder: Path) -> dict[str, float]:
    """What a trained attribute network is known to get right.

    Raises:
        UserError: when the folder does not say.
    """
    try:
        figures: dict[str, float] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{folder}' says no figures of the judge ({error}): run stage 'attributes' first.") from error
    return figures


def write_model_card(
    folder: Path, figures: Mapping[str, float], *, seed: int, prediction: str = "epsilon", notes: str = ""
) -> None:
    """Write `metrics.json` and `README.md` beside the model.

    Args:
        folder: the diffusers folder.
        figures: of `evaluate`, of the stages (`stage/name`) and of the attribute network.
        seed: of the run.
        prediction: what the network predicts, of `recipes.clevr.training.model.PREDICTIONS`.
        notes: what else a reader should know of this training, Markdown.
    """
    write_json(folder / "metrics.json", dict(figures))
    kind, target, sampler, experiment = _KINDS[prediction]
    numbers = [word for word in NUMBERS if f"confirmed_{word}" in figures]
    card = _CARD.format(
        **{key: value for key, value in figures.items() if "/" not in key},
        name=folder.name,
        kind=kind,
        target=target,
        sampler=sampler,
        experiment=experiment,
        numbers=numbers[-1],
        example=_EXAMPLES[prediction].format(name=folder.name, steps=figures["steps"], guidance=figures["guidance"]),
        confirmed_each="\n".join(
            f"| ... of {figures['prompts']:.0f} prompts with {word} object{'' if word == 'one' else 's'} "
            f"| {figures[f'confirmed_{word}']:.1%} |"
            for word in numbers
        ),
        held_error=figures["diffusion/held_out_error"],
        training_error=figures["diffusion/training_error"],
        kept=figures["diffusion/step"],
        minutes=_minutes(figures),
        sweep=_sweep(figures),
        shown=min(_SHOWN, int(figures["samples"])),
        seed=seed,
        notes=f"\n{notes}\n" if notes else "",
        megabytes=figures["weights_bytes"] / 1e6,
        judge=figures["attributes/accuracy_color_shape"],
        judge_all=figures["attributes/accuracy_all"],
        judged=figures["attributes/held_out"],
    )
    write_text(folder / "README.md", card)


def _minutes(figures: Mapping[str, float]) -> str:
    stages = {
        "autoencoder": "autoencoder",
        "decoder": "its decoder alone",
        "diffusion": "U-Net and text encoder",
        "attributes": "attribute network",
    }
    spent = {title: figures[f"{name}/minutes"] for name, title in stages.items() if f"{name}/minutes" in figures}
    said = [f"{title} {minutes:.0f} min" for title, minutes in spent.items()]
    given = "" if "autoencoder/minutes" in figures else "an autoencoder that was there before, "
    return given + ", ".join(said)


def _sweep(figures: Mapping[str, float]) -> str:
    prefix = "confirmed_guidance_"
    scales = [name.removeprefix(prefix) for name in figures if name.startswith(prefix)]
    if not scales:
        return ""
    shares = " | ".join(f"{figures[prefix + scale]:.1%}" for scale in scales)
    lines = [
        f"\nConfirmed share by guidance, {figures['sweep_prompts']:.0f} other prompts:\n",
        "| " + " | ".join(["guidance", *scales]) + " |",
        "|---" * (len(scales) + 1) + "|",
        f"| confirmed | {shares} |\n",
    ]
    return "\n".join(lines)
