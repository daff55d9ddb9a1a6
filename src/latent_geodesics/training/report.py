"""Measures an exported model and writes its model card."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from latent_geodesics.models.attributes import AttributeNetwork
from latent_geodesics.training.evaluation import (
    EvaluationSettings,
    best_guidance,
    captioned_grid,
    confirmed_shares,
    draw_prompts,
    reconstruction,
)
from latent_geodesics.training.export import weights_size
from latent_geodesics.training.frames import Frames
from latent_geodesics.training.sampling import sample

__all__ = ["evaluate", "write_model_card"]

_SHOWN = 32

_CARD = """---
license: mit
library_name: diffusers
pipeline_tag: text-to-image
---

# clevr-ldm

A small latent diffusion model of CLEVR scenes with one or two objects, 64 x 64 pixels, in the folder format of
Stable Diffusion:

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("data/models/clevr-ldm")
image = pipeline("a large red rubber cube and a small cyan metal sphere", guidance_scale={guidance:g}).images[0]
```

![samples](samples.png)

The first {shown} of the {prompts:.0f} samples behind the figures below, not chosen: {ddim_steps:.0f} DDIM steps,
guidance {guidance:g}.

## Figures
| what | value |
|---|---|
| held-out reconstruction, {held_out} frames, mean PSNR | {psnr:.1f} dB |
| the same, `perceptual_clevr` | {perceptual_clevr:.4f} |
| samples confirmed: every named object found with its colour and shape, and no other object | {confirmed:.1%} |
| ... of prompts with one object | {confirmed_one:.1%} |
| ... of prompts with two objects | {confirmed_two:.1%} |
| samples with the right number of objects | {right_count:.1%} |
| samples with size and material right as well | {confirmed_all_attributes:.1%} |
| held-out frames that the judge reads right (colour and shape of all objects) | {read_right_frames:.1%} |
| the same frames after encoding and decoding | {read_right_reconstructions:.1%} |
{sweep}
The judge is the attribute network in `../clevr-attributes`: trained on other frames (another seed), and
never shown a sample or a reconstruction. On {judged} held-out frames of its own it reads colour and shape of all
objects right in {judge:.1%}, and all four attributes in {judge_all:.1%}.

## Training
`python run.py experiment=train_clevr_ldm` with seed {seed}, on two CPU cores shared with other work:
autoencoder {minutes_autoencoder:.0f} min and its decoder alone {minutes_decoder:.0f} min more, diffusion model
{minutes_diffusion:.0f} min, attribute network {minutes_attributes:.0f} min. Weights: {megabytes:.1f} MB in fp16.
All hyper-parameters are in `conf/task/train_clevr_ldm.yaml`, the losses in `latent_geodesics.training`.

Data: frames rendered by this project (`latent_geodesics.rendering`) after the rules of CLEVR (Johnson et al.,
2017, arXiv 1612.06890) with Cycles; no published image was used. Captions: "a large red rubber
cube and a small yellow metal cylinder", objects in any order, some without size, material or both.
{notes}
## Limits
One or two objects, the camera and lamps of CLEVR within its jitter, 64 x 64 pixels. Words outside the captions'
have no meaning to the model, and neither have spatial relations. Other numbers of objects are outside its data.

Licence: MIT, as the project.
"""


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
    swept = best_guidance(pipeline, settings, network) if settings.sweep else None
    guidance = settings.guidance if swept is None or settings.guidance is not None else swept.guidance
    assert guidance is not None
    prompts = draw_prompts(count=settings.prompts, seed=settings.seed)
    texts = [item.prompt for item in prompts]
    images = sample(pipeline, texts, seed=settings.seed, steps=settings.steps, guidance=guidance)
    captioned_grid(images[:_SHOWN], texts[:_SHOWN], columns=8).save(model_dir / "samples.png", optimize=True)
    figures |= confirmed_shares(images, prompts, network)
    if swept is not None:
        figures |= {f"confirmed_guidance_{scale:g}": share for scale, share in swept.shares.items()}
    return figures | {
        "guidance": float(guidance),
        "prompts": float(settings.prompts),
        "sweep_prompts": float(settings.sweep_prompts),
        "ddim_steps": float(settings.steps),
        "weights_bytes": float(weights_size(model_dir)),
    }


def write_model_card(folder: Path, figures: Mapping[str, float], *, seed: int, notes: str = "") -> None:
    """Write `metrics.json` and `README.md` beside the model.

    Args:
        folder: the diffusers folder.
        figures: of `evaluate`, the minutes of the stages and the figures of the attribute network.
        seed: of the run.
        notes: what else a reader should know of this training, Markdown.
    """
    (folder / "metrics.json").write_text(json.dumps(dict(figures), indent=2) + "\n")
    values = dict(figures)
    card = _CARD.format(
        **values | {"held_out": int(values["held_out"]), "sweep": _sweep(values)},
        shown=min(_SHOWN, int(values["prompts"])),
        seed=seed,
        notes=f"\n{notes}\n" if notes else "",
        megabytes=values["weights_bytes"] / 1e6,
        judge=values["attributes/accuracy_color_shape"],
        judge_all=values["attributes/accuracy_all"],
        judged=int(values["attributes/held_out"]),
        minutes_attributes=values["attributes/minutes"],
    )
    (folder / "README.md").write_text(card)


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
