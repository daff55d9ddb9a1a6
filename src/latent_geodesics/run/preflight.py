"""Before a long run: what it needs, whether that is here, whether it fits, and how hard its density bends a path."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hydra.utils import instantiate

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.data import ImagePair, read_batch
from latent_geodesics.methods.conditions import power_of_density
from latent_geodesics.models.accelerator import choose_device
from latent_geodesics.models.preflight import Inspection, free_memory, inspect, usual_strength
from latent_geodesics.run.runner import Run

log = logging.getLogger(__name__)

GIGA = 1e9
SMALL = 200e6
"""The weights of a network that a CPU asks in a second."""


class Preflight:
    """Looks at the model and the data that a run would use: `run.py model=sdxl data=morphbench --preflight`.

    Args:
        path_or_name: Where the model is taken from; null for one of random weights.
        device: As `load_model` takes it.
        dtype: As `load_model` takes it.
        settings_of: As `load_model` takes it.
        data: The data; files that are missing are named when it is made.
    """

    def __init__(
        self,
        *,
        path_or_name: Sequence[str] | str | None,
        device: str = "auto",
        dtype: str = "auto",
        settings_of: str | None = None,
        data: Any = None,
    ) -> None:
        self.path_or_name, self.device, self.dtype, self.data = path_or_name, device, dtype, data
        self.settings_of = settings_of

    def run(self, run: Run) -> Mapping[str, float]:
        """Says what is there and what it takes.

        Raises:
            UserError: when something is missing, or the weights do not fit the memory at hand.
        """
        summary: dict[str, float] = {}
        if self.path_or_name is not None:
            found = inspect(self.path_or_name, device=self.device, dtype=self.dtype, settings_of=self.settings_of)
            summary = self._weigh(found) | self._strength(found, run.config)
        items: Sequence[Any] = getattr(self.data, "pairs", None) or getattr(self.data, "videos", None) or ()
        log.info("Data: %s, whose files are all there.", counted(len(items), "item"))
        return summary | {"preflight/items": float(len(items))}

    def _strength(self, found: Inspection, config: Mapping[str, Any]) -> dict[str, float]:
        """How hard the density bends the path between the first pair of images, where that takes seconds."""
        pairs: Sequence[ImagePair] = getattr(self.data, "pairs", None) or ()
        if not pairs:
            return {}
        if choose_device(self.device).type == "cpu" and found.numbers > SMALL:
            log.info("Strength: not measured, since a network of this size takes minutes for it on a CPU.")
            return {}
        model = instantiate(config["model"], _convert_="all")
        alpha = power_of_density(alpha_d=config["alpha_d"], alpha=config["alpha"], dimension=model.dimension)
        batch = read_batch(pairs[:1], size=model.image_size)
        strength = usual_strength(
            model,
            torch.cat([batch.images_a, batch.images_b]),
            [pairs[0].prompt_a, pairs[0].prompt_b],
            score=instantiate(config["score"], _convert_="all"),
            tau=config["tau"],
            alpha=alpha,
        )
        log.info(
            "Strength: alpha mean|P s| L is at most about %.2g on the pair %s at tau = %g, alpha = %.3g; the larger, "
            "the farther a geodesic is from a great circle, and the more evaluations it takes.",
            strength, pairs[0].id, config["tau"], alpha,
        )  # fmt: skip
        return {"preflight/strength": strength}

    def _weigh(self, found: Inspection) -> dict[str, float]:
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
