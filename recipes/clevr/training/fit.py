"""One training stage: a Lightning fit that resumes from its last checkpoint.

The loader yields step numbers: each module draws its own samples from (seed, step, process), so what a step
sees does not depend on where a run was interrupted.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.data import DataLoader

from recipes.clevr.training.checkpoints import CHECKPOINT, Checkpoints
from recipes.clevr.training.schedule import BudgetedModule

if TYPE_CHECKING:
    from latent_geodesics.run.runner import Run

__all__ = ["fit"]


def fit(
    module: BudgetedModule, *, run: "Run", folder: Path, precision: str, save_every: int, origin: str = ""
) -> float:
    """Train `module` until its budget is used, from the last whole checkpoint in `folder` if there is one.

    Args:
        module: what is trained, in place.
        run: gives the trainer and the logger.
        folder: where the checkpoints live.
        precision: Lightning's, e.g. `32-true` or `bf16-mixed`.
        save_every: steps between two checkpoints, >= 1.
        origin: names what is trained, from what and how; checkpoints of another origin are left alone.

    Returns:
        Minutes of training, over all resumed parts.
    """
    from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar

    # The folder holds the stage's record, and what is gone on with.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    checkpoints = Checkpoints(origin=origin)
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
        plugins=[checkpoints],
        use_distributed_sampler=False,
        log_every_n_steps=10,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        inference_mode=True,
    )
    module.final = folder / CHECKPOINT
    steps: DataLoader[int] = DataLoader(range(module.budget.max_steps), batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, steps, ckpt_path=checkpoints.last(folder))
    # read back, not asked of the module: with several processes the one that trained was a copy
    kept = checkpoints.last(folder)
    assert kept is not None, "a fit that ended well leaves its last state"
    return float(checkpoints.load_checkpoint(kept)["minutes"])
