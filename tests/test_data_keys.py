"""Key images with their times: a person's own files, or lines of a manifest."""

import pytest
import torch
from PIL import Image

from latent_geodesics import UserError
from latent_geodesics.data import KeyData, read_keys


@pytest.fixture
def files(tmp_path):
    for name in ("a.png", "b (1), é.png", "c.png"):
        Image.new("RGB", (16, 16), name[0] == "b" and "red" or "blue").save(tmp_path / name)
    (tmp_path / "none.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    return [str(tmp_path / name) for name in ("a.png", "b (1), é.png", "c.png")]


def test_keys_have_times_and_prompts_and_neighbours_are_pairs(files):
    data = KeyData(keys=files, times=[0, 1, 3], prompts=["x", "y", "z"])
    (sequence,) = data.sequences
    assert sequence.id == "a--b (1), é--c"
    torch.testing.assert_close(sequence.positions, torch.tensor([0, 1 / 3, 1], dtype=torch.float64))
    assert [(leg.image_a.name, leg.image_b.name, leg.prompt_a, leg.prompt_b) for leg in data.pairs] == [
        ("a.png", "b (1), é.png", "x", "y"), ("b (1), é.png", "c.png", "y", "z"),
    ]  # fmt: skip
    batch = read_keys([sequence], size=(8, 8))
    assert batch.images.shape == (3, 3, 8, 8)
    assert torch.equal(batch.legs.images_b[0], batch.legs.images_a[1])


@pytest.mark.parametrize(
    ("times", "closed"), [(None, (0, 1, 2, 3)), ([0, 1, 3], (0, 1, 3, 4.5)), ([0, 1, 3, 4], (0, 1, 3, 4))]
)
def test_a_loop_comes_back_to_its_first_key(files, times, closed):
    (sequence,) = KeyData(keys=files, times=times, loop=True).sequences
    assert sequence.times == closed
    assert sequence.images[0] == sequence.images[-1]
    assert len(sequence.legs) == 3


def test_a_manifest_lists_sequences(files, tmp_path):
    text = 'keys,times,prompts\na.png|c.png,,red\n"a.png | b (1), é.png|c.png",0|1|3,x|y|z\na.png|c.png,,\n'
    (tmp_path / "keys.csv").write_text(text, encoding="utf-8")
    first, second, third = KeyData(manifest=tmp_path / "keys.csv").sequences
    assert (first.id, first.prompts, first.times) == ("a--c", ("red", "red"), (0, 1))
    assert (second.times, second.prompts) == ((0, 1, 3), ("x", "y", "z"))
    assert third.id == "a--c-2"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 1}, r"data.keys names 1 key image:"),
        ({"count": 0}, r"0 key images"),
        ({"times": [0, 1]}, "3 keys and 2 times"),
        ({"times": [0, 1, 2, 3]}, "3 keys and 4 times"),
        ({"times": [0, 1, 2, 3, 4], "loop": True}, "3 keys and 5 times.*reached again"),
        ({"times": [0, 1, 1]}, "must increase.*0, 1, 1"),
        ({"times": [0, 2, 1]}, "must increase.*0, 2, 1"),
        ({"times": [0, "x", 1]}, "finite numbers"),
        ({"times": [0, 1, float("inf")]}, "finite numbers"),
        ({"times": 3}, "finite numbers"),
        ({"prompts": ["x", "y"]}, "3 keys and 2 prompts"),
        ({"prompts": ["x", "y", 2]}, "must be a text"),
        ({"extra": "none.png"}, "none.png.*no image"),
        ({"extra": "empty.png"}, "empty.png.*empty"),
        ({"extra": "lost.png"}, "lost.png.*does not exist"),
    ],
)
def test_keys_that_make_no_path_are_refused_in_a_sentence(files, tmp_path, options, words):
    count, extra = options.pop("count", 3), options.pop("extra", None)
    keys = files[:count] + ([str(tmp_path / extra)] if extra else [])
    with pytest.raises(UserError, match=words) as refused:
        KeyData(keys=keys, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keys\na.png\n", r"line 2 .*1 key image:"),
        ("keys,times\na.png|c.png,0|x\n", r"line 2 .*numbers such as 0\|1\|3"),
        ("keys,times\na.png|c.png,1|0\n", "line 2 .*must increase"),
        ("keys\na.png|d.png\n", "line 2 .*d.png"),
        ("key\na.png|c.png\n", "lacks .*keys.*did you mean keys by 'key'"),
    ],
)
def test_a_line_that_makes_no_path_is_refused_by_its_number(files, tmp_path, text, words):
    (tmp_path / "keys.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        KeyData(manifest=tmp_path / "keys.csv")


@pytest.mark.parametrize("options", [{}, {"times": [0, 1]}, {"prompts": ["x"]}])
def test_no_keys_are_refused(options):
    with pytest.raises(UserError, match=r"data\.keys=\[a\.png"):
        KeyData(**options)
