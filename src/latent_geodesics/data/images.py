"""Image files as tensors: any mode and any size in, float32 RGB of one size in [0, 1] out.

An image of other proportions is cropped around its centre before it is resized.
Deviation: the paper's code stretches both images to a square; a crop keeps shapes as they are.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.appearance import as_shown, fitted, shown_size

SMALLEST_SIDE = 8
REMEDIES = {"image": ("a PNG, JPEG or WebP file", "PNG"), "video": ("an MP4 or a GIF", "MP4")}
# What Pillow raises for files that are damaged, depending on where.
DAMAGE = (OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, IndexError, RuntimeError, struct.error)


def read_image(path: str | Path, *, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """Reads one image file as float32 RGB in [0, 1], as a person sees it who opens the file.

    Grey, palette, CMYK and 16-bit images are converted; transparency is laid over white; the orientation that a camera
    recorded is applied, and so is an embedded colour profile; a centred part of the wanted proportions is cropped and
    resized (Lanczos). Of a file with several pictures it is the first.

    Args:
        path: The file.
        size: Height and width of the result in pixels.

    Raises:
        UserError: when the file is missing, empty, not an image, damaged, or less than 8 pixels a side; when its levels
            have no agreed white (32-bit whole numbers; floats outside [0, 1] or not finite).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The image '{path}' does not exist or is not a file: give the path of an image file.")
    if path.stat().st_size == 0:
        raise UserError(f"The image '{path}' is empty (0 bytes): give an image file that holds a picture.")
    with readable(path), Image.open(path) as opened:
        return from_pil(opened, path, size=size)


def from_pil(opened: Image.Image, name: Path, *, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """A picture as Pillow opened or made it, as `read_image` reads a file.

    Args:
        opened: The picture, of any mode.
        name: What messages call it.
        size: Height and width of the result in pixels.

    Raises:
        UserError: as `read_image` does of a picture.
    """
    with readable(name):
        width, height = shown_size(opened)
        picture = as_shown(opened, name)
    if min(width, height) < SMALLEST_SIDE:
        raise UserError(
            f"The image '{name}' has {width} x {height} pixels, too few to encode: give one of at least "
            f"{SMALLEST_SIDE} x {SMALLEST_SIDE} pixels."
        )
    return fitted(picture, size)


@contextmanager
def readable(path: Path, *, thing: str = "image") -> Iterator[None]:
    """Turns what Pillow throws while it reads an `image` or a `video` into what the user should read."""
    give, save = REMEDIES[thing]
    try:
        yield
    except UserError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"The file '{path}' is no {thing} that can be read ({error}): give {give}.") from error
    except DAMAGE as error:
        raise UserError(
            f"The {thing} '{path}' cannot be read ({error}): it may be damaged or cut short; save it again as {save}."
        ) from error


def as_uint8(images: Float[Tensor, "*b 3 h w"]) -> np.ndarray:
    """Images in [0, 1] as uint8 arrays of shape [*b h w 3], rounded and clipped."""
    scaled = images.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return scaled.movedim(-3, -1).cpu().numpy()


def to_pil(image: Float[Tensor, "3 h w"]) -> Image.Image:
    """One image in [0, 1] as a Pillow image."""
    return Image.fromarray(as_uint8(image))


def psnr(found: Float[Tensor, "n 3 h w"], true: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """The peak signal-to-noise ratio of each image in [0, 1], in dB; 100 at most."""
    error = (found.cpu() - true.cpu()).double().square().mean(dim=(1, 2, 3))
    return -10 * error.clamp_min(1e-10).log10()
