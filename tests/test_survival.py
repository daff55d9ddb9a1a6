"""Runs that are killed, gone on with, shared between processes, or started twice: the table is always the same."""

import csv
import os
import pickle
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image, ImageDraw

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import Batches, ImagePair, PairSelection, in_batches, read_shard
from latent_geodesics.data.batches import IDLE
from latent_geodesics.run.each import BatchStore
from latent_geodesics.run.files import seal
from latent_geodesics.run.results import STAGE_TITLES

ROOT = Path(__file__).parents[1]
COSTS = ["seconds", "peak_memory_mb", *STAGE_TITLES]
PAIRS = 5


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for number in range(PAIRS):
        for side, color in (("a", "red"), ("b", "blue")):
            picture = Image.new("RGB", (16, 16), "gray")
            ImageDraw.Draw(picture).rectangle((2, 2, 6 + number, 9), fill=color)
            picture.save(folder / f"{number}{side}.png")
        lines.append([f"pair{number}", "own", f"{number}a.png", f"{number}b.png", "a red cube", "a blue sphere"])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "group", "image_a", "image_b", "prompt_a", "prompt_b"], *lines])
    return folder / "manifest.csv"


@pytest.fixture
def arguments(manifest, tiny_model_folder):
    return [
        f"data.manifest={manifest}",
        "data.batch_size=2",
        "method=[geodesic,slerp]",
        "metrics=[offline,protocols_clevr]",
        "metrics.sets_clevr.least=2",
        f"model.path_or_name={tiny_model_folder}",
        "model.steps=5",
        "model.cache_dir=null",
        "frames=5",
        "format=none",
        "logger.mode=disabled",
    ]


def table(folder):
    return pd.read_csv(folder / "results.csv").drop(columns=COSTS)


def measured(folder):
    return pd.read_csv(folder / "protocols.csv")


def assert_same(folder, other, **tolerance):
    pd.testing.assert_frame_equal(table(folder), table(other), **(tolerance or {"check_exact": True}))
    pd.testing.assert_frame_equal(measured(folder), measured(other), **(tolerance or {"check_exact": True}))


def store(folder, **made_with) -> BatchStore:
    return BatchStore(folder=folder, made_with=made_with, expected=[["a", "b"], ["c"]])


def test_a_batch_that_was_kept_is_there_for_whoever_comes_next(tmp_path):
    store(tmp_path, model="x").write(
        1, {"rows": [{"pair": "c", "length": 0.5}], "states": torch.ones(2), "whole": True}
    )
    later = store(tmp_path, model="x")
    assert later.finished() == [1]
    (content,) = later.read()
    assert content["rows"] == [{"pair": "c", "length": 0.5}]
    assert torch.equal(content["states"], torch.ones(2))


def test_a_batch_in_which_something_failed_is_kept_and_not_finished(tmp_path):
    store(tmp_path).write(0, {"rows": [], "whole": False})
    assert store(tmp_path).finished() == []
    assert len(store(tmp_path).read()) == 1


def test_a_damaged_batch_counts_as_none(tmp_path, caplog):
    store(tmp_path).write(0, {"rows": [], "whole": True})
    (file,) = (tmp_path / "batches").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert store(tmp_path).read() == []
    assert "damaged" in caplog.text


@pytest.mark.parametrize(
    "what", ["a bit of a number", "a bit of a word", "another object", "a plain pickle", "nothing"]
)
def test_a_batch_file_that_is_not_what_was_written_counts_as_none(tmp_path, caplog, what):
    store(tmp_path).write(0, {"rows": [{"pair": "aaaa", "length": 1.5}], "whole": True})
    (file,) = (tmp_path / "batches").iterdir()
    content = bytearray(file.read_bytes())
    if what == "a bit of a number":
        content[content.find(b"G" + struct.pack(">d", 1.5)) + 2] ^= 0x10
    elif what == "a bit of a word":
        content[content.find(b"aaaa")] |= 0x80
    elif what == "another object":
        torch.save({"pairs": ["a", "b"], "made_with": {}, "content": {"rows": []}}, file)
        content = seal(file.read_bytes())
    elif what == "a plain pickle":
        content = pickle.dumps({"content": 1})
    file.write_bytes(content if what != "nothing" else b"")
    assert store(tmp_path).finished() == []
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_a_batch_one_of_whose_pictures_is_not_whole_is_done_again(tmp_path, caplog, damage):
    (tmp_path / "images").mkdir()
    for number in (0, 1):
        (tmp_path / "images" / f"{number}.png").write_bytes(b"picture")
        store(tmp_path).write(number, {"rows": [], "whole": True}, files=[f"images/{number}.png"])
    picture = tmp_path / "images" / "0.png"
    picture.unlink() if damage == "lost" else picture.write_bytes(b"pict")
    assert store(tmp_path).finished() == [1]
    assert "images/0.png' is lost or damaged" in caplog.text


def test_batches_of_other_weights_or_pairs_are_refused(tmp_path):
    store(tmp_path, model="x").write(0, {"rows": [], "whole": True})
    with pytest.raises(UserError, match="with other weights"):
        store(tmp_path, model="y")
    with pytest.raises(UserError, match="of other images"):
        BatchStore(folder=tmp_path, made_with={"model": "x"}, expected=[["a"], ["b"], ["c"]])


@pytest.mark.parametrize("done", [[], [0], [1, 3, 5], [0, 1, 2, 3, 5]])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_processes_share_all_batches_and_none_twice(processes, done):
    pairs = [ImagePair(id=str(k), image_a=Path("a"), image_b=Path("b")) for k in range(11)]
    left = [number for number in range(6) if number not in done]
    shares = []
    for rank in range(processes):
        batches = Batches(batches=in_batches(pairs, 2), read=tuple)
        strategy = SimpleNamespace(broadcast=lambda share: left)  # what the first process found
        batches.trainer = SimpleNamespace(global_rank=rank, world_size=processes, strategy=strategy)
        batches.done = [*done, 4] if rank else done  # what another process has finished by then changes nobody's share
        shares.append(list(batches.test_dataloader().dataset))
    assert all(shares), "a process without a step would not meet the others at the end"
    worked = [[number for number in share if number != IDLE] for share in shares]
    assert sorted(number for share in worked for number in share) == left
    assert max(map(len, worked)) - min(map(len, worked)) <= 1


def test_an_interrupted_run_goes_on_and_ends_with_the_same_table(
    command_line, arguments, tmp_path, monkeypatch, undrawn
):
    assert command_line(*arguments, f"output_dir={tmp_path / 'whole'}").code == 0

    from latent_geodesics.run import each

    written, save = [], each.save_strip

    def save_or_stop(file, rows):
        written.append(file)
        if len(written) == 4:
            raise KeyboardInterrupt
        save(file, rows)

    with monkeypatch.context() as patched:
        patched.setattr(each, "save_strip", save_or_stop)
        assert command_line(*arguments, f"output_dir={tmp_path / 'cut'}").code == 130
    assert len(table(tmp_path / "cut")) == 2 * 2
    assert not (tmp_path / "cut" / "summary.json").exists()

    with monkeypatch.context() as patched:
        patched.setattr(each, "save_strip", lambda file, rows: (written.append(file), save(file, rows)))
        assert command_line(*arguments, f"output_dir={tmp_path / 'cut'}").code == 0
    assert len(written) == 4 + 3, "pairs that were done are not done again"
    assert_same(tmp_path / "cut", tmp_path / "whole")
    assert len(list((tmp_path / "cut" / "images").glob("*.png"))) == PAIRS

    again = command_line(*arguments, f"output_dir={tmp_path / 'cut'}")
    assert (again.code, "is finished already" in again.stdout + again.stderr) == (0, True)
    assert len(written) == 4 + 3, "what is finished is not done again"

    (tmp_path / "cut" / "images" / "pair0.png").unlink()
    assert command_line(*arguments, f"output_dir={tmp_path / 'cut'}").code == 0
    assert_same(tmp_path / "cut", tmp_path / "whole")
    assert len(list((tmp_path / "cut" / "images").glob("*.png"))) == PAIRS


@pytest.mark.slow
def test_an_unfinished_run_with_other_settings_is_not_mixed_in(command_line, arguments, tmp_path):
    folder = tmp_path / "run"
    assert command_line(*arguments, f"output_dir={folder}").code == 0
    (folder / "summary.json").unlink()
    refused = command_line(*arguments, f"output_dir={folder}", "alpha=0.001")
    assert refused.code == 2
    assert "other settings (alpha" in refused.sentence


def test_a_folder_in_which_another_run_is_at_work_is_refused(command_line, arguments, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / ".lock"):
        refused = command_line(*arguments, f"output_dir={folder}")
    assert (refused.code, "Another run is at work" in refused.sentence) == (2, True)


@pytest.mark.slow
def test_shards_put_together_are_the_whole_run(command_line, arguments, tmp_path):
    assert command_line(*arguments, f"output_dir={tmp_path / 'whole'}").code == 0
    for number in (1, 2):
        outcome = command_line(*arguments, f"data.shard={number}/2", f"output_dir={tmp_path / 'shards' / str(number)}")
        assert outcome.code == 0, outcome.stderr
    for runs in ("whole", "shards"):
        report = [f"task.runs=[{tmp_path / runs}]", "task=report", "logger.mode=disabled"]
        assert command_line(*report, f"output_dir={tmp_path / 'report' / runs}").code == 0
    for name in ("comparison.csv", "protocols.csv"):
        joined, whole = (pd.read_csv(tmp_path / "report" / runs / name) for runs in ("shards", "whole"))
        kept = ~whole["column"].isin(COSTS)
        pd.testing.assert_frame_equal(joined[kept], whole[kept], rtol=1e-9)
    assert "fd_clevr@raw" in set(whole["column"])

    twice = command_line("task=report", f"task.runs=[{tmp_path / 'shards'},{copy(tmp_path / 'shards' / '1')}]")
    assert (twice.code, "is there twice" in twice.sentence) == (2, True)


def copy(folder):
    other = folder.parents[1] / "copy"
    shutil.copytree(folder, other)
    return other


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_what_is_no_shard_is_refused(shard):
    with pytest.raises(UserError, match="data.shard must be i/n"):
        read_shard(shard)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_hold_every_batch_of_the_whole_run_once(count, pictures):
    pairs = [ImagePair(id=str(k), image_a=pictures / "a.png", image_b=pictures / "b.png") for k in range(11)]
    whole = PairSelection(pairs=pairs, limit=10, batch_size=3).pairs
    batches = [whole[start : start + 3] for start in range(0, 10, 3)]
    shares = [PairSelection(pairs=pairs, limit=10, batch_size=3, shard=f"{k + 1}/{count}").pairs for k in range(count)]
    for k, share in enumerate(shares):
        assert share == tuple(pair for batch in batches[k::count] for pair in batch)
    assert sorted(pair.id for share in shares for pair in share) == sorted(pair.id for pair in whole)


def start(arguments, folder, *more):
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "run.py"), *arguments, f"output_dir={folder}", *more]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(arguments, tmp_path):
    assert start(arguments, tmp_path / "one").wait(timeout=300) == 0
    assert start(arguments, tmp_path / "two", "trainer.devices=2").wait(timeout=300) == 0
    assert_same(tmp_path / "one", tmp_path / "two", rtol=1e-6, atol=1e-9)
    assert [file.name for file in (tmp_path / "two").glob("*.log")] == ["run.log"]
    assert len(list((tmp_path / "two" / "images").glob("*.png"))) == PAIRS


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_table(arguments, tmp_path):
    started = time.monotonic()
    assert start(arguments, tmp_path / "whole").wait(timeout=300) == 0
    duration = time.monotonic() - started
    moments = random.Random(0)
    for number in range(10):
        folder = tmp_path / f"cut{number}"
        process = start(arguments, folder)
        time.sleep(moments.uniform(0.2, 1.0) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not (folder / "summary.json").exists():
            assert start(arguments, folder).wait(timeout=300) == 0
        assert_same(folder, tmp_path / "whole")
