"""Reading image files: every mode and size is handled, every damaged file is refused in one sentence."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from latent_geodesics import UserError
from latent_geodesics.data import read_image
from latent_geodesics.data.images import as_uint8, check_image


def gradient(mode, size=(40, 30)):
    ramp = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3).astype(np.uint8)
    return Image.fromarray(ramp).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "F"])
@pytest.mark.parametrize("size", [(40, 30), (16, 64), (8, 8)])
def test_any_mode_and_size_becomes_rgb_in_the_unit_interval(tmp_path, mode, size):
    file = tmp_path / ("image.tiff" if mode in ("F", "CMYK", "YCbCr", "LA") else "image.png")
    picture = gradient("L" if mode in ("LA", "F") else mode, size).convert(mode)
    (picture.point(lambda grey: grey * (1 / 255) + 0) if mode == "F" else picture).save(file)
    image = read_image(file, size=(16, 24))
    assert image.shape == (3, 16, 24)
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.max() - image.min() > 0.1


def test_transparency_shows_white(tmp_path):
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert torch.equal(read_image(tmp_path / "clear.png", size=(8, 8)), torch.ones(3, 8, 8))


def test_sixteen_bits_keep_their_range(tmp_path):
    Image.fromarray(np.full((16, 16), 32768, dtype=np.uint16)).save(tmp_path / "deep.png")
    torch.testing.assert_close(
        read_image(tmp_path / "deep.png", size=(8, 8)).mean(), torch.tensor(0.5), atol=0.01, rtol=0
    )


def test_a_crop_keeps_shapes(tmp_path):
    picture = Image.new("RGB", (64, 32))
    picture.paste((255, 255, 255), (24, 8, 40, 24))
    picture.save(tmp_path / "wide.png")
    seen = read_image(tmp_path / "wide.png", size=(32, 32))[0] > 0.5
    assert seen.any(0).sum() == seen.any(1).sum() == 16


def test_an_orientation_that_a_camera_recorded_is_applied(tmp_path):
    picture = Image.new("RGB", (32, 32))
    picture.paste((255, 255, 255), (0, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 3
    picture.save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png", size=(32, 32))[:, 24:].mean() > 0.9


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), (b"", "empty"), (b"not a picture", "no image"), ("truncated", "cannot be read")],
)
def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path, content, words):
    file = tmp_path / "picture.png"
    if content == "truncated":
        gradient("RGB", (200, 200)).save(file)
        content = file.read_bytes()[: file.stat().st_size // 2]
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=words) as refused:
        read_image(file, size=(8, 8))
    assert "picture.png" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_pixel_is_too_few(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(UserError, match="1 x 1"):
        read_image(tmp_path / "dot.png", size=(8, 8))


def test_a_picture_that_fills_the_memory_is_refused_before_its_pixels_are_read(tmp_path, recwarn):
    vast = tmp_path / "vast.png"
    Image.new("1", (10_000, 11_000)).save(vast)
    for look in (check_image, partial(read_image, size=(16, 16))):
        with pytest.raises(UserError, match="'.*vast.png' has 110 megapixels and at most 89 are read: scale it down"):
            look(vast)
    assert not recwarn


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(UserError, match="not a file"):
        read_image(tmp_path, size=(8, 8))


def test_uint8_round_trip():
    levels = torch.arange(256) / 255
    image = levels.expand(3, 4, 256)
    assert (as_uint8(image)[..., 0] == np.arange(256)).all()
