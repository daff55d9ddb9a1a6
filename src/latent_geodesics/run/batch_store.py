"""What a run has finished, batch by batch: the one place that a run is resumed, and processes are joined, from.

A batch is the unit: of pairs, of videos, or of whatever else a run works through. It has a number, and always the same
items, however many processes share the work; its file is written last of all that the batch leaves behind, and under
another name first. So a file that is there stands for a batch that is whole, a run that was killed at any moment goes
on with the batches that have none, and a table is made of all files in the order of their numbers, whoever wrote them.
A batch whose file is damaged, or one of whose pictures is, counts as not done.
"""

import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.sources import file_hash
from latent_geodesics.run.files import DamagedFileError, is_whole, read_sealed, seal, write_bytes

log = logging.getLogger(__name__)

FOLDER = "batches"
PARTS = ("pairs", "made_with", "files", "content")


class BatchStore:
    """The finished batches of a run's folder.

    Args:
        folder: The run's folder.
        made_with: What the numbers depend on besides the configuration, such as the hashes of the weights.
        expected: The ids of the items of every batch, by its number.
        name: The folder of the batches in that of the run.

    Raises:
        UserError: when the folder holds a batch that was made with something else or of other items.
    """

    def __init__(
        self, *, folder: Path, made_with: Mapping[str, str], expected: Sequence[Sequence[str]], name: str = FOLDER
    ) -> None:
        self._folder, self._name = folder, name
        self._made_with = dict(made_with)
        self._expected = [list(ids) for ids in expected]
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
        loaded = {name: record[name] for name in PARTS}
        loaded["content"]["whole"]
    except Exception as error:  # whatever the library says of content that is no record
        raise DamagedFileError(f"it holds no batch: {error}") from error
    return loaded
