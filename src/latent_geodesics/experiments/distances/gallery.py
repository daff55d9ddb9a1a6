"""The images of a run, read once, with duplicates recognised by their content."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.data.collection import CollectedImage, content_hash
from latent_geodesics.data.images import read_image


@dataclass(frozen=True, kw_only=True)
class GalleryPicture:
    """One of the different pictures of a gallery, in [0, 1], named by its content; `title` names an image of it."""

    id: str
    title: str
    image: Float[Tensor, "3 h w"]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Images and the different pictures among them.

    Attributes:
        items: The images as they were listed: first the collection, then those of other known changes.
        collected: How many of them are the collection.
        picture: For each of them, which of the pictures it shows.
        pictures: The different pictures, in the order in which they first appear.
    """

    items: tuple[CollectedImage, ...]
    collected: int
    picture: tuple[int, ...]
    pictures: tuple[GalleryPicture, ...]

    @property
    def collection(self) -> tuple[CollectedImage, ...]:
        """The images of the collection."""
        return self.items[: self.collected]

    @property
    def shown(self) -> tuple[int, ...]:
        """The pictures of the collection."""
        return tuple(dict.fromkeys(self.picture[: self.collected]))

    @property
    def images(self) -> Float[Tensor, "m 3 h w"]:
        """All different pictures."""
        return stacked(self.pictures)

    def reference(self, name: str) -> tuple[int, ...]:
        """The picture that an image of the collection shows, or, for `mean`, all that the collection shows."""
        names = [item.id for item in self.collection]
        return self.shown if name == "mean" else (self.picture[names.index(name)],)

    @property
    def families(self) -> dict[str, tuple[int, ...]]:
        """For each family of at least two, the numbers of its items in their order."""
        kin: dict[str, list[int]] = {}
        for number, item in enumerate(self.items):
            if item.family:
                kin.setdefault(item.family, []).append(number)
        return {name: tuple(members) for name, members in kin.items() if len(members) > 1}


def read_gallery(
    collection: Sequence[CollectedImage], others: Sequence[CollectedImage] = (), *, size: tuple[int, int]
) -> Gallery:
    """Reads images at one size, (height, width) in pixels; of the others, the families that the collection lacks.

    Raises:
        UserError: when a file is no image that can be read.
    """
    held = {item.family for item in collection}
    items = (*collection, *(item for item in others if item.family not in held))
    pictures: dict[str, GalleryPicture] = {}
    shown = []
    for item in items:
        image = read_image(item.file, size=size)
        content = content_hash(image)
        pictures.setdefault(content, GalleryPicture(id=content, title=item.id, image=image))
        shown.append(list(pictures).index(content))
    return Gallery(items=items, collected=len(collection), picture=tuple(shown), pictures=tuple(pictures.values()))


def stacked(pictures: Sequence[GalleryPicture]) -> Float[Tensor, "p 3 h w"]:
    """Some pictures as one tensor."""
    return torch.stack([picture.image for picture in pictures])
