"""One training stage: a Lightning fit that resumes from its last checkpoint.

The loader yields step numbers: each module draws its own samples from (seed, step, process), so what a step
sees does not depend on where a run was interrupted.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader

from latent_geodesics.training.schedule import BudgetedModule

if TYPE_CHECKING:
    from latent_geodesics.runner import Run

__all__ = ["fit"]

CHECKPOINT = "last.ckpt"


def fit(module: BudgetedModule, *, run: "Run", folder: Path, precision: str, save_every: int) -> float:
    """Train `module` until its budget is used, from the checkpoint in `folder` if there is one.

    Args:
        module: what is trained, in place.
        run: gives the trainer and the logger.
        folder: where the checkpoint lives.
        precision: Lightning's, e.g. `32-true` or `bf16-mixed`.
        save_every: steps between two checkpoints, >= 1.

    Returns:
        Minutes of training, over all resumed parts.
    """
    from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar

    keeper = ModelCheckpoint(
        dirpath=folder,
        filename=Path(CHECKPOINT).stem,
        every_n_train_steps=save_every,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    bars = [TQDMProgressBar(refresh_rate=10)] if run.trainer_options.get("enable_progress_bar", True) else []
    trainer = run.trainer(
        max_steps=module.budget.max_steps,
        max_epochs=-1,
        precision=precision,
        callbacks=[keeper, *bars],
        use_distributed_sampler=False,
        log_every_n_steps=10,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        inference_mode=True,
    )
    module.final = folder / CHECKPOINT
    steps: DataLoader[int] = DataLoader(range(module.budget.max_steps), batch_size=None)  # type: ignore[arg-type]
    existing = folder / CHECKPOINT
    trainer.fit(module, steps, ckpt_path=existing if existing.exists() else None, weights_only=False)
    # read back, not asked of the module: with several processes the one that trained was a copy
    return float(torch.load(existing, map_location="cpu", weights_only=False, mmap=True)["minutes"])
