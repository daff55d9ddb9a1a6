"""Files that are there are whole: how they are written, what a killed process leaves, how damage is told."""

import ast
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import latent_geodesics
from latent_geodesics.run.files import DamagedFileError, clear_partials, read_sealed, replacing, seal, write_text


def test_no_pattern_for_finished_files_finds_one_that_is_being_written(tmp_path):
    with replacing(tmp_path / "figures" / "a.png") as partial:
        partial.write_bytes(b"half")
        assert partial.suffix == ".png"
        assert list((tmp_path / "figures").glob("*.png")) == []
        assert not (tmp_path / "figures" / "a.png").exists()
    assert [file.name for file in (tmp_path / "figures").iterdir()] == ["a.png"]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "a.txt") as partial:
        partial.write_text("half of the new")
        raise RuntimeError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


def test_writers_of_one_file_do_not_meet_and_the_longest_name_is_no_longer_on_the_way(tmp_path):
    name = "é" * 125 + ".txt"  # 254 of the 255 bytes that a name may have
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_text(tmp_path / name, text * 1000), "abcdefgh" * 4))
    (file,) = tmp_path.iterdir()
    assert len(set(file.read_text())) == 1


def test_what_killed_processes_left_is_cleared_and_nothing_else(tmp_path):
    left = tmp_path / "figures" / ".a.partial-x1y2"
    left.mkdir(parents=True)
    (left / "a.png").write_bytes(b"half")
    (tmp_path / ".b.partial-77.png").write_bytes(b"half, as an earlier version left it")
    (tmp_path / "figures" / "a.partial-1.png").write_bytes(b"somebody's")
    clear_partials(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.partial-1.png", "figures"]


def test_every_flipped_bit_and_every_cut_of_a_sealed_file_is_found(tmp_path):
    content, file = random.Random(0).randbytes(16), tmp_path / "sealed"
    whole = seal(content)
    file.write_bytes(whole)
    assert read_sealed(file) == content
    for place in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        with pytest.raises(DamagedFileError):
            read_sealed(file)
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError):
            read_sealed(file)


def test_nothing_that_is_read_can_run_code():
    root = Path(latent_geodesics.__file__).parent
    loads, others = [], []
    for module in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, options = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name == "torch.load":
                loads.append((module.name, options.get("weights_only")))
            if (
                name in ("pickle.load", "pickle.loads", "joblib.load")
                or options.get("allow_pickle", "False") != "False"
            ):
                others.append((module.name, name))
    assert others == []
    assert loads
    assert {safe for _, safe in loads} == {"True"}, loads
