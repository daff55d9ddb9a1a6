"""A small network that reads CLEVR scenes: which objects are where, and features for a perceptual distance.

Fully convolutional, image [3 h w] in [0, 1] -> a map of cells four pixels wide. Every cell holds the logit that
an object's centre lies in it and, for that object, the offset of the centre in the cell, its place on the floor
and the logits of colour, shape, size and material. Objects are the local maxima of the first map above a
threshold ("objects as points").

`perceptual_clevr`, the distance of two images a, b, with F_l the feature maps, each place's channels scaled to
unit length:

    D(a, b) = sum over l of the mean over places of |F_l(a) - F_l(b)|^2.

It is LPIPS' formula with unit weights and this network in place of an ImageNet one, so its values compare with
each other only.

References: Zhou et al., Objects as points, 2019, arXiv 1904.07850; Zhang et al., The unreasonable effectiveness
of deep features as a perceptual metric, 2018, arXiv 1801.03924.
"""

import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from latent_geodesics.core.errors import UserError, is_out_of_memory

CELL = 4  # pixels: the side of a cell
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class DetectedObject:
    """One object that the network sees."""

    color: str  # name of its colour
    shape: str  # name of its shape
    size: str  # name of its size
    material: str  # name of its material
    position: tuple[float, float]  # (x, y) of the centre on the floor, world units
    pixel: tuple[float, float]  # (x, y) of the centre in the image, in [0, 1]^2, y down
    confidence: float  # that an object is there, in (0, 1)


@dataclass(frozen=True, kw_only=True)
class AttributeNetworkConfig:
    """Shape of the network and the names of what it tells apart."""

    attributes: dict[str, list[str]]  # names of the values of `color`, `shape`, `size` and `material`
    widths: tuple[int, int, int] = (24, 48, 96)  # channels at full, half and quarter resolution
    blocks: int = 3  # residual blocks at quarter resolution
    threshold: float = 0.4  # confidence above which a local maximum is an object, in (0, 1)

    def __post_init__(self) -> None:
        if list(self.attributes) != ["color", "shape", "size", "material"]:
            raise ValueError(
                f"attributes must be color, shape, size, material in this order, got {list(self.attributes)}"
            )
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must lie in (0, 1), got {self.threshold}")


@dataclass(frozen=True)
class CellMaps:
    """What the network says of each cell; the names are those of the module's docstring."""

    centre: Float[Tensor, "n i j"]
    offset: Float[Tensor, "n 2 i j"]
    place: Float[Tensor, "n 2 i j"]
    logits: dict[str, Float[Tensor, "n k i j"]] = field(default_factory=dict)


class AttributeNetwork(nn.Module):
    """The network of a configuration; `from_folder` loads a trained one."""

    def __init__(self, *, config: AttributeNetworkConfig) -> None:
        super().__init__()
        self.config = config
        full, half, quarter = config.widths
        self.stages = nn.ModuleList(
            [
                _conv(3, full, stride=1),
                nn.Sequential(_conv(full, half, stride=2), _Residual(half)),
                nn.Sequential(_conv(half, quarter, stride=2), *(_Residual(quarter) for _ in range(config.blocks))),
            ]
        )
        self.sections = [1, 2, 2, *(len(names) for names in config.attributes.values())]
        self.head = nn.Sequential(_conv(quarter, quarter, stride=1), nn.Conv2d(quarter, sum(self.sections), 1))

    @classmethod
    def from_folder(cls, folder: str | Path) -> "AttributeNetwork":
        """The network that `save` wrote, in float32 and evaluation mode; a `UserError` when a file cannot be read."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        for name in (_CONFIG, _WEIGHTS):
            if not (folder / name).is_file():
                raise UserError(f"{folder} holds no {name}: give the folder of a trained attribute network")
        try:
            record = json.loads((folder / _CONFIG).read_text())
            network = cls(config=AttributeNetworkConfig(**(record | {"widths": tuple(record["widths"])})))
            network.load_state_dict({name: value.float() for name, value in load_file(folder / _WEIGHTS).items()})
        except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            if is_out_of_memory(error):
                raise
            raise UserError(f"{folder} is no attribute network ({error}): restore its files") from error
        return network.eval().requires_grad_(False)

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and half-precision `model.safetensors`."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _CONFIG).write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        halves = {
            name: value.half() if value.is_floating_point() else value for name, value in self.state_dict().items()
        }
        save_file(halves, folder / _WEIGHTS)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c i j"]]:
        """The feature maps of images in [0, 1] at full, half and quarter resolution; differentiable."""
        maps, x = [], 2 * images - 1
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> CellMaps:
        """What the network says of each cell of images in [0, 1], sides multiples of four pixels."""
        if images.shape[-1] % CELL or images.shape[-2] % CELL:
            raise ValueError(f"sides must be multiples of {CELL} pixels, got {tuple(images.shape[-2:])}")
        centre, offset, place, *logits = self.head(self.features(images)[-1]).split(self.sections, dim=1)
        return CellMaps(centre[:, 0], offset, place, dict(zip(self.config.attributes, logits, strict=True)))

    def detect(self, images: Float[Tensor, "n 3 h w"]) -> list[list[DetectedObject]]:
        """The objects of each image in [0, 1], the most confident first."""
        found: list[list[DetectedObject]] = []
        with torch.no_grad():
            for part in torch.split(images, _CHUNK):
                maps = self(part)
                heat = maps.centre.float().sigmoid()
                peak = (heat == functional.max_pool2d(heat, 3, stride=1, padding=1)) & (heat > self.config.threshold)
                found += [
                    self._objects(maps, heat, number, peak[number].nonzero().tolist()) for number in range(len(part))
                ]
        return found

    def perceptual_distance(self, a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """`perceptual_clevr` of images in [0, 1]: 0 for equal ones, at most 12; differentiable."""
        total = torch.zeros(len(a), device=a.device)
        for first, second in zip(self.features(a), self.features(b), strict=True):
            difference = functional.normalize(first, dim=1) - functional.normalize(second, dim=1)
            total = total + difference.square().sum(1).flatten(1).mean(1)
        return total

    def _objects(
        self, maps: CellMaps, heat: Float[Tensor, "n i j"], number: int, cells: list[list[int]]
    ) -> list[DetectedObject]:
        rows, columns = heat.shape[1:]
        objects = []
        for row, column in cells:
            x, y = (float(value) for value in maps.offset[number, :, row, column].sigmoid())
            names = {
                name: self.config.attributes[name][int(logits[number, :, row, column].argmax())]
                for name, logits in maps.logits.items()
            }
            where = (float(maps.place[number, 0, row, column]), float(maps.place[number, 1, row, column]))
            pixel = ((column + x) / columns, (row + y) / rows)
            confidence = float(heat[number, row, column])
            objects.append(DetectedObject(**names, position=where, pixel=pixel, confidence=confidence))
        return sorted(objects, key=lambda item: -item.confidence)


def shared_network(folder: str | Path) -> AttributeNetwork:
    """The network of a folder, loaded once for all that use it; again when its weights have been written anew."""
    weights = Path(folder).resolve() / _WEIGHTS
    return _loaded(weights.parent, weights.stat().st_mtime_ns if weights.is_file() else 0)


@lru_cache(maxsize=4)
def _loaded(folder: Path, written: int) -> AttributeNetwork:
    del written  # tells one version of the files from the next
    return AttributeNetwork.from_folder(folder)


class _Residual(nn.Module):
    """x + two convolutions of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(width, width, stride=1), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Float[Tensor, "n c i j"]) -> Float[Tensor, "n c i j"]:
        """The block's output, same shape."""
        return functional.silu(x + self.layers(x))


def _conv(inward: int, outward: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inward, outward, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outward), nn.SiLU()
    )
