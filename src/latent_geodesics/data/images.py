"""Image files as tensors: any mode and any size in, float32 RGB of one size in [0, 1] out.

An image of other proportions is cropped around its centre before it is resized.
Deviation: the paper's code stretches both images to a square; a crop keeps shapes as they are.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from latent_geodesics.errors import UserError

__all__ = ["as_uint8", "read_image", "to_pil"]

SMALLEST_SIDE = 8


def read_image(path: str | Path, *, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """Reads one image file as float32 RGB in [0, 1].

    Grey, palette and 16-bit images are converted; transparency is laid over white; the orientation that a camera
    recorded is applied; a centred part of the wanted proportions is cropped and resized (Lanczos).

    Args:
        path: The file.
        size: Height and width of the result in pixels.

    Raises:
        UserError: when the file is missing, empty, not an image, damaged, or less than 8 pixels a side.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The image '{path}' does not exist or is not a file: give the path of an image file.")
    if path.stat().st_size == 0:
        raise UserError(f"The image '{path}' is empty (0 bytes): give an image file that holds a picture.")
    try:
        with Image.open(path) as opened:
            picture = _as_rgb(ImageOps.exif_transpose(opened))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(
            f"The file '{path}' is no image that can be read ({error}): give a PNG, JPEG or WebP file."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"The image '{path}' cannot be read ({error}): it may be damaged; save it again as PNG."
        ) from error
    if min(picture.size) < SMALLEST_SIDE:
        width, height = picture.size
        raise UserError(
            f"The image '{path}' has {width} x {height} pixels, too few to encode: give one of at least "
            f"{SMALLEST_SIDE} x {SMALLEST_SIDE} pixels."
        )
    fitted = ImageOps.fit(picture, (size[1], size[0]), method=Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255.0).permute(2, 0, 1).contiguous()


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Any mode as RGB; what is transparent shows white."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float32)
        scale = 65535.0 if values.max() > 255 else 255.0
        picture = Image.fromarray(np.clip(values / scale * 255.0, 0, 255).astype(np.uint8), mode="L")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def as_uint8(images: Float[Tensor, "*b 3 h w"]) -> np.ndarray:
    """Images in [0, 1] as uint8 arrays of shape [*b h w 3], rounded and clipped."""
    scaled = images.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return scaled.movedim(-3, -1).cpu().numpy()


def to_pil(image: Float[Tensor, "3 h w"]) -> Image.Image:
    """One image in [0, 1] as a Pillow image."""
    return Image.fromarray(as_uint8(image))
