"""What a picture looks like to a person who opens its file: one rule for stills and for the frames of films.

A picture is turned as its file says, transparency shows white, grey levels of more than eight bits are scaled by what
the file's kind says is white (never by what the picture holds), and embedded colour profiles are followed to sRGB.
"""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from latent_geodesics.core.errors import UserError

TIFF_BITS, TIFF_PHOTOMETRIC, EXIF_ORIENTATION = 258, 262, 274
WHITE_IS_ZERO = 0
TURNED = (5, 6, 7, 8)
SIXTEEN_BITS = 65535
GREY_MODES = ("1", "L", "LA", "La")
# What a float may exceed [0, 1] by because it was rounded.
ROUNDING = 1e-4


def shown_size(opened: Image.Image) -> tuple[int, int]:
    """Width and height in pixels once the picture is turned as its file says; the pixels are not read for it."""
    width, height = opened.size
    return (height, width) if opened.getexif().get(EXIF_ORIENTATION) in TURNED else (width, height)


def as_shown(opened: Image.Image, file: Path) -> Image.Image:
    """A picture of any mode as RGB of eight bits.

    Args:
        opened: The picture as Pillow opened it.
        file: Where it is from, for messages.

    Raises:
        UserError: for grey levels without an agreed white (32-bit whole numbers), floats outside [0, 1] or not finite,
            and a colour profile that does not fit the picture.
    """
    picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bits(picture, opened, file)
    profile = opened.info.get("icc_profile")
    grey = picture.mode in GREY_MODES
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if profile:
        return _in_srgb(picture.convert("L") if grey else picture, profile, file)
    return picture.convert("RGB")


def _eight_bits(upright: Image.Image, opened: Image.Image, file: Path) -> Image.Image:
    """Grey levels of more than eight bits as eight; `opened` still knows what kind of file it is from."""
    levels = np.asarray(upright, dtype=np.float64)
    shares = levels / _white(opened, file)
    if not np.isfinite(shares).all() or shares.min() < -ROUNDING or shares.max() > 1 + ROUNDING:
        found = (
            "values that are not finite" if not np.isfinite(shares).all() else f"{levels.min():g} to {levels.max():g}"
        )
        raise UserError(
            f"The image '{file}' holds {found}: pictures of floats must lie in [0, 1], from black to white; scale it, "
            "or save it as PNG of 8 or 16 bits."
        )
    if _tiff_tag(opened, TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:
        shares = 1 - shares
    grey = Image.fromarray((shares.clip(0, 1) * 255).round().astype(np.uint8))
    see_through = opened.info.get("transparency")
    if isinstance(see_through, int):
        grey.putalpha(Image.fromarray(np.where(levels == see_through, 0, 255).astype(np.uint8)))
    return grey


def _white(opened: Image.Image, file: Path) -> float:
    if opened.mode == "F":
        return 1.0
    if opened.mode.startswith("I;16"):
        bits = _tiff_tag(opened, TIFF_BITS)
        return 2.0 ** bits[0] - 1 if bits else SIXTEEN_BITS
    if opened.format in ("PPM", "PNG"):  # Pillow reads their 16 bits as 32, scaled to 16
        return SIXTEEN_BITS
    raise UserError(
        f"The image '{file}' holds whole numbers with a sign or of 32 bits, for which no white is agreed: save it as "
        "PNG of 8 or 16 bits."
    )


def _tiff_tag(opened: Image.Image, tag: int) -> Any:
    tags = getattr(opened, "tag_v2", None)
    return None if tags is None else tags.get(tag)


def _in_srgb(picture: Image.Image, profile: bytes, file: Path) -> Image.Image:
    """Colours as the embedded profile means them."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space == "RGB ":
            picture = picture.convert("RGB")
        changed = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise UserError(
            f"The colour profile in the image '{file}' cannot be used ({error}): save the image again as sRGB."
        ) from error
    assert changed is not None
    return changed


def fitted(picture: Image.Image, size: tuple[int, int], *, pixel_aspect: float = 1.0) -> Float[Tensor, "3 h w"]:
    """A picture in [0, 1], cropped around its centre to the wanted proportions and resized (Lanczos).

    Args:
        picture: In RGB.
        size: Height and width of the result in pixels.
        pixel_aspect: Width of the picture's pixels over their height.
    """
    height, width = size
    if math.isclose(pixel_aspect, 1.0):
        resized = ImageOps.fit(picture, (width, height), method=Image.Resampling.LANCZOS, centering=(0.5, 0.5))
    else:
        proportion = width / height / pixel_aspect  # of the part that is kept, in stored pixels
        kept = min(picture.width, picture.height * proportion), min(picture.height, picture.width / proportion)
        left, top = (picture.width - kept[0]) / 2, (picture.height - kept[1]) / 2
        box = (left, top, left + kept[0], top + kept[1])
        resized = picture.resize((width, height), Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.asarray(resized, dtype=np.float32) / 255.0).permute(2, 0, 1).contiguous()
