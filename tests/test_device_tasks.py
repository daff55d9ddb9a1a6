"""One small run of every task, through the command line, with its model on the pretended device."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw
from pretended_device import counting, pretended_device

from latent_geodesics.rendering.video_files import save_video

CONF = Path(__file__).parents[1] / "conf"
WITHOUT_TENSORS = {
    "render_clevr": "a renderer writes its files",
    "render_pairs": "a renderer writes its files",
    "render_videos": "a renderer writes its files",
    "report": "it reads tables that runs have written",
}
# How a run's numbers may differ from the CPU's: sums are rounded in another order.
WITHIN = {"rtol": 2e-3, "atol": 2e-4}
MEASURED = ("seconds", "peak_memory_mb")


@pytest.fixture(scope="module", autouse=True)
def device():
    with pretended_device() as device:
        yield device


@pytest.fixture
def folder(tmp_path):
    """Five frames of a square on its way, the pairs and the clip that they make."""
    frames = np.full((5, 16, 16, 3), 90, dtype=np.uint8)
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames):
        frame[4:9, 1 + 2 * number : 6 + 2 * number] = (200, 30, 30)
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number}.png")
    (tmp_path / "pairs.csv").write_text(
        "id,group,image_a,image_b,prompt_a,prompt_b,frames\n"
        "one,m,frames/0.png,frames/4.png,a red cube,a blue sphere,frames\n"
        "two,m,frames/1.png,frames/3.png,a cube,a red cube,\n"
    )
    save_video(tmp_path / "clip.mp4", frames)
    (tmp_path / "clips.csv").write_text(
        "id,kind,file,control,prompt_a,prompt_b\nclip,slide,clip.mp4,0,a red cube,a red cube\n"
    )
    return tmp_path


OF_ONE_PAIR = ("image_a={folder}/frames/0.png", "image_b={folder}/frames/4.png", "prompt_a='a red cube'")
TASKS = {
    "interpolation": (
        "experiment=interpolation",
        "data.manifest={folder}/pairs.csv",
        "method=[geodesic,geodesic_paper,slerp]",
        "metrics=benchmark",
        "metrics.typicality.draws=1",
        "frames=5",
    ),
    "truth": ("experiment=truth", "data.manifest={folder}/pairs.csv", "frames=5", "task.draws=20"),
    "distances": (
        "experiment=distances",
        "task.images={folder}/frames",
        "task.pairs=null",
        "task.known=null",
        "task.batch_size=3",
        "task.checks=2",
        "task.draws=20",
    ),
    "extrapolation": (
        "experiment=extrapolation",
        "task.images={folder}/frames",
        "task.prompt='a red cube'",
        "task.reference_images=4",
        "velocity=[boundary,random]",
        "frames=3",
    ),
    "video_analysis": (
        "experiment=video_analysis",
        "data.manifest={folder}/clips.csv",
        "task.amplitudes=[0.5]",
        "task.widths=[1.0]",
        "task.perturbations=2",
        "task.optimiser.max_evaluations=60",
    ),
    "evolution": ("experiment=evolution", *OF_ONE_PAIR, "density=[half_plane]", "task.stages=3"),
    "pipelines": ("experiment=pipelines", *OF_ONE_PAIR, "frames=5", "task.integrator.steps=4"),
    "bench": (
        "experiment=bench",
        *OF_ONE_PAIR,
        "prompt_b=two",
        "method=[slerp]",
        "metrics=[]",
        "frames=5",
        "task.batches=[1]",
        "task.seconds=0.05",
        "task.solvers.descent.max_evaluations=40",
        "task.folder={folder}/kept",
    ),
}
