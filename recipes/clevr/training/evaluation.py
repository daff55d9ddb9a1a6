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

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from jaxtyping import Float
from jinja2 import Environment, StrictUndefined
from PIL import Image, ImageDraw
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.images import psnr, to_pil
from latent_geodesics.models.attributes import AttributeNetwork
from latent_geodesics.run.files import write_json, write_text
from recipes.clevr.rendering.dataset import scene_record
from recipes.clevr.rendering.sampling import SceneSampler
from recipes.clevr.training.attributes import ALL_NAMES, confirmed_share
from recipes.clevr.training.autoencoder import reconstruct
from recipes.clevr.training.frames import Frames, as_unit
from recipes.clevr.training.model import sample, weights_size

NUMBERS: tuple[str, ...] = ("one", "two", "three")  # of objects that the sampler is used for
SHOWN = 32  # samples beside the model
CARD = Path(__file__).with_name("model_card.md.jinja")
STAGE_TITLES = {
    "autoencoder": "autoencoder",
    "decoder": "its decoder alone",
    "diffusion": "U-Net and text encoder",
    "attributes": "attribute network",
}
"""What the model card calls the stages that take minutes."""


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


def draw_prompts(*, count: int, seed: int, most: int = len(NUMBERS)) -> list[dict[str, Any]]:
    """Records (see `rendering.dataset`) of random scenes with one to `most` objects in turn; prompts are captions."""
    sampler = SceneSampler()
    scenes = [sampler.draw(np.random.default_rng([seed, index]), count=1 + index % most) for index in range(count)]
    return [scene_record(scene, index=index, seed=seed) for index, scene in enumerate(scenes)]


def confirmed_shares(
    images: Float[Tensor, "n 3 h w"], prompts: Sequence[Mapping[str, Any]], network: AttributeNetwork
) -> dict[str, float]:
    """Confirmed shares: of all samples, of those with each number of objects, with size and material right as well."""
    seen = network.detect(images)
    shares = {"confirmed": confirmed_share(prompts, seen)}
    for number, word in enumerate(NUMBERS, start=1):
        rows = [row for row, prompt in enumerate(prompts) if len(prompt["objects"]) == number]
        if rows:
            shares[f"confirmed_{word}"] = confirmed_share([prompts[row] for row in rows], [seen[row] for row in rows])
    shares["confirmed_all_attributes"] = confirmed_share(prompts, seen, ALL_NAMES)
    shares["right_count"] = confirmed_share(prompts, seen, ())  # as many objects, whatever they are
    return shares


def reconstruction(autoencoder: AutoencoderKL, frames: Frames, network: AttributeNetwork) -> dict[str, float]:
    """Held-out PSNR (mean over images, dB), `perceptual_clevr`, and shares of scenes read right before and after."""
    images = as_unit(frames.images)
    decoded = reconstruct(autoencoder, images)
    parts = zip(torch.split(images, 64), torch.split(decoded, 64), strict=True)
    with torch.no_grad():
        distance = torch.cat([network.perceptual_distance(a, b) for a, b in parts])
    return {
        "psnr": float(psnr(images, decoded).mean()),
        "perceptual_clevr": float(distance.mean()),
        "read_right_frames": confirmed_share(frames.records, network.detect(images)),
        "read_right_reconstructions": confirmed_share(frames.records, network.detect(decoded)),
    }


def confirmed_by_guidance(pipeline: Any, settings: EvaluationSettings, network: AttributeNetwork) -> dict[float, float]:
    """The confirmed share at each scale of `settings.sweep`, on prompts other than those of the stated share."""
    prompts = draw_prompts(count=settings.sweep_prompts, seed=settings.seed + 1, most=settings.most_objects)
    texts = [prompt["caption"] for prompt in prompts]
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
        page.paste(to_pil(image).resize((width, height), Image.Resampling.BICUBIC), (left, top))
        lines = text.replace(", ", ",\n").replace(" and ", "\nand ")
        pen.multiline_text((left + 2, top + height + 2), lines, fill="black", font_size=8)
    return page


def evaluate(
    *, model_dir: Path, attributes_dir: Path, held_out: Frames, settings: EvaluationSettings
) -> dict[str, float]:
    """Figures of the model in `model_dir` as it ships, on frames never trained on; writes `samples.png` beside it."""
    pipeline = StableDiffusionPipeline.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True)
    network = AttributeNetwork.from_folder(attributes_dir)
    chosen = Frames(images=held_out.images[: settings.frames], records=held_out.records[: settings.frames])
    figures = reconstruction(pipeline.vae, chosen, network) | {"held_out": float(len(chosen))}
    swept = confirmed_by_guidance(pipeline, settings, network) if settings.sweep else {}
    guidance = max(swept, key=lambda scale: swept[scale]) if settings.guidance is None else settings.guidance
    count = settings.prompts * settings.most_objects
    prompts = draw_prompts(count=count, seed=settings.seed, most=settings.most_objects)
    texts = [prompt["caption"] for prompt in prompts]
    images = sample(pipeline, texts, seed=settings.seed, steps=settings.steps, guidance=guidance)
    captioned_grid(images[:SHOWN], texts[:SHOWN], columns=8).save(model_dir / "samples.png", optimize=True)
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
    prefix = "confirmed_guidance_"
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    environment.filters["to"] = format
    card = environment.from_string(CARD.read_text(encoding="utf-8")).render(
        figures,
        figures=figures,
        name=folder.name,
        flows=prediction == "velocity",
        numbers=[word for word in NUMBERS if f"confirmed_{word}" in figures],
        scales={key.removeprefix(prefix): share for key, share in figures.items() if key.startswith(prefix)},
        minutes={name: figures[f"{name}/minutes"] for name in STAGE_TITLES if f"{name}/minutes" in figures},
        stage_titles=STAGE_TITLES,
        shown=min(SHOWN, int(figures["samples"])),
        seed=seed,
        notes=notes,
    )
    write_text(folder / "README.md", card)
