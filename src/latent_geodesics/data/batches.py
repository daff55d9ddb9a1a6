"""The pairs of a run in numbered batches, dealt out to however many processes there are."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from latent_geodesics.data.pairs import ImagePair, PairBatch, read_batch

__all__ = ["NumberedBatch", "PairBatches"]


@dataclass(frozen=True, kw_only=True)
class NumberedBatch:
    """A batch of pairs and its number in the run."""

    number: int
    pairs: PairBatch


class PairBatches(pl.LightningDataModule):
    """Reads the batches of a run that are still to be done, as a test set.

    Which pairs make a batch never depends on what is done already or on the number of processes: a batch's numbers are
    the same to the last bit only if the batch is. Process r of n takes the batches whose number is r modulo n, whatever
    another one has finished meanwhile, and none is repeated to make their shares equal.

    Args:
        pairs: All pairs of the run.
        batch_size: How many make a batch.
        image_size: (height, width) to read the images at.
    """

    def __init__(self, *, pairs: Sequence[ImagePair], batch_size: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.batches = [tuple(pairs[start : start + batch_size]) for start in range(0, len(pairs), batch_size)]
        self.image_size = image_size
        self.done: Collection[int] = ()

    @property
    def ids(self) -> list[list[str]]:
        """The names of each batch's pairs."""
        return [[pair.id for pair in batch] for batch in self.batches]

    @property
    def left(self) -> list[int]:
        """The numbers of the batches that are not done."""
        return [number for number in range(len(self.batches)) if number not in self.done]

    def test_dataloader(self) -> DataLoader[NumberedBatch]:
        """This process's share of what is left."""
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        share = [number for number in self.left if number % processes == rank]
        return DataLoader(share, batch_size=None, collate_fn=self._read)  # type: ignore[arg-type]

    def transfer_batch_to_device(
        self, batch: NumberedBatch, device: torch.device, dataloader_idx: int
    ) -> NumberedBatch:
        """Leaves the images where they are: the model moves them, in the chunks that fit."""
        return batch

    def _read(self, number: int) -> NumberedBatch:
        return NumberedBatch(number=number, pairs=read_batch(self.batches[number], size=self.image_size))
