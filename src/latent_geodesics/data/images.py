"""Pictures as tensors: any mode and any size in, float32 RGB of one size in [0, 1] out, as a person sees them.

One rule for stills and for the frames of films: a picture is turned as its file says, transparency shows white, grey
levels of more than eight bits are scaled by what the file's kind says is white (never by what the picture holds), and
embedded colour profiles are followed to sRGB. An image of other proportions is cropped around its centre before it is
resized. Deviation: the paper's code stretches both images to a square; a crop keeps shapes as they are.
"""

import io
import math
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from latent_geodesics.core.errors import UserError

TIFF_BITS, TIFF_PHOTOMETRIC, EXIF_ORIENTATION = 258, 262, 274
WHITE_IS_ZERO = 0
TURNED = (5, 6, 7, 8)
SIXTEEN_BITS = 65535
GREY_MODES = ("1", "L", "LA", "La")
# What a float may exceed [0, 1] by because it was rounded.
ROUNDING = 1e-4

SMALLEST_SIDE = 8
MOST_MEGAPIXELS = 89  # above which Pillow warns of files made to fill the memory
REMEDIES = {"image": ("a PNG, JPEG or WebP file", "PNG"), "video": ("an MP4 or a GIF", "MP4")}
# What Pillow raises for files that are damaged, depending on where.
DAMAGE = (OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, IndexError, RuntimeError, struct.error)


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


def check_image(path: str | Path) -> None:
    """Refuses a file that `read_image` would refuse, as far as its first bytes tell: no pixel is read.

    Raises:
        UserError: when the file is missing, empty, not an image, of less than 8 pixels a side or of more than 89
            megapixels.
    """
    path = Path(path)
    _refuse_missing(path)
    with readable(path), Image.open(path) as opened:
        size = shown_size(opened)
    _refuse_sizes(path, size)


def read_image(path: str | Path, *, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """Reads one image file as float32 RGB in [0, 1], as a person sees it who opens the file.

    Grey, palette, CMYK and 16-bit images are converted; transparency is laid over white; the orientation that a camera
    recorded is applied, and so is an embedded colour profile; a centred part of the wanted proportions is cropped and
    resized (Lanczos). Of a file with several pictures it is the first.

    Args:
        path: The file.
        size: Height and width of the result in pixels.

    Raises:
        UserError: when the file is missing, empty, not an image, damaged, of less than 8 pixels a side or of more than
            89 megapixels; when its levels have no agreed white (32-bit whole numbers; floats outside [0, 1] or not
            finite).
    """
    path = Path(path)
    _refuse_missing(path)
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
        _refuse_sizes(name, shown_size(opened))
        picture = as_shown(opened, name)
    return fitted(picture, size)


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"The image '{path}' does not exist or is not a file: give the path of an image file.")
    if path.stat().st_size == 0:
        raise UserError(f"The image '{path}' is empty (0 bytes): give an image file that holds a picture.")


def too_large(name: Path, megapixels: float, *, thing: str = "image") -> UserError:
    """What to say of a picture of so many megapixels; more than are read."""
    return UserError(
        f"The {thing} '{name}' has {megapixels:.0f} megapixels and at most {MOST_MEGAPIXELS} are read: scale it down."
    )


def _refuse_sizes(name: Path, size: tuple[int, int]) -> None:
    if (megapixels := math.prod(size) / 1e6) > MOST_MEGAPIXELS:
        raise too_large(name, megapixels)
    if min(size) < SMALLEST_SIDE:
        raise UserError(
            f"The image '{name}' has {size[0]} x {size[1]} pixels, too few to encode: give one of at least "
            f"{SMALLEST_SIDE} x {SMALLEST_SIDE} pixels."
        )


@contextmanager
def readable(path: Path, *, thing: str = "image") -> Iterator[None]:
    """Turns what Pillow throws while it reads an `image` or a `video` into what the user should read."""
    give, save = REMEDIES[thing]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # who opens it looks at the size
            yield
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        pixels = re.search(r"(\d+) pixels", str(error))
        raise too_large(path, float(pixels.group(1)) / 1e6 if pixels else math.inf, thing=thing) from error
    except UnidentifiedImageError as error:
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
