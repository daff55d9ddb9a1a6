"""One small run of every task, through the command line, with its model on the pretended device and on the CPU."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pretended_device import NAME, counting, pretended_device
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from synthetic_frames import write_discs
from test_training_task import task as training_task

from latent_geodesics.run.runner import Run
from latent_geodesics.run.sequences import Films
from latent_geodesics.run.tracking import RunLogger
from recipes.clevr.rendering.videos import save_video

CONF = Path(__file__).parents[1] / "conf"
APART = {
    "calibration": "it compares metrics with their reference implementations, on the CPU",
    "leaderboard": "it reads rows that runs have submitted",
    "submit": "it reads tables that runs have written",
    "preflight": "it reads the headers of files, and nothing is computed",
    "render_clevr": "it starts a renderer and has no tensors",
    "render_pairs": "it starts a renderer and has no tensors",
    "render_videos": "it starts a renderer and has no tensors",
    "score": "it measures what others made, on the CPU",
    "report": "it reads tables that runs have written",
    "toy": "its points are of the plane, always on the CPU; `test_toy.py` has it",
    "train_clevr_ldm": "it takes its device from Lightning; the test below has it",
}
# Of the machine and the moment; and of a gradient that is next to nothing, the direction.
MEASURED = r"seconds|peak|evaluations_per|raw|batch|before|change|^cosine$"
TINY = (
    "alpha=0.0005",
    "model.steps=3",
    "model.refinements=0",
    "model.cache_dir=null",
    "model.dtype=float32",
    "logger.mode=disabled",
)

FILMS = Films(fps=12, format="none")


@pytest.fixture(scope="module")
def device():
    with pretended_device() as device:
        yield device


@pytest.fixture
def folder(tmp_path):
    """Five frames of a square on its way, and the pairs and the clip that they make."""
    frames = np.full((5, 16, 16, 3), 90, dtype=np.uint8)
    for name in ("frames", "few"):
        (tmp_path / name).mkdir()
    for number, frame in enumerate(frames):
        frame[4:9, 1 + 2 * number : 6 + 2 * number] = (200, 30, 30)
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number}.png")
        if number < 3:
            Image.fromarray(frame).save(tmp_path / "few" / f"{number}.png")
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


PAIR = ("image_a={folder}/frames/0.png", "image_b={folder}/frames/4.png", "prompt_a='a red cube'", "prompt_b=cube")
TASKS = {
    "interpolation": (
        "data.manifest={folder}/pairs.csv",
        "method=[geodesic,geodesic_paper,slerp]",
        "methods.geodesic_paper.solver.iterations=4",
        "frames=3",
    ),
    "truth": (
        "data.manifest={folder}/pairs.csv",
        "method=[geodesic,crossfade,inverted_truth,autoencoded_truth,true_frames]",
        "frames=5",
        "task.draws=20",
    ),
    "distances": (
        "task.images={folder}/few",
        "task.pairs=null",
        "task.known=null",
        "task.checks=1",
        "task.draws=20",
        "task.frames=3",
    ),
    "extrapolation": (
        "task.images={folder}/few",
        "task.reference={folder}/frames",
        "task.reference_images=4",
        "velocity=[boundary]",
        "integrator=[parallel,adaptive,rk4]",
        "integrators.rk4.steps=2",
        "integrators.adaptive.tolerance=1e-2",
        "frames=3",
    ),
    "video_analysis": (
        "data.manifest={folder}/clips.csv",
        "task.analyser.amplitudes=[0.5]",
        "task.analyser.widths=[1.0]",
        "task.analyser.perturbations=2",
        "task.analyser.optimiser.max_evaluations=30",
    ),
    "evolution": (*PAIR, "density=[half_plane]", "task.stages=3", "task.solvers.geodesic_paper.iterations=4"),
    "keys": ("data.keys=[{folder}/few/0.png,{folder}/few/1.png,{folder}/few/2.png]", "frames=5", "method=[slerp,lerp]"),
    "pipelines": (*PAIR, "frames=5", "task.integrator.steps=2"),
    "bench": (
        *PAIR,
        "task.interpolation=null",
        "task.batches=[1]",
        "task.seconds=0.01",
        "task.solvers.ours.tolerance=1e-3",
        "task.solvers.descent.max_evaluations=8",
        "~task.knots.knots_16",
        "~task.knots.knots_32",
        "task.folder={folder}/kept",
    ),
}


LONG = {"bench", "evolution", "extrapolation", "pipelines"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LONG else [])
        for name in sorted({file.stem for file in (CONF / "task").glob("*.yaml")} - set(APART))
    ],
)
def test_every_task(command_line, tiny_model_folder, folder, device, undrawn, name):
    tables = []
    for place in (NAME, "cpu"):
        run = folder / f"run-{place}"
        given = [f"experiment={name}", *(argument.format(folder=folder) for argument in TASKS[name])]
        with counting() as counts:
            outcome = command_line(
                *given, *TINY, f"model.path_or_name={tiny_model_folder}", f"model.device={place}", f"output_dir={run}"
            )
        assert outcome.code == 0, outcome.stderr
        assert bool(counts.uploads) == (place == NAME)
        tables.append(pd.read_csv(run / "results.csv"))
    pd.testing.assert_frame_equal(*map(repeatable, tables), rtol=1e-2, atol=1e-3)


def repeatable(table):
    """What of a table does not depend on the machine and the moment."""
    rows = table[~table["number"].str.contains(MEASURED)] if "number" in table else table
    return rows.drop(columns=[column for column in table if re.search(MEASURED, column)])


class Pretended(Accelerator):
    """The pretended device as Lightning wants to know it."""

    def setup_device(self, device):
        pass

    def teardown(self):
        pass

    @staticmethod
    def parse_devices(devices):
        return devices

    @staticmethod
    def get_parallel_devices(devices):
        return [NAME]

    @staticmethod
    def auto_device_count():
        return 1

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def name():
        return NAME


@pytest.mark.parametrize("loop", ["lightning", "one device"])
def test_training(tmp_path, device, loop):
    shards = [write_discs(tmp_path / str(seed), seed=seed, count=30) for seed in (0, 1)]
    trained = training_task(tmp_path, shards)
    for stage in ("autoencoder", "decoder", "diffusion", "attributes"):
        setattr(trained, stage, replace(getattr(trained, stage), precision="32-true"))

    class OnDevice(Run):
        """Every stage has a strategy of its own, as a run that names one has: it keeps what it was given."""

        def trainer(self, **options):
            strategy = SingleDeviceStrategy(device=device, accelerator=Pretended())
            return super().trainer(strategy=strategy, **options)

        def one_cuda_device(self):
            return device if loop == "one device" else None

    options = {"devices": 1, "enable_progress_bar": False}
    films = Films(fps=12, format="none")
    run = OnDevice(folder=tmp_path, seed=0, logger=RunLogger(), trainer_options=options, config={}, films=films)
    with counting() as counts:
        figures = trained.run(run)
    assert figures["psnr"] > 0
    assert counts.uploads
