"""The toy run through the command line: a whole folder, a density that a user wrote, and what cannot be drawn."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from browser import check_page
from PIL import Image

from latent_geodesics.experiments.toy.paths import find_paths

ROOT = Path(__file__).parents[1]
README = ROOT / "experiments" / "toy" / "README.md"
FAST = (
    "task.integrator.steps=60", "solver.intervals=32", "solver.tolerance=1e-5",
    "task.solvers.geodesic_paper.iterations=40",
)  # fmt: skip


def rows_of(folder):
    return list(csv.DictReader((folder / "results.csv").open()))


def code_of(language):
    """The one block of that language in the experiment's README."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S)
    return block


@pytest.fixture
def draw(command_line, tmp_path):
    def call(*arguments):
        return command_line("experiment=toy", f"output_dir={tmp_path / 'run'}", *FAST, *arguments)

    return call


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder of the user's own, as the README has it: a module and a file of the density group."""
    monkeypatch.delitem(sys.modules, "wave", raising=False)  # the standard library has one too
    folder = tmp_path / "mine"
    (folder / "density").mkdir(parents=True)
    (folder / "wave.py").write_text(code_of("python"))
    (folder / "density" / "wave.yaml").write_text(code_of("yaml"))
    monkeypatch.syspath_prepend(folder)
    return folder


def test_a_run_leaves_a_whole_folder(draw, tmp_path):
    outcome = draw("density=[half_plane,poincare_disc]")
    assert outcome.code == 0, outcome.stderr
    folder = tmp_path / "run"
    rows = rows_of(folder)
    assert {"pair", "method", "status", "seconds", "evaluations", "length"} <= set(rows[0])
    methods = ["straight_line", "geodesic", "geodesic_paper", "carried_on", "exact"]
    assert [(row["pair"], row["method"]) for row in rows] == [
        (scene, method) for scene in ("half_plane", "poincare_disc") for method in methods
    ]
    summary = json.loads((folder / "summary.json").read_text())
    assert all(isinstance(value, int | float) for value in summary.values())
    assert summary["geodesic/shorter_than_straight"] == 1
    assert summary["geodesic/deviation_max"] < 1e-4
    assert summary["carried_on/end_miss_max"] < 1e-3
    assert summary["half_plane/geodesic/length"] == pytest.approx(summary["half_plane/exact/length"], rel=1e-5)
    assert "${" not in (folder / "config.yaml").read_text()
    assert json.loads((folder / "environment.json").read_text())["seed"] == 0
    for name in ("toy", "half_plane", "poincare_disc"):
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert picture.width > 1500
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "geodesic_paper" not in page
    assert "geodesic, the paper&#39;s descent" in page, "a path is called alike in figures and tables"
    check_page(folder / "report.html")
    assert list(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert not list(folder.rglob("*.partial*"))


def test_the_readme_example_is_complete_and_runs(draw, mine, tmp_path):
    lines = [line for language in ("python", "yaml") for line in code_of(language).splitlines() if line.strip()]
    assert len(lines) <= 10
    outcome = draw("logger.mode=disabled", "density=wave", "--config-dir", str(mine))
    assert outcome.code == 0, outcome.stderr
    found = {row["method"]: row for row in rows_of(tmp_path / "run")}
    assert {row["pair"] for row in found.values()} == {"wave"}
    assert float(found["geodesic"]["length"]) < 0.9 * float(found["straight_line"]["length"])
    assert (tmp_path / "run" / "figures" / "wave.png").exists()


def test_a_file_that_does_not_say_where_it_belongs_is_understood(draw, mine, tmp_path):
    file = mine / "density" / "wave.yaml"
    described = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(described))
    outcome = draw("logger.mode=disabled", "density=wave", "--config-dir", str(mine))
    assert outcome.code == 0, outcome.stderr
    assert {row["pair"] for row in rows_of(tmp_path / "run")} == {"density"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["density=[]"], "No density was chosen"),
        (["density=rings"], "rings"),
        (["densities.half_plane.a=[0,-1]"], "not finite at its ends"),
        (["densities.half_plane.a=[0,1,2]"], "two finite numbers"),
        (["densities.half_plane.density._target_=my_module.Banana"], "my_module"),
        (["densities.half_plane.density._target_=latent_geodesics.Euclidean"], "subclass latent_geodesics.Density"),
        (["task.beyond=-1"], "beyond"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(draw, tmp_path, arguments, words):
    chosen = [] if any(argument.startswith("density=") for argument in arguments) else ["density=[half_plane]"]
    outcome = draw("logger.mode=disabled", *chosen, *arguments)
    assert outcome.code == 2, outcome.stderr
    assert words in outcome.sentence
    assert not (tmp_path / "run" / "results.csv").exists()


def test_a_density_that_breaks_on_the_way_is_said_and_the_rest_is_kept(draw, mine, tmp_path):
    (mine / "broken.py").write_text(
        "import torch, latent_geodesics as lg\n"
        "class Broken(lg.Density):\n"
        "    def log_prob(self, x, u):\n"
        "        return torch.where(x[..., 0].abs() < 0.5, torch.nan, -x.square().sum(-1))\n"
    )
    (mine / "density" / "broken.yaml").write_text(
        "# @package densities.broken\ndensity: {_target_: broken.Broken}\na: [-1, 0.2]\nb: [1, 0]\n"
    )
    outcome = draw("logger.mode=disabled", "density=[half_plane,broken]", "--config-dir", str(mine))
    assert outcome.code == 2, outcome.stderr
    assert "broken was not finite" in outcome.sentence
    found = {(row["pair"], row["method"]): row for row in rows_of(tmp_path / "run")}
    assert found["broken", "geodesic"]["length"] == ""
    assert found["half_plane", "geodesic"]["status"] == "converged"
    assert not (tmp_path / "run" / "summary.json").exists()


def test_an_interrupted_run_shows_what_is_done_and_goes_on(draw, tmp_path, monkeypatch):
    folder, solved = tmp_path / "run", []

    def cut(scene, *given, **options):
        solved.append(scene.name)
        if len(solved) == 2:
            raise KeyboardInterrupt
        return find_paths(scene, *given, **options)

    monkeypatch.setattr("latent_geodesics.experiments.toy.recipe.find_paths", cut)
    given = ("logger.mode=disabled", "density=[half_plane,poincare_disc]")
    assert draw(*given).code == 130
    assert {row["pair"] for row in rows_of(folder)} == {"half_plane"}
    assert "1 of 2: not finished" in (folder / "report.html").read_text()
    assert not (folder / "summary.json").exists()
    assert draw(*given).code == 0
    assert solved == ["half_plane", "poincare_disc", "poincare_disc"]
    assert len(rows_of(folder)) == 10
    assert (folder / "report.html").read_text().count("data:image/png;base64,") == 3


@pytest.mark.slow
def test_two_processes_share_the_densities(tmp_path):
    command = [sys.executable, str(ROOT / "run.py"), "experiment=toy", "logger.mode=disabled", *FAST]
    for name in ("one", "two"):
        more = (f"output_dir={tmp_path / name}", f"trainer.devices={1 + (name == 'two')}")
        assert (
            subprocess.run([*command, "density=[ring,half_plane,moons]", *more], cwd=ROOT, check=False).returncode == 0
        )
    one, two = (pd.read_csv(tmp_path / name / "results.csv").drop(columns="seconds") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, rtol=1e-9)
    assert (tmp_path / "two" / "figures" / "toy.png").exists()
