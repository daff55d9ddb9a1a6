"""What a run tells its logger. Weights & Biases is a sink: everything it is told is also on disk in the run's folder.

Facts behind the code: images must reach wandb as uint8 or as files (a float array in [0, 1] becomes a black picture),
and a run that failed must be finished with a non-zero code, else it is shown as finished. wandb works in a process of
its own, which may die alone; it writes tables below the user's home first, which may be closed to it. Neither may cost
a run its results, so what wandb raises is said once, and nothing more is told to it.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.connection import Connection

if TYPE_CHECKING:
    import wandb
    from pytorch_lightning.loggers import Logger

log = logging.getLogger(__name__)

MODES = ("offline", "online", "disabled")
MOST_POINTS = 100


class RunLogger:
    """Where a run's curves, pictures, tables and summary go besides the disk; this one keeps nothing."""

    lightning: "Logger | bool" = False

    def picture(self, name: str, file: Path, *, caption: str = "") -> None:
        """Shows an image file."""

    def curve(self, name: str, values: Sequence[float], *, against: Sequence[float], axis: str) -> None:
        """Draws `values` against `against`, whose name is `axis`."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Shows a table."""

    def summary(self, values: Mapping[str, float]) -> None:
        """States the run's final numbers."""

    def close(self, *, succeeded: bool) -> None:
        """Ends the run."""


class WandbRun(RunLogger):
    """A Weights & Biases run; Lightning's logger shares it, so that training curves land in the same run."""

    def __init__(self, run: "wandb.Run", *, places: Sequence[str] = ()) -> None:
        from latent_geodesics.run.lightning_logger import LossyWandbLogger

        self._connection = Connection()
        self.lightning: Logger | bool = LossyWandbLogger(run=run, connection=self._connection)
        self._run, self._places = run, places
        self._axes: set[str] = set()
        self._connection.tell(self._define_steps)

    def picture(self, name: str, file: Path, *, caption: str = "") -> None:
        """Logs an image file."""
        import wandb

        self._connection.tell(lambda: self._run.log({name: wandb.Image(str(file), caption=caption or None)}))

    def curve(self, name: str, values: Sequence[float], *, against: Sequence[float], axis: str) -> None:
        """Logs a curve point by point against its own axis, so that runs overlay in the workspace.

        A long one is logged at 100 points, its ends among them: each point is a row of the run's history, and the whole
        curve is in the run's folder.
        """
        self._connection.tell(lambda: self._draw(name, values, against, axis))

    def _draw(self, name: str, values: Sequence[float], against: Sequence[float], axis: str) -> None:
        if name not in self._axes:
            self._run.define_metric(axis)
            self._run.define_metric(name, step_metric=axis)
            self._axes.add(name)
        points = list(zip(against, values, strict=True))
        last, kept = len(points) - 1, min(len(points), MOST_POINTS)
        for index in (round(step * last / max(kept - 1, 1)) for step in range(kept)):
            position, value = points[index]
            self._run.log({axis: position, name: value})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Logs a table."""
        import wandb

        data = [list(row) for row in rows]
        self._connection.tell(lambda: self._run.log({name: wandb.Table(columns=list(columns), data=data)}))

    def summary(self, values: Mapping[str, float]) -> None:
        """Writes the run's summary."""
        self._connection.tell(lambda: self._run.summary.update(dict(values)))

    def close(self, *, succeeded: bool) -> None:
        """Finishes the run, marked failed unless it succeeded."""
        self._connection.tell(lambda: self._run.finish(exit_code=0 if succeeded else 1))
        if self._connection.lost:
            _abandon()
        _leave(self._places)

    def _define_steps(self) -> None:
        self._run.define_metric("trainer/global_step")
        self._run.define_metric("*", step_metric="trainer/global_step", step_sync=True)


def _own_places(folder: Path) -> list[str]:
    """Has wandb keep in the run's folder what it would keep below the user's home; the variables that were set.

    Caches and settings of the user stay where they are, if that can be written to; tables belong to the run.
    """
    home = Path("~").expanduser()
    homes = {
        "DATA": None,
        "CACHE": Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"), "wandb"),
        "CONFIG": Path(os.environ.get("XDG_CONFIG_HOME", home / ".config"), "wandb"),
    }
    moved = []
    for kind, usual in homes.items():
        name = f"WANDB_{kind}_DIR"
        if name not in os.environ and (usual is None or not _can_be_written(usual)):
            os.environ[name] = str((folder / "wandb" / kind.lower()).absolute())
            moved.append(name)
    return moved


def _abandon() -> None:
    """Ends what is left of wandb, which would raise when the program ends; a next run gets a new process of it."""
    import wandb

    try:
        wandb.teardown()
    except Exception as error:  # its process is gone already
        log.debug("Weights & Biases", exc_info=error)


def _leave(places: Sequence[str]) -> None:
    for name in places:
        os.environ.pop(name, None)


def _can_be_written(folder: Path) -> bool:
    """Whether a folder can be made, as wandb would, and written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def open_wandb(
    *,
    folder: Path,
    record: Mapping[str, Any],
    mode: Literal["offline", "online", "disabled"] = "offline",
    project: str = "latent-geodesics",
    group: str | None = None,
    name: str | None = None,
    tags: Sequence[str] = (),
) -> RunLogger:
    """Opens the run's logger, which notes the configuration `record`.

    `mode` is offline (no network and no key needed), online, or disabled. Where an offline one cannot be opened, the
    run goes on without, and a warning says so.

    Raises:
        UserError: for another mode, or when an online run cannot be opened.
    """
    if mode not in MODES:
        raise UserError(f"logger.mode must be one of {', '.join(MODES)}, got '{mode}'.")
    if mode == "disabled":
        return RunLogger()
    places = _own_places(folder)
    import wandb

    try:
        opened = wandb.init(
            name=name,
            project=project,
            group=group,
            tags=list(tags),
            dir=str(folder),
            mode=mode,
            config=dict(record),
            settings=wandb.Settings(console="off", silent=True, init_timeout=60),
        )
    except Exception as error:
        _leave(places)
        if mode == "online":
            raise UserError(
                f"Weights & Biases cannot be reached ({error}): log in with `wandb login`, or use logger.mode=offline."
            ) from error
        log.warning("Weights & Biases cannot be opened (%s): the run goes on without, in its folder.", error)
        log.debug("Weights & Biases", exc_info=error)
        return RunLogger()
    return WandbRun(opened, places=places)
