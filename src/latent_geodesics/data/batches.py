"""The work of a run in numbered batches, dealt out to however many processes there are."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

IDLE = -1


class Named(Protocol):
    """A pair, a video or what else a run works through; no two of a run have the same name."""

    @property
    def id(self) -> str:
        """The name."""
        ...


Item = TypeVar("Item", bound=Named)
Content = TypeVar("Content")


@dataclass(frozen=True, kw_only=True)
class NumberedBatch(Generic[Content]):
    """What was read of a batch, and its number in the run.

    `IDLE` in place of a number: nothing was left for this process, which keeps step with the others.
    """

    number: int
    content: Content


class Batches(pl.LightningDataModule, Generic[Item, Content]):
    """Reads the batches of a run that are still to be done, as a test set.

    What makes a batch never depends on what is done already or on the number of processes: a batch's numbers are the
    same to the last bit only if the batch is. Process r of n takes every n-th of the batches that the first process
    found undone, from the r-th; none is repeated to make their shares equal, and a share of none is one idle step.

    Args:
        batches: All of the run.
        read: What makes of a batch's items what is worked on.
    """

    def __init__(self, *, batches: Sequence[Sequence[Item]], read: Callable[[Sequence[Item]], Content]) -> None:
        super().__init__()
        self.batches = [tuple(batch) for batch in batches]
        self.done: Collection[int] = ()
        self._read = read

    @property
    def ids(self) -> list[list[str]]:
        """The names of each batch's items."""
        return [[item.id for item in batch] for batch in self.batches]

    @property
    def sources(self) -> list[dict[str, str | Path]]:
        """What each batch's items are made of: texts and files by where they stand, such as `<id>.image_a`."""
        return [{name: source for item in batch for name, source in _sources(item, item.id)} for batch in self.batches]

    @property
    def titles(self) -> list[list[str]]:
        """What a person calls the items of each batch: those named by their contents have a `title` besides."""
        return [[getattr(item, "title", item.id) for item in batch] for batch in self.batches]

    @property
    def left(self) -> list[int]:
        """The numbers of the batches that are not done."""
        return [number for number in range(len(self.batches)) if number not in self.done]

    def test_dataloader(self) -> DataLoader[NumberedBatch[Content]]:
        """This process's share of what is left."""
        share = self.left
        if self.trainer and self.trainer.world_size > 1:
            # One process says what is left: another may find that something was finished since.
            left = self.trainer.strategy.broadcast(share)
            share = left[self.trainer.global_rank :: self.trainer.world_size] or [IDLE]
        return DataLoader(share, batch_size=None, collate_fn=self._numbered)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leaves what was read where it is: the model moves it, in the chunks that fit."""
        return batch

    def _numbered(self, number: int) -> NumberedBatch[Content | None]:
        if number == IDLE:
            return NumberedBatch(number=IDLE, content=None)
        return NumberedBatch(number=number, content=self._read(self.batches[number]))


def _sources(value: Any, name: str) -> Iterator[tuple[str, str | Path]]:
    """The texts and the files in an item, wherever they stand in it."""
    if isinstance(value, str) or (isinstance(value, Path) and value.is_file()):
        yield name, value
    elif is_dataclass(value):
        for one in fields(value):
            yield from _sources(getattr(value, one.name), f"{name}.{one.name}")
    elif isinstance(value, tuple | list):
        for place, one in enumerate(value):
            yield from _sources(one, f"{name}.{place}")
