"""A stage's budget and the learning rate it implies.

The progress f in [0, 1] of a stage is the larger of step / max_steps and, where a time limit is set, minutes /
max_minutes. The rate is peak * warm-up(step) * decay(f): linear warm-up over the first steps; constant until f
= decay_from, then half a cosine down to `floor`. Without a time limit a run is a function of its seed alone;
with one, the decay still ends when the time does.
"""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from recipes.clevr.training.frames import step_generator

__all__ = ["Budget", "BudgetedModule"]

log = logging.getLogger(__name__)

_SYNC_EVERY = 10  # steps between two readings of the clock, which all processes must share


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


class BudgetedModule(pl.LightningModule):
    """A Lightning module that follows a `Budget`: sets the rate before each step and stops when the budget is used.

    The time spent is part of the checkpoint, so an interrupted stage goes on with what is left of its budget.

    Args:
        budget: steps and minutes.
        seed: of everything random.
    """

    def __init__(self, *, budget: Budget, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.final: Path | None = None  # where the state goes when training ends
        self.budget = budget
        self.minutes = 0.0
        self.progress = 0.0
        self._since = 0.0

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
        if self.final is not None:
            self.trainer.save_checkpoint(self.final)

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
