"""How far the objects of a sequence are from those of the true frames: in place, colour and size, and in number.

The objects of a frame and of the true frame are seen by the same means and matched by place. Means are over the objects
that are matched; the others are counted.

- `truth_place`: distance of the centres, in pixels;
- `truth_color`: root mean square difference of the colours over the channels, in [0, 1];
- `truth_radius`: |log(r / r_true)|, so that 0.1 is ten per cent; NaN where a radius cannot be told (grey objects);
- `truth_missed`, `truth_extra`: how many objects of the true frame the frame lacks, and how many it has besides.

The attribute network finds the objects; colour and size, which it only names, are measured in the image:

- colour: the median of the 5 x 5 pixels around the centre, RGB in [0, 1];
- radius: `sqrt(area / pi)` in pixels of the patch of the object's chroma around its centre. With chroma
  `c(x) = (rgb - mean rgb) / mean rgb`, which shadows leave as it is, a pixel belongs to it when it is nearer to the
  object's chroma than 0.6 of the object's distance from the floor's, the median along the border. An object without a
  colour of its own (a grey one) has no chroma to tell it from the floor by, and no radius.

On the true frames of the shipped pairs the centre is off by 0.2 pixels (median), and the radius goes with the true one
within a per cent (spheres); cylinders and cubes look larger than their radius by a factor that does not change along
a motion.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from latent_geodesics.metrics.base import Column, FrameMetric, RunFacts
from latent_geodesics.metrics.measured import MeasuredMorph
from latent_geodesics.metrics.networks import network_hash
from latent_geodesics.metrics.perceptual import check_truth
from latent_geodesics.models.attributes import AttributeNetwork, shared_network

PATCH = 2
NEAR = 0.6
LEAST_CONTRAST = 0.1
DARKEST = 0.05


@dataclass(frozen=True, kw_only=True)
class SeenObject:
    """An object that an image shows."""

    pixel: tuple[float, float]  # (x, y) of the centre in the image, in [0, 1]^2, y down
    rgb: tuple[float, float, float]  # its colour, in [0, 1]
    radius: float  # of a disc of the area that it covers, in pixels; NaN where that cannot be told
    color: str  # the network's name for its colour


def see_objects(network: AttributeNetwork, images: Float[Tensor, "n 3 h w"]) -> list[list[SeenObject]]:
    """The objects that each image in [0, 1] shows, the most certain first."""
    arrays = images.detach().float().cpu().permute(0, 2, 3, 1).numpy().astype(float)
    return [
        [_seen(array, found.pixel, found.color) for found in objects]
        for array, objects in zip(arrays, network.detect(images.detach().float().cpu()), strict=True)
    ]


def match(found: Sequence[tuple[float, float]], wanted: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    """Which of the found places is which of the wanted ones: the assignment of least total distance (Kuhn 1955)."""
    if not found or not wanted:
        return []
    cost = np.array([[math.dist(place, other) for other in wanted] for place in found])
    rows, columns = linear_sum_assignment(cost)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


class AttributeErrors(FrameMetric):
    """Errors of scene attributes, seen by the network of a folder, against the true frames: see the module's text."""

    columns: ClassVar = {
        "truth_place": Column(title="place error, pixels", better="lower"),
        "truth_color": Column(title="colour error", better="lower"),
        "truth_radius": Column(title="size error, log ratio", better="lower"),
        "truth_missed": Column(title="objects missed a frame", better="lower"),
        "truth_extra": Column(title="objects too many a frame", better="lower"),
    }

    def __init__(self, *, network: str) -> None:
        super().__init__()
        self.network = shared_network(network)
        self.folder = Path(network)

    def per_frame(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, "p n"]]:  # noqa: D102
        frames = measured.morph.frames
        found = {name: torch.full(frames.shape[:2], torch.nan) for name in self.columns}
        width = frames.shape[-1]
        for row, sequence in enumerate(frames):
            truth = measured.truth(row)
            if truth is None:
                continue
            pairs = zip(see_objects(self.network, sequence), see_objects(self.network, truth), strict=True)
            for number, (seen, true) in enumerate(pairs):
                for name, value in object_errors(seen, true, width=width).items():
                    found[name][row, number] = value
        return found

    @property
    def weights(self) -> Mapping[str, str]:  # noqa: D102
        return {"attributes_clevr": network_hash(self.folder)}

    def check(self, facts: RunFacts) -> None:  # noqa: D102
        check_truth(self, facts)


def object_errors(seen: Sequence[SeenObject], true: Sequence[SeenObject], *, width: int) -> dict[str, float]:
    """The columns of one frame, `width` pixels wide; NaN where nothing is matched."""
    pairs = match([item.pixel for item in seen], [item.pixel for item in true])
    places = [width * math.dist(seen[i].pixel, true[j].pixel) for i, j in pairs]
    colors = [math.dist(seen[i].rgb, true[j].rgb) / math.sqrt(3) for i, j in pairs]
    radii = [abs(math.log(seen[i].radius / true[j].radius)) for i, j in pairs]
    return {
        "truth_place": _mean(places),
        "truth_color": _mean(colors),
        "truth_radius": _mean(radii),
        "truth_missed": float(len(true) - len(pairs)),
        "truth_extra": float(len(seen) - len(pairs)),
    }


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _seen(image: Float[np.ndarray, "h w 3"], pixel: tuple[float, float], color: str) -> SeenObject:
    height, width, _ = image.shape
    row, column = min(int(pixel[1] * height), height - 1), min(int(pixel[0] * width), width - 1)
    red, green, blue = (float(value) for value in np.median(_around(image, row, column).reshape(-1, 3), axis=0))
    return SeenObject(pixel=pixel, rgb=(red, green, blue), radius=_radius(image, row, column), color=color)


def _radius(image: Float[np.ndarray, "h w 3"], row: int, column: int) -> float:
    mean = image.mean(-1, keepdims=True)
    chroma = (image - mean) / np.maximum(mean, DARKEST)
    border = np.concatenate([chroma[0], chroma[-1], chroma[:, 0], chroma[:, -1]])
    own = np.median(_around(chroma, row, column).reshape(-1, 3), axis=0)
    contrast = float(np.linalg.norm(own - np.median(border, axis=0)))
    if contrast < LEAST_CONTRAST:
        return math.nan
    alike: Bool[np.ndarray, "h w"] = np.linalg.norm(chroma - own, axis=-1) < NEAR * contrast
    parts, _ = ndimage.label(alike)
    near = _around(parts, row, column)
    near = near[near > 0]
    if not len(near):
        return math.nan
    area = ndimage.binary_fill_holes(parts == np.bincount(near).argmax()).sum()
    return math.sqrt(float(area) / math.pi)


def _around(values: np.ndarray, row: int, column: int) -> np.ndarray:
    """The values at most two rows and columns away."""
    return values[max(row - PATCH, 0) : row + PATCH + 1, max(column - PATCH, 0) : column + PATCH + 1]
