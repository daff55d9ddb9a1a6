"""The latent diffusion model: `UNet2DConditionModel` and a small `CLIPTextModel`, trained together.

With z a latent (the autoencoder's posterior mean, computed once), c a caption, t a diffusion time drawn evenly
over the batch, e Gaussian noise and abar_t the schedule of Stable Diffusion:

    L = mean of w_t |eps(sqrt(abar_t) z + sqrt(1 - abar_t) e, t, text(c)) - e|^2,   w_t = min(snr_t, gamma) / snr_t,
    snr_t = abar_t / (1 - abar_t).

A share of the captions is empty, for classifier-free guidance. The weights that ship are exponential averages.

References: Rombach et al., 2022, arXiv 2112.10752; Ho and Salimans, Classifier-free diffusion guidance, 2022,
arXiv 2207.12598; Hang et al., Efficient diffusion training via min-SNR weighting strategy, 2023, arXiv
2303.09556.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from latent_geodesics.rendering.captions import random_caption
from latent_geodesics.rendering.scene import Scene
from latent_geodesics.training.export import assemble
from latent_geodesics.training.frames import SampleOrder
from latent_geodesics.training.grids import image_grid, publish_grid
from latent_geodesics.training.optimizer import adamw
from latent_geodesics.training.sampling import sample
from latent_geodesics.training.schedule import Budget, BudgetedModule

__all__ = ["DiffusionSettings", "DiffusionTraining", "build_scheduler", "build_text_encoder", "build_unet"]

_SHOWN_STEPS = 25  # of DDIM, for the grids of training


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings:
    """What the diffusion model is and how it is trained.

    Args:
        budget: steps and minutes.
        channels: widths of the U-Net's levels.
        attention: whether each level attends (to itself and to the caption).
        layers: residual blocks a level.
        heads: attention heads.
        text_width: width of the text encoder.
        text_layers: layers of the text encoder.
        batch: latents a step and process.
        lr: peak learning rate.
        weight_decay: decay of the matrices.
        ema: limit of the decay of the averaged weights, in [0, 1).
        gamma: of the min-SNR weight.
        empty: share of empty captions.
        drop: share of captions that lose the size, the material or both.
        precision: Lightning's.
        save_every: steps between checkpoints.
        show_every: steps between sample grids.
        guidance: of the grids.
    """

    budget: Budget
    channels: tuple[int, ...] = (64, 128, 128)
    attention: tuple[bool, ...] = (False, True, True)
    layers: int = 1
    heads: int = 4
    text_width: int = 128
    text_layers: int = 2
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    ema: float = 0.9995
    gamma: float = 5.0
    empty: float = 0.1
    drop: float = 0.2
    precision: str = "bf16-mixed"
    save_every: int = 100
    show_every: int = 500
    guidance: float = 3.0

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.attention):
            raise ValueError(f"channels and attention must pair up, got {self.channels} and {self.attention}")
        if not (0 <= self.ema < 1 and 0 <= self.empty <= 1 and 0 <= self.drop <= 1 and self.gamma > 0):
            raise ValueError("ema, empty and drop must be shares and gamma positive")


def build_unet(settings: DiffusionSettings, autoencoder: AutoencoderKL) -> UNet2DConditionModel:
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


def build_text_encoder(settings: DiffusionSettings, tokenizer: CLIPTokenizer) -> CLIPTextModel:
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


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="epsilon",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


class DiffusionTraining(BudgetedModule):
    """Trains the U-Net and the text encoder on latents and captions.

    Args:
        settings: see `DiffusionSettings`.
        latents: posterior means of the training frames.
        records: the frames' scene records.
        autoencoder: decodes the grids; not trained.
        tokenizer: of the captions.
        prompts: of the grids.
        seed: decides weights, order, captions, times and noise.
        folder: where grids go.
    """

    def __init__(
        self,
        *,
        settings: DiffusionSettings,
        latents: Float[Tensor, "n c i j"],
        records: list[dict[str, Any]],
        autoencoder: AutoencoderKL,
        tokenizer: CLIPTokenizer,
        prompts: list[str],
        seed: int,
        folder: Path,
    ) -> None:
        super().__init__(budget=settings.budget, seed=seed)
        if len(records) != len(latents):
            raise ValueError(f"a record a latent is needed, got {len(records)} and {len(latents)}")
        torch.manual_seed(seed)
        self.trained = nn.ModuleDict(
            {"unet": build_unet(settings, autoencoder), "text_encoder": build_text_encoder(settings, tokenizer)}
        )
        self.averaged = copy.deepcopy(self.trained).requires_grad_(False).eval()
        self.settings, self.latents, self.folder = settings, latents, folder
        self.scenes = [Scene.from_dict(record["scene"]) for record in records]
        self.decoder = (autoencoder,)  # a tuple, so that it is no part of the checkpoint
        self.tokenizer, self.prompts = tokenizer, prompts
        self.order = SampleOrder(count=len(latents), seed=seed)
        scheduler = build_scheduler()
        self.signal: Tensor
        self.register_buffer("signal", scheduler.alphas_cumprod.float(), persistent=False)

    def configure_optimizers(self) -> Optimizer:
        """AdamW."""
        return adamw(self.trained, lr=self.settings.lr, weight_decay=self.settings.weight_decay)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """The loss of the batch that belongs to this step."""
        settings, step, rank = self.settings, self.global_step, self.global_rank
        chosen = self.order.indices(step=step, batch=settings.batch, rank=rank, world=self.trainer.world_size)
        generator = self.generator()
        latents = self.latents[chosen].to(self.device)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        times = even_times(settings.batch, len(self.signal), generator).to(self.device)
        signal = self.signal[times][:, None, None, None]
        noised = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        states = self.trained["text_encoder"](self.tokens(chosen, step, rank).to(self.device))[0]
        predicted = self.trained["unet"](noised, times, states).sample.float()
        error = (predicted - noise).square().flatten(1).mean(1)
        ratio = (signal / (1 - signal)).flatten()
        loss: Tensor = (error * (settings.gamma / ratio).clamp(max=1.0)).mean()
        self.log_dict({"diffusion/loss": loss, "diffusion/error": error.mean()}, prog_bar=True)
        self.log("diffusion/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def tokens(self, chosen: Int64[Tensor, " b"], step: int, rank: int) -> Int64[Tensor, "b l"]:
        """Tokens of a random caption, or of the empty one, for each chosen frame."""
        random = np.random.default_rng([self.seed, step, rank])
        captions = [
            "" if random.random() < self.settings.empty else
            random_caption(self.scenes[int(index)], random, drop_share=self.settings.drop)
            for index in chosen
        ]  # fmt: skip
        encoded = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        ids: Tensor = encoded.input_ids
        return ids

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Average the weights; now and then publish samples."""
        self._average()
        if self.global_step % self.settings.show_every == 0 and self.trainer.is_global_zero:
            self.show()
        super().on_train_batch_end(outputs, batch, batch_idx)

    def show(self) -> None:
        """Publish samples of the averaged weights."""
        unet, text_encoder = self.averaged["unet"], self.averaged["text_encoder"]
        # Being no part of the module, the autoencoder was not moved with it.
        decoder = self.decoder[0].to(self.device)
        pipeline = assemble(decoder, unet, text_encoder, self.tokenizer, build_scheduler())
        images = sample(pipeline, self.prompts, seed=self.seed, steps=_SHOWN_STEPS, guidance=self.settings.guidance)
        publish_grid(
            image_grid(images, columns=8),
            file=self.folder / f"samples-{self.global_step:06d}.png",
            logger=self.logger,
            name="diffusion/samples",
            step=self.global_step,
        )

    def _average(self) -> None:
        # early on the average follows closely: the limit alone would keep the first weights for thousands of steps
        decay = min(self.settings.ema, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            pairs = zip(self.averaged.parameters(), self.trained.parameters(), strict=True)
            for mean, weight in pairs:
                mean.lerp_(weight, 1 - decay)


def even_times(batch: int, count: int, generator: torch.Generator) -> Int64[Tensor, " batch"]:
    """One diffusion time from each of `batch` equal parts of [0, count): a batch then covers all noise levels."""
    places = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    return (places * count).long().clamp(max=count - 1)
