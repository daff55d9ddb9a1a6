"""The folder of a run: claimed by one run at a time, gone on with by the same one, never mixed with another."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from latent_geodesics.config import Settings, flat_settings
from latent_geodesics.errors import UserError
from latent_geodesics.files import write_text

__all__ = ["claimed"]

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
    try:
        before = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"'{folder / CONFIG}' cannot be read ({error}): choose another output_dir.") from error
    changed = _differences(before, OmegaConf.to_container(OmegaConf.create(settings.as_yaml())))
    if changed:
        named = ", ".join(changed[:SHOWN]) + (" and others" if len(changed) > SHOWN else "")
        raise UserError(
            f"The output folder '{folder}' holds an unfinished run with other settings ({named}): choose another "
            "output_dir, or the same settings to go on with it."
        )
    log.info("Going on with the unfinished run in '%s'.", folder)


def _differences(before: Any, now: Any) -> list[str]:
    """The keys in which two configurations differ, what may differ aside."""
    old, new = flat_settings(before), flat_settings(now)
    keys = [key for key in dict.fromkeys([*old, *new]) if key.partition(".")[0] not in INCIDENTAL]
    return [key for key in keys if old.get(key) != new.get(key)]
