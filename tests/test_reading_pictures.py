"""What a person sees who opens an image file is what is read: levels, colours, transparency, turns and order."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from latent_geodesics import UserError
from latent_geodesics.data import read_image
from latent_geodesics.data.file_order import image_files, numbered_images
from latent_geodesics.experiments.score.layout import find_sequences

SIZE = (16, 16)


def level(file):
    return float(read_image(file, size=SIZE).mean())


def saved(folder, array, name="picture.tif", **options):
    Image.fromarray(array).save(folder / name, **options)
    return folder / name


def png(folder, *, depth, colours, rows, chunks=()):
    """A PNG of 16 x 16 pixels, written by hand for what Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 16, 16, depth, colours, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress((b"\0" + rows) * 16)), (b"IEND", b"")]
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return folder / "picture.png"


def tiff(folder, *, bits, photometric, data):
    """A TIFF of 16 x 16 grey pixels, written by hand for what Pillow does not write."""
    tags = {256: 16, 257: 16, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 16, 279: len(data), 339: 1}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    (folder / "picture.tif").write_bytes(head + struct.pack("<H", len(tags)) + directory + struct.pack("<I", 0))
    return folder / "picture.tif"


@pytest.mark.parametrize("brightest", [200, 255, 256, 4000, 65535])
@pytest.mark.parametrize("name", ["picture.png", "picture.tif"])
def test_sixteen_bits_are_a_share_of_65535_however_bright_the_picture_is(tmp_path, brightest, name):
    grey = np.full((16, 16), brightest, dtype=np.uint16)
    assert level(saved(tmp_path, grey, name)) == pytest.approx(brightest / 65535, abs=0.51 / 255)


def test_the_white_of_other_depths_is_what_their_file_says(tmp_path):
    (tmp_path / "picture.pgm").write_bytes(b"P5 16 16 1023\n" + struct.pack(">H", 512) * 256)
    assert level(tmp_path / "picture.pgm") == pytest.approx(512 / 1023, abs=0.51 / 255)
    # Two pixels of 12 bits in three bytes: 0x800 and 0x800, half of 0xfff.
    assert level(tiff(tmp_path, bits=12, photometric=1, data=b"\x80\x08\x00" * 128)) == pytest.approx(0.5, abs=0.003)
    grey = struct.pack("<H", 16384) * 256
    assert level(tiff(tmp_path, bits=16, photometric=1, data=grey)) == pytest.approx(0.25, abs=0.003)
    assert level(tiff(tmp_path, bits=16, photometric=0, data=grey)) == pytest.approx(0.75, abs=0.003)  # white is zero


def test_floats_in_the_unit_interval_are_read_as_they_are(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    torch.testing.assert_close(
        read_image(saved(tmp_path, ramp), size=SIZE)[0], torch.from_numpy(ramp), atol=0.51 / 255, rtol=0
    )


@pytest.mark.parametrize(
    ("worst", "words"),
    [(np.nan, "not finite"), (np.inf, "not finite"), (1.5, "0.5 to 1.5"), (-0.1, "-0.1 to 0.5"), (255, "0.5 to 255")],
)
def test_other_floats_are_refused(tmp_path, worst, words):
    grey = np.full((16, 16), 0.5, dtype=np.float32)
    grey[3, 4] = worst
    with pytest.raises(UserError, match=words):
        read_image(saved(tmp_path, grey), size=SIZE)


@pytest.mark.parametrize("kind", [np.int32, np.int16, np.uint32])
def test_whole_numbers_without_an_agreed_white_are_refused(tmp_path, kind):
    grey = np.full((16, 16), 100, dtype=kind)
    file = tmp_path / "picture.tif"
    if kind == np.int32:
        Image.fromarray(grey).save(file)
    else:
        file = tiff(tmp_path, bits=8 * grey.itemsize, photometric=1, data=grey.tobytes())
        content = file.read_bytes()
        file.write_bytes(content.replace(struct.pack("<HHII", 339, 4, 1, 1), struct.pack("<HHII", 339, 4, 1, 2)))
    with pytest.raises(UserError, match="no white is agreed"):
        read_image(file, size=SIZE)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "I;16"])
def test_what_is_transparent_shows_white_in_every_mode(tmp_path, mode):
    if mode == "I;16":
        clear, solid = 30000, 0
        rows = struct.pack(">H", clear) * 8 + struct.pack(">H", solid) * 8
        file = png(tmp_path, depth=16, colours=0, rows=rows, chunks=[(b"tRNS", struct.pack(">H", clear))])
    elif mode == "L":
        file = png(tmp_path, depth=8, colours=0, rows=b"\x40" * 8 + b"\0" * 8, chunks=[(b"tRNS", b"\0\x40")])
    else:
        picture = np.zeros((16, 16, 4), dtype=np.uint8)
        picture[:, 8:, 3] = 255
        file = tmp_path / ("picture.tif" if mode == "LA" else "picture.png")
        whole = Image.fromarray(picture)
        (whole.quantize(4) if mode == "P" else whole.convert(mode)).save(file)
    read = read_image(file, size=SIZE)
    assert torch.equal(read[:, :, :8], torch.ones(3, 16, 8))
    assert torch.equal(read[:, :, 8:], torch.zeros(3, 16, 8))


def test_half_transparent_is_half_white(tmp_path):
    Image.new("LA", SIZE, (0, 128)).save(tmp_path / "grey.png")
    Image.new("RGBA", SIZE, (0, 0, 0, 128)).save(tmp_path / "colour.png")
    assert level(tmp_path / "grey.png") == level(tmp_path / "colour.png") == pytest.approx(127 / 255)


@pytest.fixture
def swapped_profile():
    """A colour profile in which red means blue, and blue red."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"-XYZ").replace(b"bXYZ", b"rXYZ").replace(b"-XYZ", b"bXYZ")


@pytest.mark.parametrize(("mode", "name"), [("RGB", "a.png"), ("RGB", "a.jpg"), ("RGBA", "a.webp"), ("P", "a.png")])
def test_an_embedded_colour_profile_is_followed(tmp_path, swapped_profile, mode, name):
    red = Image.new("RGB", SIZE, (255, 0, 0)).convert(mode)
    red.save(tmp_path / name, icc_profile=swapped_profile, **({"lossless": True} if name == "a.webp" else {}))
    mean = read_image(tmp_path / name, size=SIZE).mean((1, 2))
    torch.testing.assert_close(mean, torch.tensor([0.0, 0.0, 1.0]), atol=0.02, rtol=0)


def test_a_profile_of_srgb_changes_nothing_and_one_of_colours_fits_grey(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    plain = read_image(saved(tmp_path, noise, "plain.png"), size=SIZE)
    assert torch.equal(read_image(saved(tmp_path, noise, "tagged.png", icc_profile=profile), size=SIZE), plain)
    grey = read_image(saved(tmp_path, noise[..., 0], "grey.png", icc_profile=profile), size=SIZE)
    assert torch.equal(grey[1], plain[0])


def test_a_profile_that_cannot_be_used_is_refused(tmp_path):
    Image.new("RGB", SIZE).save(tmp_path / "a.png", icc_profile=b"no profile" * 20)
    with pytest.raises(UserError, match=r"colour profile.*a\.png.*sRGB"):
        read_image(tmp_path / "a.png", size=SIZE)


def test_inks_of_a_jpeg_are_not_inverted(tmp_path):
    Image.new("CMYK", SIZE, (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    mean = read_image(tmp_path / "a.jpg", size=SIZE).mean((1, 2))
    torch.testing.assert_close(mean, torch.tensor([1.0, 0.0, 0.0]), atol=0.02, rtol=0)


def test_of_an_animation_or_a_stack_a_still_is_the_first(tmp_path):
    frames = [Image.new("RGB", SIZE, (shade,) * 3) for shade in (0, 100, 200)]
    for name in ("a.gif", "a.tif", "a.png", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert level(tmp_path / name) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_turn_that_a_camera_recorded_is_applied(tmp_path, orientation):
    shown = np.zeros((16, 32, 3), dtype=np.uint8)
    shown[:8, :8] = 255
    undo = {
        1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1), 7: lambda x: np.rot90(x.swapaxes(0, 1), 2), 8: lambda x: np.rot90(x, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    file = saved(tmp_path, np.ascontiguousarray(undo[orientation](shown)), "a.png", exif=exif)
    expected = torch.from_numpy(shown).permute(2, 0, 1).float() / 255
    assert torch.equal(read_image(file, size=(16, 32)), expected)


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["f10.png", "f9.png", "f1.png"], ["f1.png", "f9.png", "f10.png"]),
        (["2.png", "010.png", "1.png"], ["1.png", "2.png", "010.png"]),
        (["a.png", "a1.png", "B.jpg"], ["a.png", "a1.png", "B.jpg"]),
        (["1-10.png", "1-2.png", "10-1.png", "2-1.png"], ["1-2.png", "1-10.png", "2-1.png", "10-1.png"]),
        (["0.05.png", "0.10.png", "0.50.png"], ["0.05.png", "0.10.png", "0.50.png"]),
    ],
)  # fmt: skip
def test_files_come_in_the_order_of_their_numbers(tmp_path, names, ordered):
    for name in [*names, "notes.txt", f"._{names[0]}"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [file.name for file in numbered_images(tmp_path)] == ordered
    assert [file.name for file in image_files(tmp_path)] == ordered


@pytest.mark.parametrize(
    ("names", "words"),
    [(["0.5.png", "0.25.png"], "cannot be told"), (["1.png", "1.jpg", "2.png"], r"'1\.jpg' and '1\.png'"),
     (["03.png", "3.png", "4.png"], r"more than once \('03\.png' and '3\.png'\)")],
)  # fmt: skip
def test_frames_without_one_order_are_refused(tmp_path, names, words):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=words):
        numbered_images(tmp_path)


def test_a_picture_beyond_what_pillow_opens_is_told_to_be_too_large(tmp_path, monkeypatch):
    Image.new("RGB", (64, 48)).save(tmp_path / "big.webp")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"big\.webp' has 0 megapixels and at most 89 are read: scale it down"):
        read_image(tmp_path / "big.webp", size=(16, 16))
    assert [one.place for one in find_sequences(tmp_path)] == [tmp_path], "a frame, whose reader says what is wrong"


def test_no_damage_to_a_file_ends_in_a_traceback(tmp_path):
    whole = io.BytesIO()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    draw = np.random.default_rng(1)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[274] = 6
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF"):
        whole = io.BytesIO()
        noise.save(whole, kind, icc_profile=profile, exif=exif)
        for _ in range(40):
            broken = bytearray(whole.getvalue())
            for place in draw.integers(0, len(broken), 4):
                broken[place] = draw.integers(256)
            file = Path(tmp_path / f"a.{kind.lower()}")
            file.write_bytes(bytes(broken))
            try:
                read_image(file, size=SIZE)
            except UserError as error:
                assert "\n" not in str(error)
