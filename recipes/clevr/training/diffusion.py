"""The latent diffusion model: `UNet2DConditionModel` and a small `CLIPTextModel`, trained together.

With z a latent (the autoencoder's posterior mean, computed once), c a caption, e Gaussian noise and u a noise level
drawn evenly over the batch:

    L = mean of w_u |f(x_u, u, text(c)) - target|^2,

where `recipes.clevr.training.model` says what x, the target and w are. A share of the captions is empty, for
classifier-free guidance. Weights are averaged exponentially, and the average is measured now and then, on frames held
out and on as many trained on, always with the same noise; what ships is the average with the least loss held out.

References: Rombach et al., 2022, arXiv 2112.10752; Ho and Salimans, Classifier-free diffusion guidance, 2022,
arXiv 2207.12598.
"""

import copy
import json
import logging
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import CLIPTokenizer

from recipes.clevr.training.fit import BudgetedModule, TrainingSettings, publish_grid
from recipes.clevr.training.frames import CaptionedLatents, step_generator
from recipes.clevr.training.model import (
    PREDICTIONS,
    Epsilon,
    Teacher,
    Velocity,
    assemble,
    build_networks,
    build_scheduler,
    sample,
    set_dropout,
)

log = logging.getLogger(__name__)

_SHOWN_STEPS = 25  # of the sampler, for the grids of training
_NO_PROCESS = 2**16  # noise that is no training step's
_CHUNK = 64  # latents at a time where they are measured


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings(TrainingSettings):
    """What the diffusion model is and how it is trained.

    Args (those of `TrainingSettings`, and):
        prediction: what the network predicts, of `PREDICTIONS`.
        start_from: folder of a model in diffusers' layout whose U-Net and text encoder training starts from; its
            networks must have the shapes given here.
        teacher: folder of a noise model whose expected velocity is the target of `velocity`, in place of a draw's.
        channels: widths of the U-Net's levels.
        attention: whether each level attends (to itself and to the caption).
        layers: residual blocks a level.
        heads: attention heads.
        text_width: width of the text encoder.
        text_layers: layers of the text encoder.
        dropout: share of what the U-Net's residual blocks drop, in [0, 1).
        ema: limit of the decay of the averaged weights, in [0, 1).
        gamma: of the min-SNR weight.
        empty: share of empty captions.
        drop: share of captions that lose the size, the material or both.
        captions: random captions a frame, tokenised once.
        mirror: whether each frame is trained on mirrored too.
        graph: whether on a CUDA device the whole step is one CUDA graph.
        show_every: steps between sample grids.
        measure_every: steps between two measurements of the averaged weights.
        patience: measurements in a row without a smaller loss held out after which training ends; null never ends it.
        guidance: of the grids.
    """

    prediction: str = "epsilon"
    start_from: str | None = None
    teacher: str | None = None
    channels: tuple[int, ...] = (64, 128, 128)
    attention: tuple[bool, ...] = (False, True, True)
    layers: int = 1
    heads: int = 4
    text_width: int = 128
    text_layers: int = 2
    dropout: float = 0.0
    ema: float = 0.9995
    gamma: float = 5.0
    empty: float = 0.1
    drop: float = 0.2
    captions: int = 16
    mirror: bool = False
    graph: bool = True
    show_every: int = 500
    measure_every: int = 250
    patience: int | None = None
    guidance: float = 3.0

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be {' or '.join(PREDICTIONS)}, got {self.prediction!r}")
        if self.teacher is not None and self.prediction != "velocity":
            raise ValueError(f"a teacher gives the targets of velocity alone, not of {self.prediction}")
        if len(self.channels) != len(self.attention):
            raise ValueError(f"channels and attention must pair up, got {self.channels} and {self.attention}")
        if not (0 <= self.ema < 1 and 0 <= self.empty <= 1 and 0 <= self.drop <= 1 and self.gamma > 0):
            raise ValueError("ema, empty and drop must be shares and gamma positive")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be a share below 1, got {self.dropout}")
        counts = (self.batch, self.captions, self.save_every, self.show_every, self.measure_every)
        if min(counts) < 1 or (self.patience is not None and self.patience < 1):
            raise ValueError("batch, captions, save_every, show_every, measure_every and patience must be >= 1")


@dataclass(frozen=True)
class Draw:
    """What one step is made of: captioned latents, noise, and noise levels in [0, 1)."""

    latents: Float[Tensor, "b c i j"]
    tokens: Int64[Tensor, "b l"]
    noise: Float[Tensor, "b c i j"]
    places: Float[Tensor, " b"]


@dataclass(frozen=True)
class AverageErrors:
    """The averaged weights' mean errors over frames held out and over as many that were trained on.

    Attributes:
        held_out_loss: with the weights that training has.
        held_out_error: mean squared error of the prediction, unweighted.
        training_loss: the same on training frames.
        training_error: the same on training frames.
    """

    held_out_loss: float
    held_out_error: float
    training_loss: float
    training_error: float


MEASURED: tuple[str, ...] = tuple(item.name for item in fields(AverageErrors))


class DiffusionTraining(BudgetedModule):
    """Trains the U-Net and the text encoder on latents and captions.

    Args (those of `BudgetedModule`, and):
        data: to train on.
        held_out: to measure on.
        autoencoder: decodes the grids; not trained.
        tokenizer: of the captions.
        prompts: of the grids.
    """

    settings: DiffusionSettings

    def __init__(
        self,
        *,
        settings: DiffusionSettings,
        data: CaptionedLatents,
        held_out: CaptionedLatents,
        autoencoder: AutoencoderKL,
        tokenizer: CLIPTokenizer,
        prompts: list[str],
        seed: int,
        folder: Path,
    ) -> None:
        super().__init__(settings=settings, samples=len(data), seed=seed, folder=folder)
        self.trained = build_networks(settings, autoencoder, tokenizer)
        self.averaged = copy.deepcopy(self.trained).requires_grad_(False).eval()
        self.best = copy.deepcopy(self.averaged)
        set_dropout(self.trained["unet"], settings.dropout)
        self.data, self.held_out = data, held_out
        self.decoder = (autoencoder,)  # a tuple, so that it is no part of the checkpoint
        self.tokenizer, self.prompts = tokenizer, prompts
        self.prediction = Epsilon(gamma=settings.gamma) if settings.prediction == "epsilon" else Velocity()
        self.teacher = None if settings.teacher is None else Teacher(settings.teacher)
        self.curves: Any = None  # the logger
        # step and figures of the best weights; buffers, so that they come back from other processes and checkpoints
        self.best_step: Tensor
        self.best_figures: Tensor
        self.worse: Tensor
        self.register_buffer("best_step", torch.tensor(0))
        self.register_buffer("best_figures", torch.full((4,), math.inf, dtype=torch.float64))
        self.register_buffer("worse", torch.tensor(0))  # measurements since

    def on_fit_start(self) -> None:
        """Move what is no part of the module; start the clock."""
        self.curves = self.logger
        self.move_data(self.device)
        super().on_fit_start()

    def move_data(self, device: torch.device) -> None:
        """Brings what a step needs besides the module's own weights to a device."""
        self.data = self.data.to(device)
        self.teacher = None if self.teacher is None else self.teacher.to(device)

    def on_train_start(self) -> None:
        """Measure the weights that training starts from, where they are those of a trained model."""
        if self.global_step == 0 and self.settings.start_from is not None and self.trainer.is_global_zero:
            self.publish(self.measure_and_keep(0), step=0)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """The loss of the batch that belongs to this step."""
        loss, error = self.errors(self.trained, self.draw())
        self.log_dict({"diffusion/loss": loss.mean(), "diffusion/error": error.mean()}, prog_bar=True)
        self.log("diffusion/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss.mean()

    def draw(self) -> Draw:
        """What belongs to this step and process; it depends on the seed and on nothing that went before."""
        chosen, generator = self.chosen(), self.generator()
        noise = torch.randn((len(chosen), *self.data.latents.shape[1:]), generator=generator)
        places = even_places(len(chosen), generator=generator)
        variants = torch.randint(self.data.tokens.shape[1], (len(chosen),), generator=generator)
        empty = torch.rand(len(chosen), generator=generator) < self.settings.empty
        chosen, variants, empty = (part.to(self.device) for part in (chosen, variants, empty))
        return Draw(
            latents=self.data.latents[chosen],
            tokens=self.data.captions(chosen, variants=variants, empty=empty),
            noise=noise.to(self.device),
            places=places.to(self.device),
        )

    def errors(self, networks: nn.ModuleDict, draw: Draw) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Weighted and unweighted mean squared error of each latent's prediction."""
        noised = self.prediction.noised(draw.latents, draw.noise, draw.places)
        if self.teacher is not None and networks is self.trained:
            noised = replace(noised, targets=self.teacher.targets(noised, draw.tokens))
        states = networks["text_encoder"](draw.tokens)[0]
        predicted = networks["unet"](noised.inputs, noised.times, states).sample.float()
        error = (predicted - noised.targets).square().flatten(1).mean(1)
        return error * noised.weights, error

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Average the weights; now and then measure them and publish samples."""
        settings, step = self.settings, self.global_step
        self.average(1 - average_decay(step, settings.ema))
        if step % settings.measure_every == 0 or step == self.budget.max_steps or self.progress >= 1.0:
            if self.trainer.is_global_zero:
                self.publish(self.measure_and_keep(step), step=step)
            if settings.patience is not None:
                worse = int(self.trainer.strategy.broadcast(int(self.worse)))
                self.trainer.should_stop = self.trainer.should_stop or worse >= settings.patience
        if step % settings.show_every == 0 and self.trainer.is_global_zero:
            self.show(step)
        super().on_train_batch_end(outputs, batch, batch_idx)

    def average(self, rate: float | Tensor) -> None:
        """Moves the averaged weights towards those trained by a share of the way, in [0, 1]."""
        with torch.no_grad():
            for mean, weight in zip(self.averaged.parameters(), self.trained.parameters(), strict=True):
                mean.lerp_(weight, rate)

    def measure_and_keep(self, step: int) -> dict[str, float]:
        """Measures the averaged weights, and keeps them where they have the least loss held out so far.

        Returns:
            The figures, by their names in the logger.
        """
        found = self.measure()
        if found.held_out_loss < float(self.best_figures[0]):
            self.best.load_state_dict(self.averaged.state_dict())
            self.best_figures.copy_(torch.tensor(list(vars(found).values())))
            self.best_step.fill_(step)
            self.worse.zero_()
        else:
            self.worse.add_(1)
        return {f"diffusion/{name}": value for name, value in vars(found).items()}

    def kept(self) -> dict[str, float]:
        """When the kept weights were those of the average, and their figures."""
        return {"step": float(self.best_step), **dict(zip(MEASURED, self.best_figures.tolist(), strict=True))}

    def measure(self) -> AverageErrors:
        """The averaged weights' errors; noise and noise levels are those of every measurement."""
        count = min(len(self.held_out.tokens), len(self.data.tokens))
        return AverageErrors(*self._mean_errors(self.held_out, count), *self._mean_errors(self.data, count))

    def publish(self, figures: Mapping[str, float], *, step: int) -> None:
        """Write figures to the log, to the logger, and as a line to `figures.jsonl`."""
        log.info("step %d: %s", step, " ".join(f"{name} {value:.5f}" for name, value in figures.items()))
        if self.curves is not None:
            self.curves.log_metrics(dict(figures), step=step)
        # with several processes this one has neither a log that is shown nor, maybe, a logger
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "figures.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")

    def show(self, step: int) -> None:
        """Publish samples of the averaged weights."""
        unet, text_encoder = self.averaged["unet"], self.averaged["text_encoder"]
        # Being no part of the module, the autoencoder was not moved with it.
        decoder = self.decoder[0].to(self.device)
        scheduler = build_scheduler(self.settings.prediction)
        pipeline = assemble(decoder, unet, text_encoder, self.tokenizer, scheduler)
        images = sample(pipeline, self.prompts, seed=self.seed, steps=_SHOWN_STEPS, guidance=self.settings.guidance)
        publish_grid(
            images,
            columns=8,
            file=self.folder / f"samples-{step:06d}.png",
            logger=self.curves,
            name="diffusion/samples",
            step=step,
        )

    def _mean_errors(self, data: CaptionedLatents, count: int) -> tuple[float, float]:
        """Mean loss and error over `count` frames, spread evenly, with their first captions."""
        frames = torch.linspace(0, len(data.tokens) - 1, count).long()
        generator = step_generator(seed=self.seed, step=0, rank=_NO_PROCESS)
        noise = torch.randn((count, *data.latents.shape[1:]), generator=generator)
        # neighbours are of one shard, not of one kind: levels in the order of the frames cover every kind
        places = even_places(count, generator=generator)[torch.randperm(count, generator=generator)]
        sums = torch.zeros(2, dtype=torch.float64)
        for part in torch.split(torch.arange(count), _CHUNK):
            draw = Draw(
                latents=data.latents[frames[part]].to(self.device),
                tokens=data.tokens[frames[part], 0].long().to(self.device),
                noise=noise[part].to(self.device),
                places=places[part].to(self.device),
            )
            with torch.no_grad(), autocast(self.device, self.settings.precision):
                sums += torch.stack([value.double().sum() for value in self.errors(self.averaged, draw)]).cpu()
        loss, error = (sums / count).tolist()
        return loss, error


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """What Lightning's precision of that name computes in, for code that Lightning does not call."""
    if precision != "bf16-mixed":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def average_decay(step: int, limit: float) -> float:
    """Decay of the averaged weights at a step.

    Early on the average follows closely: the limit alone would keep the first weights for thousands of steps.
    """
    return min(limit, (1 + step) / (10 + step))


def even_places(
    batch: int, *, generator: torch.Generator | None = None, device: torch.device | None = None
) -> Float[Tensor, " batch"]:
    """One place from each of `batch` equal parts of [0, 1): a batch then covers all noise levels."""
    return (torch.arange(batch, device=device) + torch.rand(batch, generator=generator, device=device)) / batch
