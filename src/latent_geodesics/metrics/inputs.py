"""The range in which images are given to a perceptual network: networks do not check it, and sources differ in it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


class InputRange(ABC):
    """Turns images in [0, 1] into what a network is given."""

    words: str
    """The range, for a table's note."""

    @abstractmethod
    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """The images in that range."""


@dataclass(frozen=True)
class SignedRange(InputRange):
    """[-1, 1], which LPIPS was made for."""

    words = "[-1, 1]"

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """2 x - 1."""
        return 2 * images - 1


@dataclass(frozen=True)
class UnitRange(InputRange):
    """[0, 1] as it is, which some published code hands to LPIPS."""

    words = "[0, 1]"

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """The images themselves."""
        return images


@dataclass(frozen=True)
class ImageNetRange(InputRange):
    """Standardised by the mean and the standard deviation of ImageNet's pixels."""

    words = "ImageNet mean and deviation"

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """(x - mean) / deviation, channel by channel."""
        mean = torch.tensor([0.485, 0.456, 0.406], device=images.device)[:, None, None]
        deviation = torch.tensor([0.229, 0.224, 0.225], device=images.device)[:, None, None]
        return (images - mean) / deviation
