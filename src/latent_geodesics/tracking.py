"""What a run tells its logger. Weights & Biases is a sink: everything it is told is also on disk in the run's folder.

Facts behind the code: images must reach wandb as uint8 or as files (a float array in [0, 1] becomes a black picture),
and a run that failed must be finished with a non-zero code, else it is shown as finished.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from latent_geodesics.errors import UserError

if TYPE_CHECKING:
    import wandb
    from pytorch_lightning.loggers import Logger

__all__ = ["RunLogger", "SilentRun", "WandbRun", "open_wandb"]

MODES = ("offline", "online", "disabled")
MOST_POINTS = 100


class RunLogger(Protocol):
    """Where a run's curves, pictures, tables and summary go besides the disk."""

    lightning: "Logger | bool"

    def picture(self, name: str, file: Path, *, caption: str = "") -> None:
        """Shows an image file."""
        ...

    def curve(self, name: str, values: Sequence[float], *, against: Sequence[float], axis: str) -> None:
        """Draws `values` against `against`, whose name is `axis`."""
        ...

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Shows a table."""
        ...

    def summary(self, values: Mapping[str, float]) -> None:
        """States the run's final numbers."""
        ...

    def close(self, *, succeeded: bool) -> None:
        """Ends the run."""
        ...


class SilentRun:
    """A logger that is told everything and keeps nothing (`logger.mode=disabled`)."""

    lightning: "Logger | bool" = False

    def picture(self, name: str, file: Path, *, caption: str = "") -> None:
        """Keeps nothing."""

    def curve(self, name: str, values: Sequence[float], *, against: Sequence[float], axis: str) -> None:
        """Keeps nothing."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Keeps nothing."""

    def summary(self, values: Mapping[str, float]) -> None:
        """Keeps nothing."""

    def close(self, *, succeeded: bool) -> None:
        """Has nothing to end."""


class WandbRun:
    """A Weights & Biases run; Lightning's logger shares it, so that training curves land in the same run."""

    def __init__(self, run: "wandb.Run") -> None:
        from pytorch_lightning.loggers import WandbLogger

        self.lightning: Logger | bool = WandbLogger(experiment=run)
        self._run = run
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self._axes: set[str] = set()

    def picture(self, name: str, file: Path, *, caption: str = "") -> None:
        """Logs an image file."""
        import wandb

        self._run.log({name: wandb.Image(str(file), caption=caption or None)})

    def curve(self, name: str, values: Sequence[float], *, against: Sequence[float], axis: str) -> None:
        """Logs a curve point by point against its own axis, so that runs overlay in the workspace.

        A long one is logged at 100 points, its ends among them: each point is a row of the run's history, and the whole
        curve is in the run's folder.
        """
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

        self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def summary(self, values: Mapping[str, float]) -> None:
        """Writes the run's summary."""
        self._run.summary.update(dict(values))

    def close(self, *, succeeded: bool) -> None:
        """Finishes the run, marked failed unless it succeeded."""
        self._run.finish(exit_code=0 if succeeded else 1)


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

    `mode` is offline (no network and no key needed), online, or disabled.

    Raises:
        UserError: for another mode, or when an online run cannot be opened.
    """
    if mode not in MODES:
        raise UserError(f"logger.mode must be one of {', '.join(MODES)}, got '{mode}'.")
    if mode == "disabled":
        return SilentRun()
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
    except (wandb.errors.CommError, wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
        raise UserError(
            f"Weights & Biases cannot be reached ({error}): log in with `wandb login`, or use logger.mode=offline."
        ) from error
    return WandbRun(opened)
