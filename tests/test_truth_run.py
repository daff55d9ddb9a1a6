"""A whole run against the truth through the command line, on a small model with random weights."""

import csv
import json
import re

import pandas as pd
import pytest
from browser import check_page
from PIL import Image, ImageDraw

from latent_geodesics.run.results import STAGE_TITLES

METHODS = ["geodesic", "slerp", "lerp", "crossfade", "inverted_truth", "autoencoded_truth", "true_frames"]
HEADER = "id,group,image_a,image_b,prompt_a,prompt_b,frames"


@pytest.fixture
def manifest(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(5):
        picture = Image.new("RGB", (16, 16), "gray")
        ImageDraw.Draw(picture).rectangle((2 + 2 * number, 4, 6 + 2 * number, 9), fill="red")
        picture.save(frames / f"{number}.png")
    lines = [
        HEADER,
        "moved,m,frames/0.png,frames/4.png,a red cube,a red cube,frames",
        "bare,n,frames/0.png,frames/4.png,,,",
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.csv"


@pytest.fixture
def hold_to_truth(command_line, manifest, tiny_model_folder, tmp_path):
    def call(*arguments):
        return command_line(
            "experiment=truth",
            f"data.manifest={manifest}",
            f"model.path_or_name={tiny_model_folder}",
            "model.steps=5",
            "model.cache_dir=null",
            "logger.mode=disabled",
            "frames=5",
            "task.draws=50",
            f"output_dir={tmp_path / 'run'}",
            *arguments,
        )

    return call


def test_a_run_leaves_a_whole_folder(hold_to_truth, tmp_path):
    outcome = hold_to_truth()
    assert outcome.code == 0, outcome.stderr
    folder = tmp_path / "run"
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [row["method"] for row in rows] == METHODS
    assert {"pair", "method", "status", "seconds", "evaluations"} <= set(rows[0])
    assert {row["pair"] for row in rows} == {"moved"}
    for row in rows:
        assert all(float(row[name]) >= 0 for name in STAGE_TITLES)
        assert float(row["seconds_solving"]) + float(row["seconds_decoding"]) == pytest.approx(float(row["seconds"]))

    frames = pd.read_csv(folder / "frames.csv")
    assert len(frames) == 5 * len(METHODS)
    true = frames[frames["method"] == "true_frames"]
    assert (true["truth_rmse"] == 0).all()
    assert (true["truth_clevr"].abs() < 1e-6).all()
    fade = frames[frames["method"] == "crossfade"].set_index("u")["truth_rmse"]
    assert fade[0.0] == fade[1.0] == 0
    assert fade[0.5] > 0.05

    summary = json.loads((folder / "summary.json").read_text())
    assert summary["pairs"] == 1
    assert summary["true_frames/truth_rmse"] == 0
    assert summary["crossfade/truth_rmse"] == pytest.approx(fade[[0.25, 0.5, 0.75]].mean())
    assert summary["geodesic/truth_rmse_better_than_slerp"] in (0, 1)
    assert {file.name for file in (folder / "figures").iterdir()} >= {"along.png", "groups.png"}
    assert (folder / "images" / "moved.png").exists()
    page = (folder / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert "Geodesic against Slerp." in page
    check_page(folder / "report.html")
    assert not list(folder.rglob("*.partial*"))


def test_fewer_frames_are_held_against_those_at_their_positions(hold_to_truth, tmp_path):
    outcome = hold_to_truth("frames=3", "method=[crossfade,true_frames]")
    assert outcome.code == 0, outcome.stderr
    frames = pd.read_csv(tmp_path / "run" / "frames.csv")
    assert (frames.loc[frames["method"] == "true_frames", "truth_rmse"] == 0).all()
    assert "no geodesic" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frames=4"], "true in-between frames"),
        (["task.draws=0"], "draws"),
        (["metrics=offline"], "measure no single frames"),
        (["metrics=[]"], "No metric was chosen"),
        (["metrics.floor.scenes=no/such/scenes.jsonl"], "no/such/scenes.jsonl"),
        (["metrics.attributes.network=no/such/network"], "no/such/network"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(hold_to_truth, arguments, words):
    outcome = hold_to_truth(*arguments)
    assert outcome.code == 2, outcome.stderr
    assert words in outcome.sentence


def test_an_interrupt_keeps_what_was_finished(hold_to_truth, tmp_path, monkeypatch):
    from latent_geodesics.methods import Slerp

    def interrupted(self, problem):
        raise KeyboardInterrupt

    monkeypatch.setattr(Slerp, "solve", interrupted)
    assert hold_to_truth().code == 130
    assert not (tmp_path / "run" / "summary.json").exists()
