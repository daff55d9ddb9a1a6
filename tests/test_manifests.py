"""Manifests as spreadsheets and people write them are read; what could be read in two ways is refused by its line."""

import codecs

import pytest
from PIL import Image

from latent_geodesics import UserError
from latent_geodesics.data import MorphBench, VideoData, read_manifest
from latent_geodesics.data.collection import read_collection

COLUMNS = "id,group,image_a,image_b,prompt_a,prompt_b"
ROW = "p,g,a.png,b.png,a café,a cube"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "sub/c.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    return tmp_path


def write(folder, text, encoding="utf-8"):
    (folder / "m.csv").write_bytes(text.encode(encoding))
    return folder / "m.csv"


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_spreadsheets_write_is_read(folder, encoding, separator, ends):
    text = f"\n{COLUMNS}\n\n{ROW}\n,,,,,\n".replace(",", separator).replace("\n", ends)
    (pair,) = read_manifest(write(folder, text, encoding))
    assert (pair.id, pair.prompt_a, pair.prompt_b) == ("p", "a café", "a cube")
    images = "id,image\nx,a.png\ny,b.png\n".replace(",", separator)
    assert [image.id for image in read_collection(write(folder, images, encoding))] == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        (f'{COLUMNS}\np,g,a.png,b.png,"a red cube, shiny","a ""big"" cube"\n', ("a red cube, shiny", 'a "big" cube')),
        (f'{COLUMNS}\np , g, a.png , b.png, "red, shiny", blue \n', ("red, shiny", "blue")),
        (f"sep=;\n{COLUMNS.replace(',', ';')}\np;g;a.png;b.png;red, shiny;blue\n", ("red, shiny", "blue")),
        (f"{COLUMNS},,\np,g,a.png,b.png,red,blue,,\n", ("red", "blue")),
        (f"{COLUMNS},notes\np,g,a.png,b.png,red,blue,any\n", ("red", "blue")),
        (",prompt_b,image_b,id,group,image_a,prompt_a\n0,blue,b.png,p,g,a.png,red\n", ("red", "blue")),
        (f"{COLUMNS}\np,g,a.png,b.png,,\n", ("", "")),
        (f"{COLUMNS}\np,g,a.png,b.png,1\u2028 2,blue\n", ("1\u2028 2", "blue")),
    ],
)
def test_cells_are_read_as_they_are_meant(folder, text, prompts):
    (pair,) = read_manifest(write(folder, text))
    assert (pair.prompt_a, pair.prompt_b) == prompts


def test_id_group_and_prompts_may_be_missing_and_ids_are_made_of_the_files(folder):
    text = "image_a,image_b\na.png,b.png\na.png,sub/c.png\nsub\\c.png,a.png\na.png,b.png\n"
    pairs = read_manifest(write(folder, text))
    assert [pair.id for pair in pairs] == ["a--b", "a--c", "c--a", "a--b-2"]
    assert {(pair.group, pair.prompt_a, pair.prompt_b) for pair in pairs} == {("", "", "")}
    given = read_manifest(write(folder, "id,image_a,image_b\n,a.png,b.png\na--b,a.png,b.png\n"))
    assert [pair.id for pair in given] == ["a--b-2", "a--b"]
    with pytest.raises(UserError, match=r"line 2 .*no id"):
        read_collection(write(folder, "id,image\n,a.png\ny,b.png\n"))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["p,g,a.png,b.png,a red cube, shiny,a sphere"], r"Line 2 .* 7 cells.* 6 columns.*comma.*double quotes"),
        (["", "p,g,a.png,b.png,red"], r"Line 3 .* 5 cells"),
        (["p,g,a.png,b.png,red,blue,"], r"Line 2 .* 7 cells"),
        (['p,g,a.png,b.png,"red,blue', "q,g,a.png,b.png,red,blue"], "from line .*double quote"),
        (['p,g,a.png,b.png,"red" cube,blue'], "from line 2"),
        (["p,g,a.png,b.png,red,blue", " p ,g,a.png,b.png,red,blue"], "'p' twice, in lines 2 and 3"),
        (["p,g,,b.png,red,blue"], "image_a of 'p' in line 2 .*empty"),
        (["p,g,a.png,B.PNG,red,blue"], r"image_b of 'p' in line 2 .*B\.PNG.*did you mean 'b\.png'"),
        (["p,g,a.png,sub,red,blue"], "line 2 .*sub.*no file"),
        (["p,g,C:\\x\\a.png,b.png,red,blue"], "line 2 .*does not exist"),
    ],
)
def test_a_line_that_cannot_be_right_is_refused_by_its_number(folder, lines, words):
    with pytest.raises(UserError, match=words) as refused:
        read_manifest(write(folder, "\n".join([COLUMNS, *lines])))
    assert "m.csv" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("id,group,imge_a,image_b,prompt_a,prompt_b", "lacks .*image_a.*did you mean image_a by 'imge_a'"),
        ("id,group,image_a,image_b,promt_a,prompt_b", "'promt_a'.*did you mean 'prompt_a'"),
        ("ID,group,image_a,image_b,prompt_a,prompt_b", "'ID'.*did you mean 'id'"),
        (f"{COLUMNS},id", "'id' twice"),
        (f"{COLUMNS},frame", "'frame'.*did you mean 'frames'"),
        (f"{COLUMNS},sha256-a", "'sha256-a'.*did you mean 'sha256_a'"),
        (ROW, "lacks"),
        ("", "lacks"),
    ],
)
def test_a_header_that_is_not_known_is_refused(folder, header, words):
    with pytest.raises(UserError, match=words):
        read_manifest(write(folder, f"{header}\n"))


@pytest.mark.parametrize(
    "content",
    [
        f"{COLUMNS}\n{ROW}\n".encode("latin-1"),
        f"{COLUMNS}\n{ROW}\n".encode("utf-16-le"),
        codecs.BOM_UTF16_LE + b"a",
        b"id,image\0",
    ],
)
def test_what_is_no_text_is_refused(folder, content):
    (folder / "m.csv").write_bytes(content)
    for read in (read_manifest, read_collection):
        with pytest.raises(UserError, match="no CSV file"):
            read(folder / "m.csv")


def test_backslashes_separate_folders_as_slashes_do(folder):
    (pair,) = read_manifest(write(folder, f"{COLUMNS}\np,g,sub\\c.png,.\\b.png,red,blue\n"))
    assert pair.image_a == folder / "sub/c.png"


def test_a_checksum_may_be_in_capitals(folder):
    import hashlib

    checksum = hashlib.sha256((folder / "a.png").read_bytes()).hexdigest().upper()
    assert read_manifest(write(folder, f"{COLUMNS},sha256_a\n{ROW},{checksum}\n"))


def test_true_frames_come_in_the_order_of_their_numbers(folder):
    (folder / "frames").mkdir()
    for number in range(1, 12):
        Image.new("RGB", (16, 16)).save(folder / "frames" / f"f{number}.png")
    (pair,) = read_manifest(write(folder, f"{COLUMNS},frames\n{ROW},frames\n"))
    assert [file.stem for file in pair.frames] == [f"f{number}" for number in range(1, 12)]


@pytest.mark.parametrize(("text", "grade"), [("", None), ("3", 3)])
def test_a_grade_is_a_whole_number(folder, text, grade):
    (pair,) = read_manifest(write(folder, f"{COLUMNS},difficulty\n{ROW},{text}\n"))
    assert pair.difficulty == grade
    for wrong in ("²", "2.5", "hard", "-1"):
        with pytest.raises(UserError, match="no whole number"):
            read_manifest(write(folder, f"{COLUMNS},difficulty\n{ROW},{wrong}\n"))


def test_a_control_is_0_or_1(folder):
    header = "id,kind,file,prompt_a,prompt_b,control"
    assert [video.control for video in VideoData(manifest=write(folder, f"{header}\nv,k,a.png,x,y,1\n")).videos] == [
        True
    ]
    with pytest.raises(UserError, match="must be 0 or 1, got 'yes'"):
        VideoData(manifest=write(folder, f"{header}\nv,k,a.png,x,y,yes\n"))


def test_a_prompt_for_a_pair_that_is_not_there_is_refused(folder):
    (folder / "Animation").mkdir()
    for side in (0, 1):
        (folder / "Animation" / f"dance_{side}.png").touch()
    prompts = write(folder, "id,prompt_a,prompt_b\nAnimation/dnce,x,y\n")
    with pytest.raises(UserError, match="'Animation/dnce'"):
        MorphBench(root=folder, parts=["Animation"], prompts=prompts)
