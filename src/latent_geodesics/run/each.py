"""Work through a list: each batch of items once, in whichever process, kept on disk as soon as it is done.

Lightning owns the loop and the processes. What a batch gave is a `Rows`; its record is written last of all that the
batch leaves behind, so that a run which is killed goes on where it stopped, and a table is the same whoever made its
rows (see `batch_store`).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import pytorch_lightning as pl
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from latent_geodesics.core.progress import listening
from latent_geodesics.data import NumberedBatch
from latent_geodesics.data.batches import IDLE, Named
from latent_geodesics.models.accelerator import one_thread
from latent_geodesics.run.batch_store import BatchStore
from latent_geodesics.run.files import write_text
from latent_geodesics.run.markup import csv_text
from latent_geodesics.run.names import file_stem
from latent_geodesics.run.sequences import Films, save_frames, save_sprite
from latent_geodesics.run.strips import save_strip

if TYPE_CHECKING:
    from latent_geodesics.run.runner import Run

log = logging.getLogger(__name__)

Item = TypeVar("Item", bound=Named)
Content = TypeVar("Content")


@dataclass(kw_only=True)
class Rows:
    """What the work on a batch gave.

    Attributes:
        folder: The run's folder, into which pictures go.
        films: How films are written.
        tables: Name of a table -> its rows.
        kept: What else is kept of the batch: numbers, words, tensors, and mappings and lists of them.
        files: The files that the batch left in the folder, relative to it.
        whole: Whether nothing failed; a batch in which something did may be tried again.
    """

    folder: Path
    films: Films
    tables: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    whole: bool = True

    def add(self, table: str, *rows: Mapping[str, Any]) -> None:
        """Adds rows to a table."""
        self.tables.setdefault(table, []).extend(rows)

    def strip(self, sequences: Mapping[str, Float[Tensor, "n 3 h w"]], *names: str) -> str:
        """Writes sequences below one another as one picture, named by the parts of a name; returns its file."""
        return self.file(f"images/{file_stem(*names)}.png", lambda file: save_strip(file, sequences))

    def sequence(self, frames: Float[Tensor, "n 3 h w"], *names: str, truth: bool = False) -> dict[str, Any]:
        """Keeps a sequence: all frames as `frames/<method>/<item>/0000.png`, a film, a sprite; returns its player.

        Args:
            frames: In [0, 1].
            names: What names the item, then the method.
            truth: Whether they are an item's true frames, which no method made: they are kept as `truth/<item>/`.
        """
        *item, method = names
        stem, method_stem = file_stem(*item), file_stem(method)
        place, films = f"truth/{stem}" if truth else f"frames/{method_stem}/{stem}", f"films/{method_stem}"
        self.files += [f"{place}/{name}" for name in save_frames(self.folder / place, frames)]
        self.files += [f"{films}/{name}" for name in self.films.save(self.folder / films, stem, frames)]
        sprite = f"images/{file_stem(*names)}.webp"
        shape = save_sprite(self.folder / sprite, frames)
        self.files.append(sprite)
        return {"name": method, "file": sprite, **shape}

    def file(self, name: str, write: Callable[[Path], object]) -> str:
        """Writes a file by a function that is told where, and returns its name in the folder."""
        write(self.folder / name)
        self.files.append(name)
        return name


class Tables:
    """What all finished batches of a run gave, in the batches' order.

    Attributes:
        whole: Whether every batch is finished.
        items: How many items the finished batches have, and all batches.
    """

    def __init__(self, contents: Sequence[Mapping[str, Any]], *, batches: Sequence[Sequence[str]]) -> None:
        self._contents = contents
        self.whole = len(contents) == len(batches)
        self.items = sum(content["items"] for content in contents), sum(len(batch) for batch in batches)

    def __getitem__(self, name: str) -> pd.DataFrame:
        """The rows of a table."""
        return pd.DataFrame([row for content in self._contents for row in content["tables"].get(name, ())])

    def kept(self, name: str) -> list[Any]:
        """What each batch kept under a name."""
        return [content["kept"][name] for content in self._contents]

    @property
    def counted(self) -> str | int:
        """How many items there are, in words while some are missing."""
        done, all_of_them = self.items
        return all_of_them if self.whole else f"{done} of {all_of_them}: not finished"

    def write(self, folder: Path) -> None:
        """Writes each table as `<name>.csv`."""
        for name in dict.fromkeys(name for content in self._contents for name in content["tables"]):
            write_text(folder / f"{name}.csv", csv_text(self[name]))


class Loop(pl.LightningModule):
    """Lightning's side of `Run.each`: one batch after another, kept and shown as soon as it is done."""

    def __init__(
        self, *, run: "Run", work: Callable[[Any], Rows], store: BatchStore, names: Sequence[Sequence[str]]
    ) -> None:
        super().__init__()
        self._run, self._do, self._store, self._names = run, work, store, names

    def test_step(self, batch: NumberedBatch[Any], batch_idx: int) -> None:
        """One batch, with the same numbers in however many processes."""
        if batch.number == IDLE:
            return
        names = self._names[batch.number]
        self._bar.set_description(", ".join(names[:3]) + (" ..." if len(names) > 3 else ""))
        with one_thread(), listening(self._bar.set_postfix_str):
            rows = self._do(batch.content)
        self._bar.set_postfix_str("")
        self._bar.update(len(names))
        content = {"tables": rows.tables, "kept": rows.kept, "whole": rows.whole}
        self._store.write(batch.number, content | {"items": len(names)}, files=rows.files)
        if self._run.leads:
            Tables(self._store.read(), batches=self._names).write(self._run.folder)
            for file in rows.files:
                self._run.show(file)

    def on_test_start(self) -> None:
        """Shows how far the list is; what is done already counts."""
        done = sum(len(self._names[number]) for number in self._store.finished())
        total = sum(map(len, self._names))
        self._bar = tqdm(total=total, initial=done, unit="item", disable=not self._run.leads, mininterval=0.5)

    def on_test_end(self) -> None:
        """Waits for every process: only then is all of the run on disk."""
        self._bar.close()
        self.trainer.strategy.barrier()
