"""The images of a run, read once, with duplicates recognised by their content."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.data.collection import CollectedImage, content_hash
from latent_geodesics.data.images import read_image

__all__ = ["Gallery", "read_gallery"]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Images and the different pictures among them.

    Attributes:
        items: The images as they were listed.
        picture: For each of them, which of the pictures it shows.
        pictures: The different pictures in [0, 1], in the order in which they first appear.
        contents: What names each picture.
    """

    items: tuple[CollectedImage, ...]
    picture: tuple[int, ...]
    pictures: Float[Tensor, "m 3 h w"]
    contents: tuple[str, ...]


def read_gallery(items: Sequence[CollectedImage], *, size: tuple[int, int]) -> Gallery:
    """Reads images at one size, (height, width) in pixels.

    Raises:
        UserError: when a file is no image that can be read.
    """
    number: dict[str, int] = {}
    pictures: list[Tensor] = []
    shown: list[int] = []
    for item in items:
        image = read_image(item.file, size=size)
        content = content_hash(image)
        if content not in number:
            number[content] = len(pictures)
            pictures.append(image)
        shown.append(number[content])
    return Gallery(items=tuple(items), picture=tuple(shown), pictures=torch.stack(pictures), contents=tuple(number))
