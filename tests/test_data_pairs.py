"""Manifests: what they list is read in order; what is wrong with them is said by name."""

import csv
import hashlib

import pytest
import torch
from PIL import Image

from latent_geodesics import UserError
from latent_geodesics.data import PairData, read_batch, read_manifest

COLUMNS = ["id", "group", "image_a", "image_b", "prompt_a", "prompt_b", "frames", "sha256_a", "sha256_b"]


@pytest.fixture
def folder(tmp_path):
    for name, shade in (("a", 10), ("b", 200)):
        Image.new("RGB", (16, 16), (shade, shade, shade)).save(tmp_path / f"{name}.png")
    (tmp_path / "frames").mkdir()
    for number in range(5):
        Image.new("RGB", (16, 16), (40 * number,) * 3).save(tmp_path / "frames" / f"{number:02d}.png")
    return tmp_path


def row(folder, **changes):
    checksums = {f"sha256_{side}": hashlib.sha256((folder / f"{side}.png").read_bytes()).hexdigest() for side in "ab"}
    values = {"id": "one", "group": "kind", "image_a": "a.png", "image_b": "b.png", "prompt_a": "x", "prompt_b": "y"}
    return values | {"frames": ""} | checksums | changes


def write(folder, *rows, columns=COLUMNS):
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


def test_pairs_come_in_order_with_their_true_frames(folder):
    manifest = write(folder, row(folder, id="two", frames="frames"), row(folder))
    pairs = read_manifest(manifest)
    assert [pair.id for pair in pairs] == ["two", "one"]
    batch = read_batch(pairs, size=(8, 8))
    assert batch.images_a.shape == (2, 3, 8, 8)
    assert batch.truth[1] is None
    assert batch.truth[0].shape == (5, 3, 8, 8)
    assert (batch.truth[0].mean((1, 2, 3)).diff() > 0).all()


def test_limit_takes_the_first(folder):
    manifest = write(folder, *(row(folder, id=str(number)) for number in range(5)))
    assert [pair.id for pair in PairData(manifest=manifest, limit=2).pairs] == ["0", "1"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_b": "gone.png"}, "gone.png"),
        ({"sha256_a": "0" * 64}, "checksum"),
        ({"frames": "nowhere"}, "nowhere"),
        ({"frames": "a.png"}, "true frames"),
    ],
)
def test_a_wrong_row_is_refused_by_name(folder, changes, words):
    with pytest.raises(UserError, match=words) as refused:
        read_manifest(write(folder, row(folder, **changes)))
    assert "one" in str(refused.value)


def test_a_wrong_checksum_may_be_let_pass(folder):
    assert len(read_manifest(write(folder, row(folder, sha256_a="0" * 64)), verify=False)) == 1


def test_an_id_that_stands_twice_is_refused(folder):
    with pytest.raises(UserError, match="twice"):
        read_manifest(write(folder, row(folder), row(folder)))


def test_a_pair_that_stands_twice_under_two_names_is_told(folder, caplog):
    rows = [row(folder, id="one"), row(folder, id="two", group="other"), row(folder, id="three", prompt_a="else")]
    assert len(read_manifest(write(folder, *rows))) == 3
    assert caplog.text.count("count twice: 'two' is 'one'.") == 1
    assert "three" not in caplog.text


def test_a_missing_column_is_refused(folder):
    with pytest.raises(UserError, match="image_b"):
        read_manifest(write(folder, row(folder), columns=[name for name in COLUMNS if name != "image_b"]))


def test_a_manifest_without_rows_is_refused(folder):
    with pytest.raises(UserError, match="no pairs"):
        read_manifest(write(folder))


def test_two_files_make_a_pair(folder):
    (pair,) = PairData(image_a=folder / "a.png", image_b=folder / "b.png", prompt_a="a cube").pairs
    assert (pair.id, pair.prompt_a, pair.prompt_b) == ("a--b", "a cube", "a cube")


def test_two_files_take_the_place_of_the_manifest(folder):
    manifest = write(folder, row(folder))
    (pair,) = PairData(manifest=manifest, image_a=folder / "b.png", image_b=folder / "b.png").pairs
    assert pair.id == "b--b"
    batch = read_batch([pair], size=(8, 8))
    assert torch.equal(batch.images_a, batch.images_b)


def test_an_image_that_is_too_small_is_known_before_any_is_encoded(folder):
    Image.new("RGB", (1, 40)).save(folder / "thin.png")
    with pytest.raises(UserError, match="thin.png' has 1 x 40 pixels"):
        PairData(image_a=folder / "b.png", image_b=folder / "thin.png")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_a": "a.png"}, "image_b"),
        ({"image_b": "b.png"}, "image_a"),
        ({"prompt_a": "a cube"}, "without images"),
        ({}, "No pairs"),
        ({"manifest": "nowhere.csv"}, "does not exist"),
        ({"manifest": "nowhere.csv", "limit": 0}, "limit"),
        ({"manifest": "nowhere.csv", "batch_size": 0}, "batch_size"),
    ],
)
def test_what_cannot_be_a_set_of_pairs_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        PairData(**options)
