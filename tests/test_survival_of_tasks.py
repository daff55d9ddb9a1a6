"""Extrapolation and video analysis that are cut off, gone on with or shared: the tables are those of one whole run."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from latent_geodesics.experiments.extrapolation.recipe import Extrapolation
from latent_geodesics.experiments.video_analysis.recipe import VideoAnalysis
from recipes.clevr.rendering.videos import save_video

ROOT = Path(__file__).parents[1]
COSTS = ["seconds", "seconds_solving"]
TABLES = {"extrapolation": ("results", "curves"), "video_analysis": ("results", "norms", "scales", "alphas")}
BATCHES = 3
RECIPES = {"extrapolation": Extrapolation, "video_analysis": VideoAnalysis}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Three images and three videos."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "images").mkdir()
    lines = []
    for number, color in enumerate(("red", "blue", "green")):
        picture = Image.new("RGB", (16, 16), "gray")
        ImageDraw.Draw(picture).rectangle((2, 2, 6 + number, 9), fill=color)
        picture.save(folder / "images" / f"{number}.png")
        video = np.full((5, 16, 16, 3), 90, dtype=np.uint8)
        for frame in range(5):
            video[frame, 4:9, number + frame : number + frame + 5] = (200, 30, 30)
        save_video(folder / f"{number}.mp4", video)
        lines.append([f"video{number}", "slide", f"{number}.mp4", "a red cube", "a red cube"])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "kind", "file", "prompt_a", "prompt_b"], *lines])
    return folder


pytestmark = pytest.mark.slow  # `test_survival.py` has a run that is interrupted among the quick ones


@pytest.fixture(params=sorted(TABLES))
def task(request):
    return request.param


@pytest.fixture
def arguments(task, inputs, tiny_model_folder):
    common = [
        f"experiment={task}",
        f"model.path_or_name={tiny_model_folder}",
        "model.steps=5",
        "model.cache_dir=null",
        "logger.mode=disabled",
    ]
    if task == "extrapolation":
        return [
            *common,
            f"task.images={inputs / 'images'}",
            "task.prompt='a red cube'",
            "task.reference_images=4",
            "task.batch_size=2",
            "velocity=[images,random]",
            "integrator=[parallel]",
            "frames=3",
        ]
    quick = [
        "task.analyser.amplitudes=[0.5]",
        "task.analyser.widths=[1.0]",
        "task.analyser.perturbations=1",
        "task.analyser.optimiser.max_evaluations=40",
    ]
    return [*common, f"data.manifest={inputs / 'manifest.csv'}", "data.batch_size=1", *quick]


def assert_same(task, folder, other, **tolerance):
    for name in TABLES[task]:
        one, two = (pd.read_csv(run / f"{name}.csv").drop(columns=COSTS, errors="ignore") for run in (folder, other))
        pd.testing.assert_frame_equal(one, two, **(tolerance or {"check_exact": True}))
    if task == "extrapolation":
        for file in ("images", "random"):
            one, two = (load_file(run / "velocities" / f"{file}.safetensors") for run in (folder, other))
            assert list(one) == list(two)
            for key, value in one.items():
                np.testing.assert_allclose(value, two[key], rtol=1e-6, atol=1e-6)
    pictures = [sorted(file.name for file in (run / "images").iterdir()) for run in (folder, other)]
    assert pictures[0] == pictures[1]


def test_an_interrupted_run_goes_on_and_ends_with_the_same_tables(task, command_line, arguments, tmp_path, monkeypatch):
    recipe, done = RECIPES[task], []
    work = recipe.work

    def counted(*arguments):
        done.append(len(done))
        return work(*arguments)

    def cut(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        return counted(*arguments)

    monkeypatch.setattr(recipe, "work", counted)
    assert command_line(*arguments, f"output_dir={tmp_path / 'whole'}").code == 0
    assert len(done) == BATCHES

    done.clear()
    monkeypatch.setattr(recipe, "work", cut)
    assert command_line(*arguments, f"output_dir={tmp_path / 'cut'}").code == 130
    assert not (tmp_path / "cut" / "summary.json").exists()
    assert (tmp_path / "cut" / "report.html").exists()
    assert 0 < len(pd.read_csv(tmp_path / "cut" / "results.csv")) < len(pd.read_csv(tmp_path / "whole" / "results.csv"))

    done.clear()
    monkeypatch.setattr(recipe, "work", counted)
    assert command_line(*arguments, f"output_dir={tmp_path / 'cut'}").code == 0
    assert len(done) == BATCHES - 2, "what was done is not done again"
    assert_same(task, tmp_path / "cut", tmp_path / "whole")


def start(arguments, folder, *more):
    command = [sys.executable, str(ROOT / "run.py"), *arguments, f"output_dir={folder}", *more]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_two_processes_and_killed_runs_give_the_tables_of_one(task, arguments, tmp_path):
    started = time.monotonic()
    assert start(arguments, tmp_path / "one").wait(timeout=300) == 0
    duration = time.monotonic() - started
    assert start(arguments, tmp_path / "two", "trainer.devices=2").wait(timeout=300) == 0
    assert_same(task, tmp_path / "one", tmp_path / "two", rtol=1e-6, atol=1e-9)
    moments = random.Random(0)
    for number in range(3):
        folder = tmp_path / f"cut{number}"
        process = start(arguments, folder)
        time.sleep(moments.uniform(0.5, 1.0) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not (folder / "summary.json").exists():
            assert start(arguments, folder).wait(timeout=300) == 0
        assert_same(task, folder, tmp_path / "one")
