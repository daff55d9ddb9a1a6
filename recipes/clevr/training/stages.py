"""What a stage of training was done with and what it left, on disk: by this a later run tells whether it is done.

A stage's record, `stage.json` in its folder, holds its settings, a hash of each stage before it that it was made from,
and the hashes of the files that it wrote. A stage is done if all of that is as it would be now.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.config import flat_settings
from latent_geodesics.run.files import DamagedFileError, file_hash, is_partial, read_sealed, seal, write_bytes
from recipes.clevr.training.checkpoints import CHECKPOINT

if TYPE_CHECKING:
    from latent_geodesics.run.runner import Run

__all__ = ["Stage", "StageRecords"]

log = logging.getLogger(__name__)

RECORD = "stage.json"
SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the training.

    Attributes:
        name: Of its folder, and in the configuration.
        work: What does it.
        settings: All that its result depends on besides earlier stages.
        needs: The earlier stages that it is made from.
        outputs: The files that it left.
        trained: Whether it takes long, so that it is not done again with other settings unasked.
        place: A folder outside its own that it writes into.
    """

    name: str
    work: Callable[["Run"], None]
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

    def __init__(self, *, folder: Path, stages: Mapping[str, Stage]) -> None:
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
        lost = [path for path, digest in record["outputs"].items() if not _is_whole(Path(path), digest)]
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

    def _inputs(self, stage: Stage) -> dict[str, str]:
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


def _is_whole(file: Path, digest: str) -> bool:
    return file.is_file() and file_hash(file) == digest
