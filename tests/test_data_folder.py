"""A folder of a person's own images as pairs, whatever the files are called."""

import logging

import pytest
from PIL import Image

from latent_geodesics import UserError
from latent_geodesics.data import FolderPairs


def fill(folder, *names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(file)
    return folder


def told(data):
    return [(pair.id, pair.image_a.name, pair.image_b.name) for pair in data.pairs]


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["x_a.png", "x_b.jpg", "y-A.png", "y-B.png"], [("x", "x_a.png", "x_b.jpg"), ("y", "y-A.png", "y-B.png")]),
        (["cat_0.png", "cat_1.png"], [("cat", "cat_0.png", "cat_1.png")]),
        (["cat 2.png", "cat 1.png"], [("cat", "cat 1.png", "cat 2.png")]),
        (["x_before.png", "x_after.png"], [("x", "x_before.png", "x_after.png")]),
        (["été (1), a=b_right.png", "été (1), a=b_left.png"],
         [("été (1), a=b", "été (1), a=b_left.png", "été (1), a=b_right.png")]),
        (["right/9.png", "left/9.png", "left/10.png", "right/10.jpg"],
         [("9", "9.png", "9.png"), ("10", "10.png", "10.jpg")]),
        (["A/x.png", "B/x.png", "other/y.png"], [("x", "x.png", "x.png")]),
    ],
)  # fmt: skip
def test_pairs_by_name(tmp_path, names, pairs):
    data = FolderPairs(root=fill(tmp_path, *names))
    assert told(data) == pairs
    assert all(pair.image_a.parent.name.lower() != "right" for pair in data.pairs)
    assert {(pair.prompt_a, pair.prompt_b) for pair in data.pairs} == {("", "")}


def test_what_has_no_partner_is_left_out_and_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        data = FolderPairs(root=fill(tmp_path, "x_a.png", "x_b.png", "z_a.png", "alone.png"))
    assert told(data) == [("x", "x_a.png", "x_b.png")]
    assert "2 images" in caplog.text
    assert "alone.png" in caplog.text


def test_neighbours_go_by_the_numbers_in_the_names(tmp_path):
    folder = fill(tmp_path, "f10.png", "f9.png", "f9.jpg", "g.png")
    (tmp_path / ".hidden.png").write_bytes(b"")
    assert told(FolderPairs(root=folder, pairing="neighbours", every=2)) == [
        ("f9.jpg--f9.png", "f9.jpg", "f9.png"), ("f10--g", "f10.png", "g.png"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("a red cube\n", ["a red cube"] * 3),
        ("\ufeffone\n\ntwo, red\nthree \"big\"\n", ["one", "two, red", 'three "big"']),
        ("image,prompt\n2.png,\"two, red\"\n1.png,one\n", ["one", "two, red", ""]),
        ("image;prompt\n10.png;ten\n", ["", "", "ten"]),
    ],
)  # fmt: skip
def test_prompts_are_a_line_for_all_or_one_for_each_or_a_table(tmp_path, text, prompts):
    folder = fill(tmp_path / "images", "1.png", "2.png", "10.png")
    (tmp_path / "p.txt").write_text(text, encoding="utf-8")
    data = FolderPairs(root=folder, pairing="neighbours", prompts=tmp_path / "p.txt")
    assert [data.pairs[0].prompt_a, data.pairs[0].prompt_b, data.pairs[1].prompt_b] == prompts


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["x.png", "y.png"], {}, "no two images that are a pair.*data.pairing=neighbours"),
        ([], {}, "no two images"),
        (["x.png"], {"pairing": "neighbours"}, "holds 1 image .*need two"),
        (["x_0.png", "x_1.png", "x_2.png"], {}, "x_0.png.*x_1.png.*neighbours"),
        (["x_a.png", "x_a.jpg"], {}, "cannot be told"),
        (["x_a.png", "x_b.png"], {"pairing": "name"}, "got 'name'.* Did you mean 'names'"),
    ],
)
def test_a_folder_that_makes_no_pairs_is_refused(tmp_path, names, options, words):
    with pytest.raises(UserError, match=words) as refused:
        FolderPairs(root=fill(tmp_path, *names), **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("content", "words"), [(b"", "empty"), (b"text", "no image")])
def test_an_image_that_is_none_is_refused_before_anything_starts(tmp_path, content, words):
    fill(tmp_path, "x_a.png")
    (tmp_path / "x_b.png").write_bytes(content)
    with pytest.raises(UserError, match=f"x_b.png.*{words}"):
        FolderPairs(root=tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("one\ntwo\n", "2 lines for 3 images"), ("image,prompt\n3.png,x\n", "'3.png', which is no image of a pair")],
)
def test_prompts_that_do_not_fit_are_refused(tmp_path, text, words):
    folder = fill(tmp_path / "images", "1.png", "2.png", "10.png")
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        FolderPairs(root=folder, pairing="neighbours", prompts=tmp_path / "p.txt")
