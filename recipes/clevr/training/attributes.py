"""The attribute network's training: frames and seed of its own, so that it judges independently.

Loss, over cells (see `latent_geodesics.models.attributes`): the focal loss of objects as points on the centre
map, whose target is 1 in an object's cell and a Gaussian around it; and in the objects' cells cross entropies
of the attributes and L1 of the offset (in cells) and of the place on the floor (in world units, weight 0.1).

References: Zhou et al., Objects as points, 2019, arXiv 1904.07850.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from latent_geodesics.models.attributes import AttributeNetwork, AttributeNetworkConfig, CellMaps, DetectedObject
from recipes.clevr.rendering.scene import COLORS, MATERIALS, SHAPES, SIZES
from recipes.clevr.training.fit import BudgetedModule, TrainingSettings
from recipes.clevr.training.frames import Frames, as_unit

ALL_NAMES = ("color", "shape", "size", "material")
_SPREAD = 0.7  # cells: width of the Gaussian around a centre


@dataclass(frozen=True, kw_only=True)
class AttributeSettings(TrainingSettings):
    """What the attribute network is and how it is trained.

    Args (those of `TrainingSettings`, and):
        widths: channels at full, half and quarter resolution.
        blocks: residual blocks at quarter resolution.
        jitter: half width of the random change of brightness and contrast; five times the width of the pixel noise.
    """

    widths: tuple[int, int, int] = (24, 48, 96)
    blocks: int = 3
    lr: float = 2e-3
    weight_decay: float = 0.05
    jitter: float = 0.1


@dataclass(frozen=True)
class _Targets:
    """Where the objects are in a batch: image, row and column of each, and what is true of it."""

    image: Int64[Tensor, " m"]
    row: Int64[Tensor, " m"]
    column: Int64[Tensor, " m"]
    offset: Float[Tensor, "m 2"]
    place: Float[Tensor, "m 2"]
    labels: dict[str, Int64[Tensor, " m"]]


def build_network(settings: AttributeSettings) -> AttributeNetwork:
    """An untrained network for CLEVR's attributes."""
    names = {"color": list(COLORS), "shape": list(SHAPES), "size": list(SIZES), "material": list(MATERIALS)}
    full, half, quarter = settings.widths
    config = AttributeNetworkConfig(attributes=names, widths=(full, half, quarter), blocks=settings.blocks)
    return AttributeNetwork(config=config)


class AttributeTraining(BudgetedModule):
    """Trains an `AttributeNetwork` on frames.

    Args (those of `BudgetedModule`, and):
        frames: to train on.
        held_out: for the reported accuracy.
    """

    settings: AttributeSettings

    def __init__(
        self, *, settings: AttributeSettings, frames: Frames, held_out: Frames, seed: int, folder: Path
    ) -> None:
        super().__init__(settings=settings, samples=len(frames), seed=seed, folder=folder)
        self.network = build_network(settings)
        self.frames, self.held_out = frames, held_out

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """The loss of the batch that belongs to this step."""
        chosen = self.chosen()
        images = self._vary(as_unit(self.frames.images[chosen]).to(self.device))
        maps = self.network(images)
        targets = self._targets([self.frames.records[int(index)] for index in chosen], maps)
        parts = _losses(maps, targets)
        loss = torch.stack(list(parts.values())).sum()
        self.log_dict({f"attributes/{name}": value for name, value in parts.items()})
        self.log("attributes/loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Now and then: held-out accuracy."""
        if self.global_step % self.settings.save_every == 0 and self.trainer.is_global_zero:
            self.network.eval()
            for name, value in measure_network(self.network, self.held_out).items():
                self.log(name, value, rank_zero_only=True)
            self.network.train()
        super().on_train_batch_end(outputs, batch, batch_idx)

    def _vary(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        width, generator = self.settings.jitter, self.generator()
        draw = 1 + width * (2 * torch.rand(2, len(images), 1, 1, 1, generator=generator) - 1).to(images)
        noise = torch.randn(images.shape, generator=generator).to(images) * width / 5
        strength = torch.rand(len(images), 1, 1, 1, generator=generator).to(images)
        return (((images - 0.5) * draw[0] + 0.5) * draw[1] + strength * noise).clamp(0, 1)

    def _targets(self, records: Sequence[dict[str, Any]], maps: CellMaps) -> _Targets:
        rows, columns = maps.centre.shape[1:]
        pairs = [
            (number, item, placed)
            for number, record in enumerate(records)
            for item, placed in zip(record["objects"], record["scene"]["objects"], strict=True)
        ]
        scaled = torch.tensor([[item["pixel"][0] * columns, item["pixel"][1] * rows] for _, item, _ in pairs])
        cells = scaled.floor().clamp(min=0)
        known = self.network.config.attributes
        return _Targets(
            image=torch.tensor([number for number, _, _ in pairs]).to(self.device),
            row=cells[:, 1].long().clamp(max=rows - 1).to(self.device),
            column=cells[:, 0].long().clamp(max=columns - 1).to(self.device),
            offset=(scaled - cells).to(self.device),
            place=torch.tensor([placed["position"][:2] for _, _, placed in pairs]).to(self.device),
            labels={
                name: torch.tensor([values.index(item[name]) for _, item, _ in pairs]).to(self.device)
                for name, values in known.items()
            },
        )


def measure_network(network: AttributeNetwork, frames: Frames) -> dict[str, float]:
    """Shares of frames in which all objects are found, none is invented, and the named attributes of all are right."""
    found = network.detect(as_unit(frames.images).to(next(network.parameters()).device))
    return {
        "attributes/accuracy_color_shape": confirmed_share(frames.records, found),
        "attributes/accuracy_all": confirmed_share(frames.records, found, ALL_NAMES),
    }


def _losses(maps: CellMaps, targets: _Targets) -> dict[str, Float[Tensor, ""]]:
    objects = (targets.image, slice(None), targets.row, targets.column)
    losses = {"centre": _focal(maps.centre.float(), _heat(maps, targets)) / len(targets.image)}
    losses["offset"] = functional.l1_loss(maps.offset[objects].float().sigmoid(), targets.offset)
    losses["place"] = 0.1 * functional.l1_loss(maps.place[objects].float(), targets.place)
    for name, labels in targets.labels.items():
        losses[name] = functional.cross_entropy(maps.logits[name][objects].float(), labels)
    return losses


def _heat(maps: CellMaps, targets: _Targets) -> Float[Tensor, "n i j"]:
    rows, columns = maps.centre.shape[1:]
    i, j = torch.arange(rows, device=targets.row.device), torch.arange(columns, device=targets.row.device)
    far = (i[:, None] - targets.row[:, None, None]) ** 2 + (j - targets.column[:, None, None]) ** 2
    bumps = torch.exp(-far / (2 * _SPREAD**2))
    heat = torch.zeros(maps.centre.shape, device=bumps.device)
    for image, bump in zip(targets.image.tolist(), bumps, strict=True):
        heat[image] = torch.maximum(heat[image], bump)
    return heat


def _focal(logits: Float[Tensor, "n i j"], heat: Float[Tensor, "n i j"]) -> Float[Tensor, ""]:
    probability = logits.sigmoid()
    hit = (1 - probability) ** 2 * functional.logsigmoid(logits)
    miss = (1 - heat) ** 4 * probability**2 * functional.logsigmoid(-logits)
    return -torch.where(heat == 1, hit, miss).sum()


def confirmed_share(
    records: Sequence[Mapping[str, Any]],
    seen: Sequence[Sequence[DetectedObject]],
    names: Sequence[str] = ("color", "shape"),
) -> float:
    """The share of scenes whose recorded objects are those that are seen; see `confirms`."""
    hits = [confirms(record["objects"], found, names) for record, found in zip(records, seen, strict=True)]
    return sum(hits) / len(hits)


def confirms(
    wanted: Sequence[Mapping[str, Any]], seen: Sequence[DetectedObject], names: Sequence[str] = ("color", "shape")
) -> bool:
    """Whether every wanted object is seen with its attributes `names`, and nothing else is seen."""
    asked = Counter(tuple(item[name] for name in names) for item in wanted)
    return asked == Counter(tuple(getattr(item, name) for name in names) for item in seen)
