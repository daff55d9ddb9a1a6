"""A wrong argument is answered before the libraries that take long to import are: none of these needs torch."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import latent_geodesics

ROOT = Path(__file__).parents[1]
SOURCE = Path(latent_geodesics.__file__).parent
HEAVY = ("torch", "numpy", "scipy", "pandas", "matplotlib", "cv2", "torchvision", "torchmetrics", "pytorch_lightning",
         "diffusers", "transformers", "wandb")  # fmt: skip

# Each is answered in turn by one process, which then tells what it had to import.
REFUSED = {
    "experiment=dmo": "Did you mean 'demo'?",
    "method=[geodesc]": "Did you mean 'geodesic'?",
    "model=clver": "Did you mean 'clevr_ldm'?",
    "alhpa=1": "Did you mean 'alpha'?",
    "data.limt=3": "Did you mean 'data.limit'?",
    "data.keys=[README.md]": "It belongs to data=keys.",
    "times=[0,1]": "It belongs to experiment=keys.",
    "limit=3": "Did you mean 'data.limit'?",
    "metod=slerp": "Did you mean 'method'?",
    "method.slerp=1": "below 'methods'",
    "score=null": "score=<value>",
    "logger=null": "logger=<name>",
    "+alhpa=1": "Did you mean 'alpha'?",
    "data=folder data.root=data/pairs/images data.paring=names": "Did you mean 'data.pairing'?",
    "experiment=keys data.keys=[README.md,READM.md]": "Did you mean 'README.md'?",
    "--alpha=1": "alpha=<value>",
    "alpha=0.1,0.2": "add -m",
    "textual_inversion={stpes:500}": "Did you mean 'steps'?",
    "image_a=nope.png image_b=README.md": "The image 'nope.png' (image_a) does not exist",
    "image_a=conf image_b=README.md": "'conf' (image_a) is a folder",
    "image_a=READM.md image_b=README.md": "Did you mean 'README.md'?",
    "data.manifest=data/pairs/manifst.csv": "Did you mean 'data/pairs/manifest.csv'?",
    "model.path_or_name=data/models/clevr-ldmm": "data/models/clevr-ldmm (no such folder",
    "model.path_or_name=[data/models/nope,nobody/nothing]": "nobody/nothing (no such folder; ",
    "model.path_or_name=data/models": "no model_index.json",
    "expected=experiments/demo/expcted.json": "Did you mean 'experiments/demo/expected.json'?",
    "metrics=typicality metrics.typicality.reference=nope": "metrics.typicality.reference",
    "metrics=lpips_alex weights.files={alexnet:nope.pth}": "weights.files.alexnet",
    "experiment=truth metrics.floor.scenes=nope": "metrics.floor.scenes",
    "experiment=video_analysis data.video=nope.mp4": "The video 'nope.mp4' (data.video)",
    "experiment=extrapolation velocity=file velocities.file.file=nope": "velocities.file.file",
    "experiment=distances task.known=nope": "task.known",
    "data=afhq data.root=nope": "data.root",
    "task=report task.runs=[conf,nope]": "The folder 'nope' (task.runs) does not exist",
    "output_dir=README.md/run": "a part of that path is a file",
}

# `runs` is a folder of the test's own.
PROGRAM = """
import contextlib, io, json, os, runpy, sys
from hydra._internal.hydra import Hydra
Hydra.get_mode = lambda *given, **options: None  # composes all of it once more, to find what none of these says
answers = []
for line in json.load(sys.stdin):
    arguments = line.split(" ")
    if not any(each.startswith("output_dir") for each in arguments):
        arguments.append("output_dir=" + sys.argv_runs)
    sys.argv = ["run.py", *arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path("run.py", run_name="__main__")
        code = 0
    except SystemExit as left:
        code = left.code
    answers.append([code, said.getvalue(), [name for name in sys.argv_heavy if name in sys.modules]])
print(json.dumps(answers))
"""


def test_wrong_arguments_are_one_sentence_before_anything_heavy_is_imported(tmp_path):
    program = PROGRAM.replace("sys.argv_runs", repr(str(tmp_path / "run"))).replace("sys.argv_heavy", repr(HEAVY))
    ended = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(list(REFUSED)), capture_output=True, text=True, cwd=ROOT,
        check=False, timeout=300, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    for (arguments, words), (code, said, imported) in zip(REFUSED.items(), json.loads(ended.stdout), strict=True):
        sentences = [line for line in said.splitlines() if line.startswith("error: ")]
        assert (code, len(sentences), imported) == (2, 1, []), (arguments, said)
        assert words in sentences[0], arguments
    assert not (tmp_path / "run").exists()  # nothing ran there


def test_what_the_data_name_is_missed_before_the_model_is_loaded(tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("id,group,image_a,image_b,prompt_a,prompt_b\nx,g,nope.png,nope.png,a,b\n")
    program = (
        "import runpy, sys\n"
        "try: runpy.run_path('run.py', run_name='__main__')\n"
        f"finally: sys.stderr.write(repr([name for name in {HEAVY[5:]} if name in sys.modules]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, f"data.manifest={manifest}", f"output_dir={tmp_path / 'run'}"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "nope.png" in ended.stderr
    assert ended.stderr.endswith("[]")


PACKAGES = [SOURCE / "__init__.py", SOURCE / "models" / "__init__.py", SOURCE / "data" / "__init__.py"]


@pytest.mark.parametrize("file", PACKAGES, ids=lambda file: file.parent.name)
def test_the_names_of_a_package_are_those_that_type_checkers_see(file):
    package = __import__(".".join(file.parent.relative_to(SOURCE.parent).parts), fromlist=["x"])
    imported = {
        name.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    } - {"TYPE_CHECKING", "install", "names_on_demand"}
    assert set(package.__all__) == imported
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    for module in file.parent.glob("*.py"):
        # A module of the same name would take the place of what it defines as soon as it is imported.
        assert module.stem not in package.__all__ or module.stem in ("geometry", "solvers")


def test_submodules_are_attributes_and_star_imports_work():
    found: dict[str, object] = {}
    exec("from latent_geodesics import *", found)
    assert found["solvers"] is latent_geodesics.core.solvers
    assert found["BoundaryProblem"] is latent_geodesics.core.records.BoundaryProblem
    with pytest.raises(AttributeError, match="nonsense"):
        _ = latent_geodesics.nonsense


def seconds(*command: str) -> float:
    """The best of three: what else the machine does only ever slows a start."""
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=False)
        best = min(best, time.perf_counter() - started)
    return best


@pytest.mark.slow
def test_starting_costs_little_beside_importing_torch(tmp_path):
    torch = seconds("-c", "import torch")
    assert seconds("-c", "import latent_geodesics") <= 1.2 * torch
    for arguments in ("data.manifest=nope.csv", "experiment=dmo", "data.limt=3", "+data.limt=3"):
        assert seconds("run.py", arguments, f"output_dir={tmp_path / 'run'}") <= 2.5 * torch, arguments
