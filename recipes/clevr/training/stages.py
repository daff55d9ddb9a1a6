"""What a stage of training was done with and what it left, on disk: by this a later run tells whether it is done.

A stage's record, `stage.json` in its folder, holds its settings, a hash of each stage before it that it was made from,
and the hashes of the files that it wrote. A stage is done if all of that is as it would be now. In a folder of work
there is one training at a time, its results are sealed, and several processes keep in step.
"""

import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.sources import file_hash
from latent_geodesics.run.config import flat_settings
from latent_geodesics.run.files import (
    DamagedFileError,
    clear_partials,
    is_partial,
    is_whole,
    read_sealed,
    seal,
    write_bytes,
)
from recipes.clevr.training.fit import CHECKPOINT

if TYPE_CHECKING:
    from latent_geodesics.run.runner import Run

log = logging.getLogger(__name__)

RECORD, LOCK = "stage.json", ".lock"
SHOWN = 3
INCIDENTAL = ("save_every", "show_every", "graph")
"""Of the trained stages' settings, what changes no result."""


@dataclass(frozen=True, kw_only=True)
class TrainingStage:
    """A part of the training.

    Attributes:
        name: Of its folder, and in the configuration.
        work: What does it, given the run and the stage's `StageRecords.origin`.
        settings: All that its result depends on besides earlier stages.
        needs: The earlier stages that it is made from.
        outputs: The files that it left.
        trained: Whether it takes long, so that it is not done again with other settings unasked.
        place: A folder outside its own that it writes into.
    """

    name: str
    work: Callable[["Run", str], None]
    settings: Mapping[str, Any]
    needs: tuple[str, ...]
    outputs: Callable[[], Iterable[Path]]
    trained: bool = False
    place: Path | None = None


class StageRecords:
    """The records of the stages in a folder of work.

    Args:
        folder: Of the work.
        stages: By name, each after those that it needs.
    """

    def __init__(self, *, folder: Path, stages: Mapping[str, TrainingStage]) -> None:
        self.folder, self.stages = folder, stages

    def origin(self, name: str) -> str:
        """A hash of all that a stage's result depends on."""
        stage = self.stages[name]
        return _digest({"settings": _plain(stage.settings), "inputs": self._inputs(stage)})

    def is_done(self, name: str) -> bool:
        """Whether a stage is done; says what is wrong with one that was.

        Raises:
            UserError: when it was trained, or begun, with other settings.
        """
        stage, record = self.stages[name], self._read(name)
        if record is None:
            return False
        changed = _differing(record["settings"], _plain(stage.settings))
        if changed and stage.trained and self._holds_work(name):
            raise UserError(
                f"'{self.folder / name}' was trained with other settings ({', '.join(changed[:SHOWN])}): choose "
                "another task.work_dir, the same settings, or delete that folder to train it again."
            )
        if changed or record["inputs"] != self._inputs(stage):
            log.warning("stage %s: done before with other settings or from other files, done again", name)
            return False
        if record["outputs"] is None:
            return False
        lost = [path for path, digest in record["outputs"].items() if not is_whole(Path(path), digest)]
        if lost:
            log.warning("stage %s: '%s' is lost or damaged, done again", name, lost[0])
            return False
        return True

    def begin(self, name: str) -> None:
        """Notes what a stage is about to be done with; what it left before in its folder goes."""
        for path in (self._read(name) or {}).get("outputs") or {}:
            if Path(path).is_relative_to((self.folder / name).absolute()):
                Path(path).unlink(missing_ok=True)
        self._write(name, None)

    def end(self, name: str) -> None:
        """Notes what a stage left: it is done."""
        files = sorted(path.absolute() for path in self.stages[name].outputs())
        self._write(name, {str(path): file_hash(path) for path in files})

    def check_place(self, name: str, *, option: str) -> None:
        """Refuses to let a stage write into a place that holds what this work did not make, with whatever settings.

        Args:
            name: of the stage.
            option: which says the place.

        Raises:
            UserError: when the place holds something else.
        """
        place, record = self.stages[name].place, self._read(name)
        assert place is not None
        held = place.is_dir() and any(not is_partial(entry) for entry in place.iterdir())
        if held and (record is None or record["place"] != str(place)):
            raise UserError(
                f"'{place}' holds something that was not made from '{self.folder}', which stage '{name}' would "
                f"overwrite: choose another {option}, or delete that folder."
            )

    def _inputs(self, stage: TrainingStage) -> dict[str, str]:
        """A hash of what each stage that a stage needs left; empty for one that left nothing."""
        records = {name: self._read(name) for name in stage.needs}
        return {name: _digest(_named(record["outputs"])) if record else "" for name, record in records.items()}

    def _holds_work(self, name: str) -> bool:
        """Whether there is something to lose in a stage's folder."""
        record = self._read(name)
        return (self.folder / name / CHECKPOINT).exists() or (record is not None and record["outputs"] is not None)

    def _write(self, name: str, outputs: Mapping[str, str] | None) -> None:
        stage = self.stages[name]
        record = {
            "settings": _plain(stage.settings),
            "inputs": self._inputs(stage),
            "outputs": outputs,
            "place": None if stage.place is None else str(stage.place),
        }
        write_bytes(self.folder / name / RECORD, seal(json.dumps(record, indent=2).encode()))

    def _read(self, name: str) -> dict[str, Any] | None:
        file = self.folder / name / RECORD
        try:
            record: dict[str, Any] = json.loads(read_sealed(file))
        except FileNotFoundError:
            return None
        except (OSError, DamagedFileError) as error:
            log.warning("stage %s: '%s' cannot be read (%s), done again", name, file, error)
            return None
        return record


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON would give them back, flat."""
    flat: dict[str, Any] = json.loads(json.dumps(flat_settings(settings)))
    return flat


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _named(outputs: Mapping[str, str] | None) -> list[str] | None:
    """What files hold, wherever they lie."""
    return None if outputs is None else [f"{Path(path).name} {digest}" for path, digest in outputs.items()]


def hash_of_weights(folder: Path, *parts: str) -> str:
    """A hash of the weights of some parts of a model, wherever it lies; that of nothing where there are none."""
    return _hash_of_files(
        (part, path) for part in parts or ("",) for path in sorted((folder / part).glob("*.safetensors"))
    )


def lasting(settings: Any) -> dict[str, Any]:
    """What a stage's result depends on of its settings; of a model to start from, the weights, not the place."""
    found = {key: value for key, value in asdict(settings).items() if key not in INCIDENTAL}
    if found.get("start_from") is not None:
        found["start_from"] = hash_of_weights(Path(found["start_from"]), "unet", "text_encoder")
    return found


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other trainings out of a folder while it lasts.

    Raises:
        UserError: when one is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"Another training is at work in '{folder}': wait for it, or choose another task.work_dir."
        ) from None
    try:
        clear_partials(folder)
        yield
    finally:
        lock.release()


def wait_for_first(*, leads: bool, done: Callable[[], bool]) -> None:
    """Waits until the first process has noted that something is done: the others read what it wrote."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        return
    parent = os.getppid()
    while not leads and not done():
        if os.getppid() != parent:  # whoever started the processes is gone
            raise KeyboardInterrupt
        time.sleep(1.0)


def files_below(folder: Path, *, without: Sequence[str] = ()) -> list[Path]:
    """All files in a folder and below, but those of the given names."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in without]


def hash_of_shards(folder: Path) -> str:
    """A hash of the frames in a folder and of their records; that of nothing where there are none."""
    return _hash_of_files((path.name, path) for path in sorted(folder.glob("shard-*")))


def _hash_of_files(files: Iterable[tuple[str, Path]]) -> str:
    """A hash of files, each with a name."""
    total = hashlib.sha256()
    for name, path in files:
        total.update(f"{name} {file_hash(path)}\n".encode())
    return total.hexdigest()


def load(file: Path) -> Any:
    """What `save` wrote.

    Raises:
        UserError: when the file is missing or damaged.
    """
    try:
        return torch.load(io.BytesIO(read_sealed(file)), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{file} is missing: run stage '{file.parent.name}' first (task.stages)") from None
    except DamagedFileError as error:
        raise UserError(f"{file} is damaged ({error}): run stage '{file.parent.name}' again (task.stages)") from error


def save(values: Mapping[str, Any] | torch.Tensor, file: Path) -> None:
    """Writes tensors, numbers and mappings of them, whole and sealed."""
    written = io.BytesIO()
    torch.save(values, written)
    write_bytes(file, seal(written.getvalue()))
