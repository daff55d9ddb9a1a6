"""Before a long run: what it needs, whether that is here, and whether it fits. Nothing heavy is loaded."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.preflight import free_memory, inspect
from latent_geodesics.run.runner import Run

__all__ = ["Preflight"]

log = logging.getLogger(__name__)

GIGA = 1e9


class Preflight:
    """Looks at the model and the data that a run would use: `run.py model=sdxl data=morphbench --preflight`.

    Args:
        path_or_name: Where the model is taken from; null for one of random weights.
        device: As `load_model` takes it.
        dtype: As `load_model` takes it.
        data: The data; files that are missing are named when it is made.
    """

    def __init__(
        self,
        *,
        path_or_name: Sequence[str] | str | None,
        device: str = "auto",
        dtype: str = "auto",
        data: Any = None,
    ) -> None:
        self.path_or_name, self.device, self.dtype, self.data = path_or_name, device, dtype, data

    def run(self, run: Run) -> Mapping[str, float]:
        """Says what is there and what it takes.

        Raises:
            UserError: when something is missing, or the weights do not fit the memory at hand.
        """
        del run
        summary = {} if self.path_or_name is None else self._weigh(self.path_or_name)
        items: Sequence[Any] = getattr(self.data, "pairs", None) or getattr(self.data, "videos", None) or ()
        log.info("Data: %d items, whose files are all there.", len(items))
        return summary | {"preflight/items": float(len(items))}

    def _weigh(self, path_or_name: Sequence[str] | str) -> dict[str, float]:
        found = inspect(path_or_name, device=self.device, dtype=self.dtype)
        for part in found.parts:
            log.info("%s: %.3f GB, %.1f million numbers", part.name, part.bytes / GIGA, part.numbers / 1e6)
        free = free_memory(self.device)
        log.info(
            "%s in %s: %.3f GB on disk; its weights take %.3f GB of memory with the network in %s, and %s is free.",
            found.family, found.folder, found.bytes / GIGA, found.memory / GIGA, found.precision,
            f"{free / GIGA:.1f} GB" if free else "an unknown amount",
        )  # fmt: skip
        if free and found.memory > free:
            raise UserError(
                f"the model's weights take {found.memory / GIGA:.1f} GB of memory and {free / GIGA:.1f} GB is free: "
                "choose a smaller model, model.dtype=bfloat16, or a device with more memory"
            )
        return {"preflight/disk_gb": found.bytes / GIGA, "preflight/memory_gb": found.memory / GIGA}
