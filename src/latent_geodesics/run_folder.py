"""The folder of a run: claimed by one run at a time, gone on with by the same one, never mixed with another."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from latent_geodesics.config import Settings, flat_settings
from latent_geodesics.errors import UserError
from latent_geodesics.files import write_text

__all__ = ["claimed", "finished"]

log = logging.getLogger(__name__)

CONFIG, SUMMARY, RESULTS = "config.yaml", "summary.json", "results.csv"
LOCK = ".lock"
# What may differ between a run and its continuation.
INCIDENTAL = ("output_dir", "logger", "expected", "trainer", "choices")
SHOWN = 3


@contextmanager
def claimed(settings: Settings) -> Iterator[Path]:
    """Makes the folder of a run this run's own while the context lasts.

    An empty folder is taken. One that holds an unfinished run of the same configuration is gone on with; how much of it
    can be kept is the task's affair. The lock is the system's and goes with the process, however that ends.

    Raises:
        UserError: when another process is at work in the folder, or it holds a finished run, or another one.
    """
    folder = settings.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"Another run is at work in '{folder}': wait for it, or choose another output_dir.") from None
    try:
        _check(folder, settings)
        write_text(folder / CONFIG, settings.as_yaml())
        yield folder
    finally:
        lock.release()


def finished(settings: Settings) -> dict[str, float] | None:
    """The summary of the folder's finished run, if there is one and its settings were the same."""
    folder = settings.output_dir
    if not (folder / SUMMARY).exists() or _changed(folder, settings):
        return None
    summary: dict[str, float] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return summary


def _check(folder: Path, settings: Settings) -> None:
    if (folder / SUMMARY).exists():
        raise UserError(
            f"The output folder '{folder}' already holds a finished run ({SUMMARY} is there): choose another "
            "output_dir, or delete that folder."
        )
    if not (folder / CONFIG).exists():
        if (folder / RESULTS).exists():
            raise UserError(
                f"The output folder '{folder}' already holds a run ({RESULTS} is there): choose another output_dir, or "
                "delete that folder."
            )
        return
    changed = _changed(folder, settings)
    if changed:
        named = ", ".join(changed[:SHOWN]) + (" and others" if len(changed) > SHOWN else "")
        raise UserError(
            f"The output folder '{folder}' holds an unfinished run with other settings ({named}): choose another "
            "output_dir, or the same settings to go on with it."
        )
    log.info("Going on with the unfinished run in '%s'.", folder)


def _changed(folder: Path, settings: Settings) -> list[str]:
    """The keys in which the settings differ from those of the folder's run, what may differ aside."""
    try:
        before = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    except (YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{folder / CONFIG}' cannot be read ({error}): choose another output_dir.") from error
    now = OmegaConf.to_container(OmegaConf.create(settings.as_yaml()))
    old, new = flat_settings(before), flat_settings(now)
    keys = [key for key in dict.fromkeys([*old, *new]) if key.partition(".")[0] not in INCIDENTAL]
    return [key for key in keys if old.get(key) != new.get(key)]
