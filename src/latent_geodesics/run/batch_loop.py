"""A run's batches under Lightning's test loop: what its store has is passed over, the rest is shared by processes.

Lightning owns the loop and the processes; a `BatchModule` does one batch; a `BatchWriter` writes what it gave into the
run's folder, its record in the store last, so that a run which is killed goes on where it stopped.
"""

import logging
from abc import abstractmethod
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
import torch

from latent_geodesics.data import Batches, NumberedBatch
from latent_geodesics.data.batches import IDLE
from latent_geodesics.models.chunking import one_thread
from latent_geodesics.run.batch_store import BatchStore
from latent_geodesics.run.runner import Run

__all__ = ["BatchModule", "BatchWriter", "run_batches"]

log = logging.getLogger(__name__)


class BatchModule(pl.LightningModule):
    """Does the batches of a run."""

    @abstractmethod
    def work(self, batch: NumberedBatch[Any]) -> Any:
        """Does a batch."""

    def test_step(self, batch: NumberedBatch[Any], batch_idx: int) -> dict[str, Any]:
        """One batch, with the same numbers in however many processes."""
        if batch.number == IDLE:
            return {"result": None}
        with one_thread():
            return {"result": self.work(batch)}

    def on_test_end(self) -> None:
        """Waits for every process: only then is all of the run on disk."""
        self.trainer.strategy.barrier()


class BatchWriter(pl.Callback):
    """Writes what batches gave into the run's folder, in whichever process did them."""

    @abstractmethod
    def write(self, result: Any) -> None:
        """Writes what a batch gave, `result` of `BatchModule.work`; its record comes last and says that it is done."""

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hands on what the module returned, if there was anything to do."""
        if outputs["result"] is not None:
            self.write(outputs["result"])


def run_batches(
    run: Run, module: BatchModule, batches: Batches[Any, Any], store: BatchStore, writer: BatchWriter
) -> None:
    """Does the batches of a run that its store does not have yet; an interrupt ends it early, without an error."""
    batches.done = store.finished()
    if not batches.left:
        return
    if batches.done:
        log.info("Going on with '%s': %d of %d batches are done.", run.folder, len(batches.done), len(batches.batches))
    trainer = run.trainer(
        callbacks=[writer],
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the batches are shared out already, none of them twice
    )
    # Lightning answers an interrupt by leaving the program; what was finished is still to be written.
    with suppress(SystemExit):
        trainer.test(module, datamodule=batches, verbose=False)
    if torch.distributed.is_initialized():
        # All is on disk. The first process puts it together alone, which metrics would take for a sum over processes.
        torch.distributed.destroy_process_group()
