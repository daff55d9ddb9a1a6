"""The latent diffusion model as it ships: its networks, what they predict of noised latents, samples, and its folder.

With z a latent, e Gaussian noise and u in [0, 1) a place on the scale of noise levels:

- `epsilon`: x = sqrt(abar_t) z + sqrt(1 - abar_t) e at the whole time t = floor(1000 u) of Stable Diffusion's schedule;
  the target is e, its squared error weighted by min(snr_t, gamma) / snr_t, snr_t = abar_t / (1 - abar_t);
- `velocity`, rectified flow: x = (1 - u) z + u e; the target is v = e - z, unweighted. The network is told 1000 u, as
  diffusers' `FlowMatchEulerDiscreteScheduler` tells it.

References: Ho et al., Denoising diffusion probabilistic models, 2020, arXiv 2006.11239; Hang et al., Efficient
diffusion training via min-SNR weighting strategy, 2023, arXiv 2303.09556; Liu et al., Flow straight and fast, 2022,
arXiv 2209.03003.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from latent_geodesics.core.errors import UserError
from recipes.clevr.training.frames import step_generator
from recipes.clevr.training.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from recipes.clevr.training.diffusion import DiffusionSettings


def build_unet(settings: "DiffusionSettings", autoencoder: AutoencoderKL) -> UNet2DConditionModel:
    """An untrained U-Net for the latents of `autoencoder`."""
    halvings = len(autoencoder.config.block_out_channels) - 1
    unet = UNet2DConditionModel(
        sample_size=autoencoder.config.sample_size // 2**halvings,
        in_channels=autoencoder.config.latent_channels,
        out_channels=autoencoder.config.latent_channels,
        layers_per_block=settings.layers,
        block_out_channels=tuple(settings.channels),
        down_block_types=tuple("CrossAttnDownBlock2D" if on else "DownBlock2D" for on in settings.attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if on else "UpBlock2D" for on in settings.attention[::-1]),
        cross_attention_dim=settings.text_width,
        attention_head_dim=settings.heads,
        norm_num_groups=min(16, settings.channels[0]),
    )
    # the fused kernel's bfloat16 backward on a CPU takes about twice the time with heads this small
    unet.set_attn_processor(AttnProcessor())
    return unet


def build_text_encoder(settings: "DiffusionSettings", tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.text_width,
            intermediate_size=4 * settings.text_width,
            num_hidden_layers=settings.text_layers,
            num_attention_heads=settings.heads,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=settings.text_width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_networks(
    settings: "DiffusionSettings", autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer
) -> nn.ModuleDict:
    """U-Net (`unet`) and text encoder (`text_encoder`), untrained or those of the model `settings.start_from`.

    Raises:
        UserError: when the model to start from is not there, or its networks have other shapes.
    """
    networks = nn.ModuleDict(
        {"unet": build_unet(settings, autoencoder), "text_encoder": build_text_encoder(settings, tokenizer)}
    )
    if settings.start_from is not None:
        try:
            networks.load_state_dict(_trained_networks(settings.start_from).state_dict())
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"Training cannot start from '{settings.start_from}' ({' '.join(str(error).split())[:200]}): give "
                "task.diffusion.start_from a model in diffusers' layout with networks as task.diffusion describes them."
            ) from error
    return networks


def _trained_networks(folder: str) -> nn.ModuleDict:
    """U-Net and text encoder of a model in diffusers' layout, in float32."""
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", local_files_only=True)
    text_encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", local_files_only=True)
    return nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).float()


def set_dropout(unet: UNet2DConditionModel, share: float) -> None:
    """Sets the dropout of the residual blocks, and leaves the configuration that ships as it is."""
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            module.dropout.p = share


PREDICTIONS: tuple[str, ...] = ("epsilon", "velocity")
_TIMES = 1000  # of both schedulers


@dataclass(frozen=True)
class Noised:
    """What the network is given and what it should answer.

    Attributes:
        inputs: noised latents.
        times: diffusion times as the network is told them.
        targets: what it should predict.
        weights: of the squared error of each latent, >= 0.
    """

    inputs: Float[Tensor, "b c i j"]
    times: Tensor
    targets: Float[Tensor, "b c i j"]
    weights: Float[Tensor, " b"]


class Epsilon(nn.Module):
    """Predicts the noise.

    Args:
        gamma: of the min-SNR weight, > 0.
    """

    signal: Tensor  # abar of each time

    def __init__(self, *, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("signal", build_scheduler("epsilon").alphas_cumprod.float(), persistent=False)

    def noised(
        self, latents: Float[Tensor, "b c i j"], noise: Float[Tensor, "b c i j"], places: Float[Tensor, " b"]
    ) -> Noised:
        """Noises latents by the diffusion schedule; `places` are noise levels in [0, 1), 0 without noise."""
        times = (places * len(self.signal)).long().clamp(max=len(self.signal) - 1)
        signal = self.signal[times]
        level = signal[:, None, None, None]
        return Noised(
            inputs=level.sqrt() * latents + (1 - level).sqrt() * noise,
            times=times,
            targets=noise,
            weights=(self.gamma * (1 - signal) / signal).clamp(max=1.0),
        )


class Velocity(nn.Module):
    """Predicts the velocity of rectified flow."""

    def noised(
        self, latents: Float[Tensor, "b c i j"], noise: Float[Tensor, "b c i j"], places: Float[Tensor, " b"]
    ) -> Noised:
        """Mixes latents and noise in proportion; `places` are the shares of the noise, in [0, 1)."""
        share = places[:, None, None, None]
        return Noised(
            inputs=(1 - share) * latents + share * noise,
            times=_TIMES * places,
            targets=noise - latents,
            weights=torch.ones_like(places),
        )


class Teacher:
    """A trained model of the noise, whose expected velocity takes the place of one draw's, which is mostly chance.

    At share t of the noise it is asked for the expected noise E at the time of the same ratio of signal to noise,
    of x / sqrt((1 - t)^2 + t^2); the expected velocity is (E - x) / (1 - t).

    Args:
        folder: of the model, in diffusers' layout, for latents of the same autoencoder and captions of the same tokens.
    """

    KNOWN: ClassVar[tuple[float, float]] = (0.03, 0.9)  # beyond, its schedule ends, or its error is made too large

    def __init__(self, folder: str) -> None:
        try:
            self.networks = _trained_networks(folder).eval().requires_grad_(False)
        except OSError as error:
            raise UserError(f"task.diffusion.teacher cannot be read from '{folder}': {error}") from error
        unet: Any = self.networks["unet"]
        unet.set_attn_processor(AttnProcessor())
        signal = build_scheduler("epsilon").alphas_cumprod.double()
        self._level = (signal.log() - (-signal).log1p()).flip(0)  # log of the ratio, rising

    def to(self, device: torch.device) -> "Teacher":
        """The same, now on a device."""
        self.networks, self._level = self.networks.to(device), self._level.to(device)
        return self

    @torch.no_grad()
    def targets(self, noised: Noised, tokens: Int64[Tensor, "b l"]) -> Float[Tensor, "b c i j"]:
        """Expected velocities where they are known, the draw's elsewhere."""
        share = noised.times.double() / _TIMES
        level = 2 * ((1 - share).log() - share.log())
        place = torch.searchsorted(self._level, level).clamp(1, len(self._level) - 1)
        low, high = self._level[place - 1], self._level[place]
        time = len(self._level) - 1 - (place - 1 + ((level - low) / (high - low)).clamp(0, 1))
        width = ((1 - share) ** 2 + share**2).sqrt()
        share, width, time = (part.to(noised.inputs)[:, None, None, None] for part in (share, width, time))
        states = self.networks["text_encoder"](tokens)[0]
        noise = self.networks["unet"](noised.inputs / width, time.flatten(), states).sample.float()
        known = (share > self.KNOWN[0]) & (share < self.KNOWN[1])
        return torch.where(known, (noise - noised.inputs) / (1 - share), noised.targets)


def build_scheduler(prediction: str = "epsilon") -> Any:
    """The scheduler that ships with a prediction: Stable Diffusion's DDIM, or Euler steps of the unshifted flow."""
    if prediction == "velocity":
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=_TIMES, shift=1.0)
        # The folder is otherwise that of Stable Diffusion, whose network predicts noise: this says which one it is.
        scheduler.register_to_config(prediction_type="flow_prediction")
        return scheduler
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=_TIMES,
        prediction_type="epsilon",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


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


def assemble(
    autoencoder: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scheduler: DDIMScheduler,
) -> Any:
    """The parts as a `StableDiffusionPipeline` without a safety checker."""
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export_pipeline(pipeline: Any, folder: Path) -> int:
    """Write `pipeline` to `folder` as fp16 safetensors; the pipeline's own weights stay as they are.

    Returns:
        The size of all weights written, bytes.
    """
    vae, unet, text_encoder = (_half(part) for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder))
    halved = assemble(vae, unet, text_encoder, pipeline.tokenizer, pipeline.scheduler)
    halved.save_pretrained(folder, safe_serialization=True)
    build_tokenizer(folder / "tokenizer")
    # has transformers read half-precision weights as float32, as diffusers does the other networks' by default
    config = folder / "text_encoder" / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) | {"dtype": "float32"}
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return weights_size(folder)


def weights_size(folder: Path) -> int:
    """Bytes of all safetensors below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def _half(part: Any) -> Any:
    if isinstance(part, CLIPTextModel):
        copy = CLIPTextModel(part.config)
    else:
        # without the place that a given network was read from
        copy = type(part).from_config({key: value for key, value in part.config.items() if key != "_name_or_path"})
    copy.load_state_dict(part.state_dict())
    return copy.to(torch.float16)
