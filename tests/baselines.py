"""What the tests of the baselines share: a small model that can be inverted, pairs on it, and a probe of it."""

from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny_model import SIDE, pictures

from latent_geodesics.data import PairBatch
from latent_geodesics.data.pairs import ImagePair
from latent_geodesics.methods import EncodedPairs, PairEncoder
from latent_geodesics.models import Conditional, LatentModel, load_model
from latent_geodesics.models.lora import Loras
from latent_geodesics.run.morphs import Morphs
from latent_geodesics.run.results import BatchResult

CONF = Path(__file__).parents[1] / "conf"
NAMES = sorted(file.stem for file in (CONF / "method").glob("*.yaml"))
QUICK = {"_target_": "latent_geodesics.models.lora.LoraTraining", "rank": 2, "steps": 2}
TAU = 0.6
FRAMES = 5


def gentle_model(folder: Path, **options) -> LatentModel:
    """The tiny model with a prediction that varies slowly enough for five coarse DDIM steps to have an inverse."""
    model = load_model(folder, device="cpu", steps=5, **options)
    with torch.no_grad():
        model.network.module.conv_out.weight *= 0.3
    model._ladder._reload = None  # the file has other weights now
    return model


def encoded_pairs(model: LatentModel, count: int = 2, **options) -> EncodedPairs:
    """Pairs of random images with different prompts and with true frames."""
    prompts = [("a red cube", "a blue sphere"), ("a blue cube", "a red sphere")]
    records = tuple(
        ImagePair(id=f"{row}", image_a=Path("a.png"), image_b=Path("b.png"), prompt_a=first, prompt_b=second)
        for row, (first, second) in enumerate(prompts[:count])
    )
    truth = pictures(FRAMES * count, seed=2).view(count, FRAMES, 3, SIDE, SIDE)
    batch = PairBatch(
        pairs=records,
        images_a=pictures(count, seed=0),
        images_b=pictures(count, seed=1),
        truth=tuple(truth),
    )
    return PairEncoder(model=model, score=Conditional(), tau=TAU, alpha=0.003, **options).encode(batch)


def probe(model: LatentModel) -> torch.Tensor:
    """The network's output at fixed inputs: bit for bit the same as long as nothing was changed in it."""
    x = torch.randn(2, model.dimension, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return model.network.output(x, torch.tensor([10, 500]), model.condition(["a red cube", "a"]))


def positions(count: int = FRAMES) -> torch.Tensor:
    return torch.linspace(0, 1, count, dtype=torch.float64)


def save_adapter(model: LatentModel, folder: Path) -> Path:
    """Write a LoRA that changes the model visibly, as diffusers does."""
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    with Loras(model.network.module) as loras:
        loras.add("a", rank=2, seed=0)
        rng = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for factor in loras.parameters("a"):
                factor.copy_(torch.randn(factor.shape, generator=rng) * 0.2)
        state = get_peft_model_state_dict(model.network.module, adapter_name="a")
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state)
    return folder


def configured_methods(adapter):
    """The settings of every method, as a run composes them, with short trainings."""
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("config", overrides=[f"method=[{','.join(NAMES)}]"])
    config.methods.smooth_diffusion.weights = str(adapter)
    settings = OmegaConf.to_container(config.methods, resolve=True)
    _shorten(settings)
    return settings


def _shorten(node):
    for key, value in node.items():
        if isinstance(value, dict):
            _shorten(value)
        elif key in ("steps", "embedding_steps", "max_iterations"):
            node[key] = min(value, 2)
    if str(node.get("_target_")).endswith(("DiffMorpher", "Impus")):
        node.setdefault("lora", QUICK)
    if str(node.get("_target_")).endswith("Impus"):
        node["embedding_steps"] = 2


def morphs_of(pairs: EncodedPairs, methods, metrics, *, frames: int) -> BatchResult:
    """What a run makes of encoded pairs."""
    morphs = Morphs(
        model=pairs.model, score=Conditional(), methods=methods, metrics=metrics, tau=0.5, alpha_d=1.0, frames=frames,
        guidance=1.0, condition="mean", textual_inversion={},
    )  # fmt: skip
    return morphs.of(pairs)
