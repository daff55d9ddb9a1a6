"""The composed configuration, resolved once, checked, and frozen: the same object is run, written and logged.

It has the keys that its experiment reads and no others; a command that sets another one would change nothing.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.launch import ALONE, RunProcess, find_place

LARGEST_SEED = 2**32 - 1
MOST_PROCESSES = 4

EVERY_RUN = ("task", "trainer", "logger", "seed", "output_dir", "expected", "fps", "format")
LOOKS_AT_ALL = "latent_geodesics.run.preflight.Preflight"
"""What stands for another run, whose keys it is given."""
PLURALS = {"density": "densities", "integrator": "integrators", "method": "methods", "velocity": "velocities"}
"""Groups of which a run has several options, and the keys that these lie below."""
_MENTION = re.compile(r"\$\{(?:oc\.select:)?\s*([A-Za-z_]\w*)")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every run has, whatever its task: the rest of the configuration hangs below `task`."""

    seed: int
    output_dir: Path
    task: Mapping[str, Any]
    trainer: Mapping[str, Any]
    logger: Mapping[str, Any]
    expected: Path | None
    resolved: Mapping[str, Any]
    place: RunProcess = ALONE

    def as_yaml(self) -> str:
        """The resolved configuration as YAML."""
        return OmegaConf.to_yaml(OmegaConf.create(dict(self.resolved)))


def processes() -> int:
    """How many processes share a run's pairs fastest: one an accelerator, or one a core up to four; memory adds up.

    `${processes:}` in a configuration.
    """
    from latent_geodesics.models.accelerator import (  # imports torch, and few configurations ask
        accelerators,
        machine_cores,
    )

    return accelerators() or min(machine_cores(), MOST_PROCESSES)


OmegaConf.register_new_resolver("processes", processes, replace=True)


def settle(config: DictConfig) -> Settings:
    """Resolves and checks a composed configuration.

    Raises:
        UserError: for a seed that is no whole number in [0, 2^32), an empty output_dir, a task or logger that names no
            class, or a launcher's processes that are not those of this run.
    """
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    raw = OmegaConf.to_container(config, resolve=False)
    assert isinstance(resolved, dict)
    assert isinstance(raw, dict)
    read = read_keys(raw)
    resolved = {key: value for key, value in resolved.items() if key in read}
    if not str(resolved["output_dir"] or "").strip():
        raise UserError("output_dir is empty, which would be the folder you stand in: name a folder of its own.")
    if not isinstance(resolved.get("trainer"), dict):
        raise UserError("The configuration's `trainer` is empty: choose one of conf/trainer/ by trainer=<name>.")
    place = find_place(resolved["trainer"])
    if is_part_of_a_sweep():
        if place.world > 1:
            raise UserError(f"A sweep cannot be shared by the processes of {place.starter}: start it by itself.")
        # A job of a sweep has a folder of its own.
        resolved["output_dir"] = HydraConfig.get().runtime.output_dir
    if place.folder is not None:
        # Another process of one run must not make a name of its own.
        resolved["output_dir"] = str(place.folder)
    seed = resolved.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed must be a whole number from 0 to {LARGEST_SEED}, got {seed!r}.")
    for node in ("task", "logger"):
        # A node that names no class would be skipped in silence.
        if not isinstance(resolved.get(node), dict) or "_target_" not in resolved[node]:
            raise UserError(
                f"The configuration's `{node}` names no class: choose one of conf/{node}/ by {node}=<name>."
            )
    return Settings(
        seed=seed,
        output_dir=Path(resolved["output_dir"]),
        task=resolved["task"],
        trainer=resolved["trainer"],
        logger=resolved["logger"],
        expected=None if resolved["expected"] is None else Path(resolved["expected"]),
        resolved={str(key): value for key, value in resolved.items()} | {"choices": _choices()},
        place=place,
    )


def _choices() -> dict[str, str]:
    """The option that was chosen of each group, where Hydra composed the configuration."""
    if not HydraConfig.initialized():
        return {}
    chosen = HydraConfig.get().runtime.choices
    return {str(group): str(option) for group, option in chosen.items() if not str(group).startswith("hydra/")}


def is_part_of_a_sweep() -> bool:
    """Whether this run is one job of several, whose expectations are about all of them together."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def flat_settings(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; a list is a value."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flat_settings(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def read_keys(raw: Mapping[Any, Any]) -> set[str]:
    """The keys that every run reads, those that they mention, and so on.

    Args:
        raw: The composed configuration before its interpolations are resolved.
    """
    if _looks_at_all(raw):
        return set(map(str, raw))
    found: set[str] = set()
    waiting = list(EVERY_RUN)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += [name for text in _texts(raw.get(key)) for name in _MENTION.findall(text)]
    return found


def check_read(raw: Mapping[Any, Any]) -> None:
    """Refuses what the command line sets and nothing reads.

    Raises:
        UserError: for the first such key.
    """
    if not HydraConfig.initialized() or _looks_at_all(raw):
        return
    hydra, read = HydraConfig.get(), read_keys(raw)
    for argument in hydra.overrides.task:
        key = re.split(r"[=.@/]", argument.lstrip("+~"), maxsplit=1)[0]
        if key == "experiment" or PLURALS.get(key, key) in read:
            continue
        chosen = hydra.runtime.choices.get("experiment") or hydra.runtime.choices.get("task")
        known = sorted(name for name in read if name in raw or name in PLURALS.values())
        task = raw.get("task")
        # What another experiment takes from its data, such as data.limit, may be an option of this one's own.
        own = [f"task.{name}" for name, value in task.items() if _is_own(name, value)] if isinstance(task, dict) else []
        raise UserError(
            f"Nothing in '{chosen}' reads '{key}', which {argument} sets: leave it out. It reads "
            f"{', '.join([*known, *own])}."
        )


def _is_own(name: Any, value: Any) -> bool:
    """Whether an option of a task is set by its own key alone, and is plain."""
    return name != "_target_" and not isinstance(value, dict) and not (isinstance(value, str) and "${" in value)


def _looks_at_all(raw: Mapping[Any, Any]) -> bool:
    task = raw.get("task")
    return isinstance(task, Mapping) and task.get("_target_") == LOOKS_AT_ALL


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)
