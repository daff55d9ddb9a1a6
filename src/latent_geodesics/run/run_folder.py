"""The folder of a run: claimed by one run at a time, gone on with by the same one, never mixed with another.

A finished run has `summary.json`, and beside it `files.json` with the sha256 of everything else that it left, by which
a later start tells whether it is whole still. `environment.json` says what its numbers depend on besides the
configuration: versions, commit, machine, weights.
"""

import json
import logging
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.sources import file_hash
from latent_geodesics.run.config import Settings, flat_settings
from latent_geodesics.run.files import clear_partials, is_partial, is_whole, replacing, write_json, write_text

log = logging.getLogger(__name__)

CONFIG, ENVIRONMENT = "config.yaml", "environment.json"
RESULTS, FILES, SUMMARY = "results.csv", "files.json", "summary.json"
IN_FORCE = "in_force"
"""The key of the configuration that says what was chosen by a rule: the device, the precision, the memory layout."""
LOCK, WANDB, LOGS = ".lock", "wandb", ".log"
# What may differ between a run and its continuation.
INCIDENTAL = ("output_dir", "logger", "expected", "trainer", "choices", IN_FORCE)
SHOWN = 3

LIBRARIES = (
    "latent-geodesics",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "hydra-core",
    "diffusers",
    "transformers",
    "wandb",
    "torchmetrics",
    "torch-fidelity",
    "pyiqa",
    "cvvdp",
    "flip-evaluator",
    "lpips",
    "numpy",
)


class InputFiles:
    """The files that a run reads, by their contents: where one changes, the run is another.

    Attributes:
        hashes: Absolute path -> sha256.
    """

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}

    def told(self, source: str | Path) -> str:
        """A text as it is; the hash of a file, which is read once."""
        if isinstance(source, str):
            return source
        place = str(source.resolve())
        if place not in self.hashes:
            self.hashes[place] = file_hash(source)
        return self.hashes[place]

    def add_named(self, described: Any) -> None:
        """Takes in the files that a part of the configuration names, such as a manifest."""
        if isinstance(described, Mapping):
            own = described.get("image_a") is not None  # two images are read in place of a manifest
            self.add_named([value for name, value in described.items() if not (own and name == "manifest")])
        elif isinstance(described, list):
            for part in described:
                self.add_named(part)
        elif isinstance(described, str) and Path(described).is_file():
            self.told(Path(described))


@contextmanager
def claimed(settings: Settings) -> Iterator[Path]:
    """Makes the folder of a run this run's own while the context lasts.

    An empty folder is taken. One that holds an unfinished run of the same configuration is gone on with, and so is a
    finished one of which something is lost; how much of it can be kept is the task's affair. The lock is the system's
    and goes with the process, however that ends.

    Raises:
        UserError: when another process is at work in the folder, or it holds a finished run, another one, or files that
            are no run's.
    """
    folder = settings.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_foreign(folder)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"Another run is at work in '{folder}': wait for it, or choose another output_dir.") from None
    try:
        _check(folder, settings)
        clear_partials(folder)
        write_text(folder / CONFIG, settings.as_yaml())
        yield folder
    finally:
        lock.release()


def complete(folder: Path, summary: Mapping[str, float], *, inputs: Mapping[str, str] | None = None) -> None:
    """Marks the run in a folder as finished.

    Args:
        folder: The run's.
        summary: Its numbers.
        inputs: The files that it read, with their hashes: where one changes, the run is another.
    """
    if inputs:
        environment = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
        write_json(folder / ENVIRONMENT, environment | {"inputs": dict(sorted(inputs.items()))})
    files = [*_files(folder), *(folder / name for name in (CONFIG, ENVIRONMENT) if (folder / name).is_file())]
    digests = {str(file.relative_to(folder)): file_hash(file) for file in files}
    with replacing(folder / SUMMARY) as partial:
        write_json(partial, dict(summary))
        write_json(folder / FILES, digests | {SUMMARY: file_hash(partial)})


def finished(settings: Settings) -> dict[str, float] | None:
    """The summary of the folder's finished run, if there is one, it is whole, and settings and files are the same."""
    folder = settings.output_dir
    if not (folder / SUMMARY).exists() or _changed(folder, settings) or _damage(folder) or _other_inputs(folder):
        return None
    return _summary(folder)


def _check(folder: Path, settings: Settings) -> None:
    if not (folder / CONFIG).exists():
        return
    damage = _damage(folder) if (folder / SUMMARY).exists() else None
    if (folder / SUMMARY).exists() and not damage:
        if not _changed(folder, settings) and (others := _other_inputs(folder)):
            raise UserError(
                f"'{others[0]}' has changed since the run in '{folder}' was made of it: choose another output_dir, or "
                "delete that folder to make it again."
            )
        raise UserError(
            f"The output folder '{folder}' already holds a finished run ({SUMMARY} is there): choose another "
            "output_dir, or delete that folder."
        )
    changed = _changed(folder, settings)
    if changed and not _was_only_begun(folder):
        named = ", ".join(changed[:SHOWN]) + (" and others" if len(changed) > SHOWN else "")
        raise UserError(
            f"The output folder '{folder}' holds an unfinished run with other settings ({named}): choose another "
            "output_dir, or the same settings to go on with it."
        )
    if damage:
        log.warning("The run in '%s' was finished, but '%s' is lost or damaged: it is done again.", folder, damage)
        (folder / SUMMARY).unlink()
    elif not changed:
        log.info("Going on with the unfinished run in '%s'.", folder)


def _refuse_foreign(folder: Path) -> None:
    """Refuses a folder that holds something, but not this project's run."""
    if _is_run(folder):
        return
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name != LOCK and entry.suffix != LOGS)
    if RESULTS in foreign:
        raise UserError(
            f"The output folder '{folder}' already holds a run ({RESULTS} is there): choose another output_dir, or "
            "delete that folder."
        )
    if foreign:
        named = ", ".join(foreign[:SHOWN]) + (" and others" if len(foreign) > SHOWN else "")
        raise UserError(
            f"The output folder '{folder}' holds files that are no run's ({named}), which a run would overwrite: "
            "choose another output_dir."
        )


def _is_run(folder: Path) -> bool:
    """Whether a folder's configuration is one of this project."""
    if not (folder / CONFIG).exists():
        return False
    try:
        config = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    except (YAMLError, OSError, UnicodeDecodeError):
        return True  # perhaps; what reads it next says so
    return isinstance(config, dict) and {"seed", "output_dir", "task"} <= set(config)


def _is_incidental(entry: Path) -> bool:
    """Whether it says nothing of a run's results: what was said, and what is written before anything is done."""
    known = (LOCK, WANDB, CONFIG, ENVIRONMENT)
    return entry.name in known or entry.suffix == LOGS or is_partial(entry)


def _was_only_begun(folder: Path) -> bool:
    """Whether nothing came of a folder's run, so that there is nothing to lose; empty folders are nothing."""
    return all(_is_incidental(entry) or not _holds_files(entry) for entry in folder.iterdir())


def _holds_files(entry: Path) -> bool:
    return entry.is_file() or any(each.is_file() for each in entry.rglob("*"))


def _files(folder: Path) -> Iterator[Path]:
    """What a run left in its folder, without what changes later, what says nothing of its results, and the summary."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and entry.name != WANDB and not (entry / CONFIG).exists() and not is_partial(entry):
            yield from _files(entry)
        elif entry.is_file() and not _is_incidental(entry) and entry.name not in (SUMMARY, FILES):
            yield entry


def _damage(folder: Path) -> str | None:
    """The name of a file of a finished run that is lost or not as it was; None if all is whole."""
    if _summary(folder) is None:
        return SUMMARY
    try:
        known: Mapping[str, str] = json.loads((folder / FILES).read_text(encoding="utf-8"))
        lost = [name for name, digest in known.items() if not is_whole(folder / name, digest)]
    except FileNotFoundError:
        return None  # a run of an earlier version
    except (OSError, ValueError, AttributeError):
        return FILES
    return lost[0] if lost else None


def _other_inputs(folder: Path) -> list[str]:
    """The files that a finished run has read and that hold something else today."""
    try:
        known = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8")).get("inputs", {})
    except (OSError, ValueError):
        return []
    return [name for name, digest in known.items() if Path(name).is_file() and file_hash(Path(name)) != digest]


def _summary(folder: Path) -> dict[str, float] | None:
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


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


def describe_environment(*, seed: int, weights: Mapping[str, str], machinery: Mapping[str, Any]) -> dict[str, Any]:
    """Versions of the libraries, commit and whether it was changed, machine, network, seed, hashes of the weights."""
    from latent_geodesics.models.accelerator import choose_device, device_name, machine_cores, processor

    device = choose_device("auto")
    return {
        "seed": seed,
        "weights": dict(weights),
        "network": dict(machinery),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": _git("status", "--porcelain", "--untracked-files=no") not in ("", None),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": machine_cores(),
        "accelerator": None if device.type == "cpu" else device_name(device),
        "versions": {library: _version(library) for library in LIBRARIES},
    }


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of the checkout that this file lies in, or None outside one."""
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
