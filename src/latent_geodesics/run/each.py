"""Work through a list: each batch of items once, in whichever process, kept on disk as soon as it is done.

Lightning owns the loop and the processes. What a batch gave is a `Rows`, and what is finished is in the `BatchStore`,
from which alone a run is resumed and processes are joined.

A batch is the unit: of pairs, of videos, or of whatever else a run works through. It has a number, and always the same
items, however many processes share the work; its file is written last of all that the batch leaves behind, and under
another name first. So a file that is there stands for a batch that is whole, a run that was killed at any moment goes
on with the batches that have none, and a table is made of all files in the order of their numbers, whoever wrote them.
A batch whose file is damaged, or one of whose pictures is, counts as not done.
"""

import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.progress import listening
from latent_geodesics.data import NumberedBatch
from latent_geodesics.data.batches import IDLE, Named
from latent_geodesics.models.accelerator import one_thread
from latent_geodesics.models.sources import file_hash
from latent_geodesics.run.files import (
    DamagedFileError,
    csv_text,
    file_stem,
    is_whole,
    read_sealed,
    seal,
    write_bytes,
    write_text,
)
from latent_geodesics.run.sequences import Films, save_frames, save_sprite, save_strip

if TYPE_CHECKING:
    from latent_geodesics.run.runner import Run

log = logging.getLogger(__name__)

FOLDER = "batches"
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.3g}/{total} [{elapsed}<{remaining}{postfix}]"
"""Methods count as shares of the items that they work on."""
PARTS = ("pairs", "made_with", "files", "content")

Item = TypeVar("Item", bound=Named)
Content = TypeVar("Content")


class BatchStore:
    """The finished batches of a run's folder.

    Args:
        folder: The run's folder.
        made_with: What the numbers depend on besides the configuration, such as the hashes of the weights.
        expected: The ids of the items of every batch, by its number.
        sources: What the items of every batch are made of, by name: texts, and hashes of files.
        name: The folder of the batches in that of the run.

    Raises:
        UserError: when the folder holds a batch that was made with something else or of other items.
    """

    def __init__(
        self,
        *,
        folder: Path,
        made_with: Mapping[str, str],
        expected: Sequence[Sequence[str]],
        sources: Sequence[Mapping[str, str]] | None = None,
        name: str = FOLDER,
    ) -> None:
        self._folder, self._name = folder, name
        self._made_with = dict(made_with)
        self._expected = [list(ids) for ids in expected]
        self._sources = [dict(of_batch) for of_batch in sources or [{}] * len(self._expected)]
        self._known: dict[int, Mapping[str, Any]] = {}
        self.finished()

    def finished(self) -> list[int]:
        """The numbers of the batches that are whole, in order; one in which a method failed may be tried again."""
        contents = {number: self._read(number) for number in range(len(self._expected))}
        return [number for number, content in contents.items() if content is not None and content["whole"]]

    def write(self, number: int, content: Mapping[str, Any], *, files: Iterable[str] = ()) -> None:
        """Keeps what a batch gave.

        Args:
            number: Of the batch.
            content: Numbers, words, tensors, and mappings and lists of them; `whole`: nothing failed.
            files: The pictures and other files that the batch left in the run's folder, relative to it.
        """
        record: dict[str, Any] = {
            "made_with": self._made_with,
            "pairs": self._expected[number],
            "sources": self._sources[number],
            "files": {name: file_hash(self._folder / name) for name in files},
            "content": dict(content),
        }
        written = io.BytesIO()
        torch.save(record, written)
        write_bytes(self._path(number), seal(written.getvalue()))
        self._known[number] = record["content"]

    def read(self) -> list[Mapping[str, Any]]:
        """What every finished batch gave, in the order of their numbers."""
        found = (self._read(number) for number in range(len(self._expected)))
        return [content for content in found if content is not None]

    def _path(self, number: int) -> Path:
        return self._folder / self._name / f"{number:05d}.pt"

    def _read(self, number: int) -> Mapping[str, Any] | None:
        if number in self._known:
            return self._known[number]
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            record = _load(path)
        except (OSError, DamagedFileError) as error:
            log.warning("'%s' is damaged (%s): its batch is done again.", path, error)
            return None
        same_items = record["pairs"] == self._expected[number]
        same_origin = record["made_with"] == self._made_with
        if not same_items or not same_origin:
            what = "of other images" if not same_items else "with other weights"
            raise UserError(
                f"'{path}' was made {what}: the folder holds another run; choose another output_dir, or delete "
                f"'{path.parent.parent}'."
            )
        now, before = self._sources[number], record["sources"]
        changed = [name for name in now if before.get(name, now[name]) != now[name]]
        if changed:
            raise UserError(
                f"'{changed[0]}' is not what it was when '{path}' was made: choose another output_dir, or delete "
                f"'{path.parent.parent}' to begin again."
            )
        lost = [name for name, known in record["files"].items() if not is_whole(self._folder / name, known)]
        if lost:
            log.warning("'%s' is lost or damaged: its batch is done again.", self._folder / lost[0])
            return None
        content: Mapping[str, Any] = record["content"]
        self._known[number] = content
        return content


def read_batches(folder: Path) -> list[Mapping[str, Any]]:
    """What every finished batch of a run's folder gave, whatever it was made with, in order.

    Raises:
        UserError: when a batch cannot be read.
    """
    found = []
    for path in sorted((folder / FOLDER).glob("[0-9]*.pt")):
        try:
            found.append(_load(path)["content"])
        except (OSError, DamagedFileError) as error:
            raise UserError(f"'{path}' cannot be read ({error}): run it again, or leave the run out.") from error
    return found


def _load(path: Path) -> dict[str, Any]:
    """A batch's file: its `PARTS`.

    Raises:
        DamagedFileError: when the file is not what was written, or what was written is no batch.
    """
    content = read_sealed(path)
    try:
        record = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        loaded = {name: record[name] for name in PARTS} | {"sources": record.get("sources", {})}
        loaded["content"]["whole"]
    except Exception as error:  # whatever the library says of content that is no record
        raise DamagedFileError(f"it holds no batch: {error}") from error
    return loaded


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
        self._bar.set_description_str(", ".join(names[:3]) + (" ..." if len(names) > 3 else ""))
        before = self._bar.n
        with (
            one_thread(),
            listening(self._bar.set_postfix_str, counter=lambda share: self._bar.update(share * len(names))),
        ):
            rows = self._do(batch.content)
        self._bar.set_postfix_str("")
        self._bar.update(before + len(names) - self._bar.n)
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
        self._bar = tqdm(
            total=total, initial=done, unit="item", disable=not self._run.leads, mininterval=0.5, bar_format=BAR
        )

    def on_test_end(self) -> None:
        """Waits for every process: only then is all of the run on disk."""
        self._bar.close()
        self.trainer.strategy.barrier()
