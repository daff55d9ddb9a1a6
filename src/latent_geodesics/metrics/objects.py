r"""What an image of a scene shows: its objects, where they are, their colour and how large they look.

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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from latent_geodesics.models.attributes import AttributeNetwork

PATCH = 2
NEAR = 0.6
LEAST_CONTRAST = 0.1
DARKEST = 0.05


@dataclass(frozen=True, kw_only=True)
class SeenObject:
    """An object that an image shows.

    Attributes:
        pixel: (x, y) of the centre in the image, in [0, 1]^2, y down.
        rgb: Its colour, in [0, 1].
        radius: Of a disc of the area that it covers, in pixels; NaN where that cannot be told.
        color: The network's name for its colour.
    """

    pixel: tuple[float, float]
    rgb: tuple[float, float, float]
    radius: float
    color: str


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


def _seen(image: Float[np.ndarray, "h w 3"], pixel: tuple[float, float], color: str) -> SeenObject:
    height, width, _ = image.shape
    row, column = min(int(pixel[1] * height), height - 1), min(int(pixel[0] * width), width - 1)
    red, green, blue = (float(value) for value in np.median(_around(image, row, column).reshape(-1, 3), axis=0))
    return SeenObject(pixel=pixel, rgb=(red, green, blue), radius=_radius(image, row, column), color=color)


def _radius(image: Float[np.ndarray, "h w 3"], row: int, column: int) -> float:
    """See the module's text."""
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
    """The values at most two pixels away."""
    return values[max(row - PATCH, 0) : row + PATCH + 1, max(column - PATCH, 0) : column + PATCH + 1]
