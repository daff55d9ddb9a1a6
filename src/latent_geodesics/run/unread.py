"""The keys of a configuration that its experiment reads; a command that sets another one would change nothing."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig

from latent_geodesics.core.errors import UserError, near_name

EVERY_RUN = ("task", "trainer", "logger", "seed", "output_dir", "expected", "fps", "format")
LOOKS_AT_ALL = "latent_geodesics.run.preflight.Preflight"
"""What stands for another run, whose keys it is given."""
PLURALS = {"density": "densities", "integrator": "integrators", "method": "methods", "velocity": "velocities"}
"""Groups of which a run has several options, and the keys that these lie below."""
_MENTION = re.compile(r"\$\{(?:oc\.select:)?\s*([A-Za-z_]\w*)")


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
        raise UserError(
            f"Nothing in '{chosen}' reads '{key}', which {argument} sets: leave it out. It reads "
            f"{', '.join(known)}.{near_name(key, known)}"
        )


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
