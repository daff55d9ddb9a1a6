"""One training stage: a Lightning fit within a budget, which goes on from its last checkpoint.

The loader yields step numbers: each module draws its own samples from (seed, step, process), so what a step
sees does not depend on where a run was interrupted.

The progress f in [0, 1] of a stage is the larger of step / max_steps and, where a time limit is set, minutes /
max_minutes. The rate is peak * warm-up(step) * decay(f): linear warm-up over the first steps; constant until f
= decay_from, then half a cosine down to `floor`. Without a time limit a run is a function of its seed alone;
with one, the decay still ends when the time does.

References: Loshchilov and Hutter, Decoupled weight decay regularization, 2019, arXiv 1711.05101 (AdamW).
"""

import io
import logging
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from pytorch_lightning.plugins import CheckpointIO
from torch import Tensor
from torch.utils.data import DataLoader

from latent_geodesics.run.files import DamagedFileError, read_sealed, replacing, seal
from recipes.clevr.training.frames import sample_places, step_generator

if TYPE_CHECKING:
    from lightning_fabric.loggers.logger import Logger

    from latent_geodesics.run.runner import Run

log = logging.getLogger(__name__)

CHECKPOINT, PREVIOUS = "last.ckpt", "previous.ckpt"
_SYNC_EVERY = 10  # steps between two readings of the clock, which all processes must share
_BETAS = (0.9, 0.98)  # a shorter memory of squares than usual: the stages are a few thousand steps long
_GAP = 2  # pixels between images


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a stage trains.

    Args:
        max_steps: optimiser steps, >= 1.
        max_minutes: wall-clock limit over all resumed parts together, or None.
        warmup_steps: steps of linear warm-up, >= 0.
        decay_from: progress at which the decay starts, in [0, 1).
        floor: share of the peak rate at the end, in [0, 1].
    """

    max_steps: int
    max_minutes: float | None = None
    warmup_steps: int = 100
    decay_from: float = 0.0
    floor: float = 0.02

    def __post_init__(self) -> None:
        if self.max_steps < 1 or self.warmup_steps < 0:
            raise ValueError(f"max_steps must be >= 1, warmup_steps >= 0: got {self.max_steps}, {self.warmup_steps}")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ValueError(f"max_minutes must be positive or null, got {self.max_minutes}")
        if not (0 <= self.decay_from < 1 and 0 <= self.floor <= 1):
            raise ValueError(f"decay_from and floor must be shares, got {self.decay_from} and {self.floor}")

    def progress(self, *, step: int, minutes: float) -> float:
        """Share of the budget that is used, in [0, 1]."""
        timed = 0.0 if self.max_minutes is None else minutes / self.max_minutes
        return min(1.0, max(step / self.max_steps, timed))

    def factor(self, *, step: int, progress: float) -> float:
        """Learning rate as a share of its peak, in [0, 1]."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        late = max(0.0, progress - self.decay_from) / (1.0 - self.decay_from)
        return warm * (self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * late)))


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a stage trains, whatever its network is.

    Args:
        budget: steps and minutes.
        batch: samples a step and process.
        lr: peak learning rate.
        weight_decay: decay of the matrices.
        precision: Lightning's.
        save_every: steps between checkpoints.
    """

    budget: Budget
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    precision: str = "bf16-mixed"
    save_every: int = 100


class BudgetedModule(pl.LightningModule):
    """A Lightning module that follows a `Budget`: sets the rate before each step and stops when the budget is used.

    The time spent is part of the checkpoint, so an interrupted stage goes on with what is left of its budget.

    Args:
        settings: how it trains.
        samples: how many there are to draw from.
        seed: of everything random, the weights among it.
        folder: where checkpoints and grids go.
    """

    def __init__(self, *, settings: TrainingSettings, samples: int, seed: int, folder: Path) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.settings, self.samples, self.seed, self.folder = settings, samples, seed, folder
        self.budget = settings.budget
        self.minutes = 0.0
        self.progress = 0.0
        self._since = 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return self.adamw()

    def adamw(self, *, capturable: bool = False) -> torch.optim.AdamW:
        """AdamW for all trainable parameters, those with two or more axes decaying; each group holds the peak rate.

        Args:
            capturable: whether a CUDA graph can record its steps; the rate is then a tensor beside the weights.
        """
        lr, weight_decay = self.settings.lr, self.settings.weight_decay
        if lr <= 0 or weight_decay < 0:
            raise ValueError(f"lr must be positive and weight_decay >= 0, got {lr} and {weight_decay}")
        trained = [weight for weight in self.parameters() if weight.requires_grad]
        groups = [
            {"params": [weight for weight in trained if weight.ndim > 1], "peak_lr": lr, "weight_decay": weight_decay},
            {"params": [weight for weight in trained if weight.ndim <= 1], "peak_lr": lr, "weight_decay": 0.0},
        ]
        if not capturable:
            return torch.optim.AdamW(groups, lr=lr, betas=_BETAS)
        rate = torch.tensor(lr, device=trained[0].device)
        return torch.optim.AdamW(groups, lr=rate, betas=_BETAS, capturable=True, fused=True)

    def on_fit_start(self) -> None:
        """Start the clock."""
        self._since = time.monotonic() - 60.0 * self.minutes

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of this step."""
        if self.global_step % _SYNC_EVERY == 0 and self.budget.max_minutes is not None:
            elapsed = (time.monotonic() - self._since) / 60.0
            self.minutes = float(self.trainer.strategy.broadcast(elapsed))
        self.progress = self.budget.progress(step=self.global_step, minutes=self.minutes)
        factor = self.budget.factor(step=self.global_step, progress=self.progress)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["peak_lr"] * factor

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write the log line and stop when the budget is used."""
        if self.global_step % 50 == 0:
            self._say()
        if self.progress >= 1.0:
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Keep the last state, which need not fall on a checkpoint's step."""
        self.trainer.save_checkpoint(self.folder / CHECKPOINT)

    def chosen(self) -> Int64[Tensor, " batch"]:
        """The samples of this step and process."""
        return sample_places(
            self.samples,
            seed=self.seed,
            step=self.global_step,
            batch=self.settings.batch,
            rank=self.global_rank,
            world=self.trainer.world_size,
        )

    def generator(self) -> torch.Generator:
        """The random numbers of this step and process."""
        return step_generator(seed=self.seed, step=self.global_step, rank=self.global_rank)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the time spent."""
        checkpoint["minutes"] = (time.monotonic() - self._since) / 60.0

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Take up the time spent."""
        self.minutes = float(checkpoint["minutes"])

    def _say(self) -> None:
        if self.trainer.is_global_zero:
            values = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            shown = " ".join(f"{name} {value:.4g}" for name, value in values.items())
            elapsed = (time.monotonic() - self._since) / 60.0
            log.info("step %d, %.1f min, progress %.3f: %s", self.global_step, elapsed, self.progress, shown)


class Checkpoints(CheckpointIO):
    """Writes and reads Lightning's checkpoints.

    Args:
        origin: Names what is trained, from what and how; a checkpoint of another origin is not gone on with.
    """

    def __init__(self, *, origin: str) -> None:
        self.origin = origin

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes a checkpoint; the one that was there becomes the one before."""
        written = io.BytesIO()
        torch.save({"origin": self.origin, "checkpoint": checkpoint}, written)
        path = Path(path)
        with replacing(path) as partial:
            partial.write_bytes(seal(written.getvalue()))
            if path.name == CHECKPOINT and path.exists():
                path.replace(path.with_name(PREVIOUS))

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint; nothing in it is ever run, whatever `weights_only` says.

        Raises:
            DamagedFileError: when the file is not what was written, or of another origin.
        """
        content = read_sealed(Path(path))
        try:
            record = torch.load(io.BytesIO(content), map_location=map_location or "cpu", weights_only=True)
            origin, checkpoint = record["origin"], record["checkpoint"]
        except Exception as error:  # whatever the library says of content that is no record
            raise DamagedFileError(f"it holds no checkpoint: {error}") from error
        if origin != self.origin:
            raise DamagedFileError("it was made with other settings or from other data")
        found: dict[str, Any] = checkpoint
        return found

    def remove_checkpoint(self, path: str | Path) -> None:
        """Deletes a checkpoint."""
        Path(path).unlink(missing_ok=True)

    def last(self, folder: Path) -> Path | None:
        """The last checkpoint in a folder that can be gone on with, if there is one."""
        for path in (folder / CHECKPOINT, folder / PREVIOUS):
            if not path.exists():
                continue
            try:
                self.load_checkpoint(path)
            except (OSError, DamagedFileError) as error:
                log.warning("The checkpoint '%s' cannot be gone on with: %s.", path, error)
            else:
                return path
        return None


def image_grid(images: Float[Tensor, "n 3 h w"], *, columns: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """Images in [0, 1] row by row on white, `columns` a row."""
    if columns < 1 or not len(images):
        raise ValueError(f"a grid needs an image and a column, got {len(images)} and {columns}")
    count, _, height, width = images.shape
    rows = -(-count // columns)
    grid = torch.ones(3, rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP)
    for index, image in enumerate(images.float().clamp(0, 1).cpu()):
        top, left = index // columns * (height + _GAP), index % columns * (width + _GAP)
        grid[:, top : top + height, left : left + width] = image
    return (grid * 255).round().byte().permute(1, 2, 0).numpy()


def publish_grid(
    images: Float[Tensor, "n 3 h w"], *, columns: int, file: Path, logger: "Logger | None", name: str, step: int
) -> None:
    """Writes images in [0, 1] to the PNG `file`, `columns` a row, and shows them as `name` in a logger of images."""
    grid = image_grid(images, columns=columns)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid).save(file)
    show: Any = getattr(logger, "log_image", None)
    if callable(show):
        show(key=name, images=[grid], step=step)


def fit(module: BudgetedModule, *, run: "Run", origin: str = "") -> float:
    """Train `module` until its budget is used, from the last whole checkpoint in its folder if there is one.

    Args:
        module: what is trained, in place.
        run: gives the trainer and the logger.
        origin: names what is trained, from what and how; checkpoints of another origin are left alone.

    Returns:
        Minutes of training, over all resumed parts.
    """
    from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar

    # The folder holds the stage's record, and what is gone on with.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    checkpoints = Checkpoints(origin=origin)
    keeper = ModelCheckpoint(
        dirpath=module.folder,
        filename=Path(CHECKPOINT).stem,
        every_n_train_steps=module.settings.save_every,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    bars = [TQDMProgressBar(refresh_rate=10)] if run.trainer_options.get("enable_progress_bar", True) else []
    trainer = run.trainer(
        max_steps=module.budget.max_steps,
        max_epochs=-1,
        precision=module.settings.precision,
        callbacks=[keeper, *bars],
        plugins=[checkpoints],
        use_distributed_sampler=False,
        log_every_n_steps=10,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        inference_mode=True,
    )
    steps: DataLoader[int] = DataLoader(range(module.budget.max_steps), batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, steps, ckpt_path=checkpoints.last(module.folder))
    # read back, not asked of the module: with several processes the one that trained was a copy
    kept = checkpoints.last(module.folder)
    assert kept is not None, "a fit that ended well leaves its last state"
    return float(checkpoints.load_checkpoint(kept)["minutes"])
