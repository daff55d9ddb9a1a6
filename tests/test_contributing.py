"""The worked examples of CONTRIBUTING.md do what it says; pages are short, in one order, and their links lead on."""

import csv
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

import latent_geodesics as lg
from latent_geodesics import experiments
from latent_geodesics.core.errors import UserError

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".md": "markdown", ".json": "json"}
BLOCKS = re.findall(r"`((?:src|conf|experiments)/[\w/]+\.\w+)`:\n\n```(\w+)\n(.*?)```", TEXT, re.DOTALL)
FILES = {file: content for file, _, content in BLOCKS}
OF_AN_EXPERIMENT = {file for file in FILES if "/pace" in file}
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "experiments").glob("*/*.md")]
HEADINGS = ["Claim", "Command", "Picture", "Table", "Caveats"]


@pytest.fixture(scope="module")
def examples():
    """Every class of the examples of one module, by name."""
    names = {}
    for file, content in FILES.items():
        if file.endswith(".py") and file not in OF_AN_EXPERIMENT:
            exec(compile(content, file, "exec"), names)
    return names


@pytest.fixture
def pace(tmp_path, monkeypatch):
    """A folder with the five files of the experiment, which the package finds as one of its own."""
    for file in OF_AN_EXPERIMENT:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(FILES[file], encoding="utf-8")
    monkeypatch.setattr(
        experiments, "__path__", [*experiments.__path__, str(tmp_path / "src" / "latent_geodesics" / "experiments")]
    )
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("latent_geodesics.experiments.pace")]:
        del sys.modules[name]
    if hasattr(experiments, "pace"):
        del experiments.pace


def test_every_yaml_names_the_class_of_the_file_beside_it():
    assert len(FILES) == 11
    assert len(OF_AN_EXPERIMENT) == 5
    assert all(LANGUAGES[Path(file).suffix] == language for file, language, _ in BLOCKS)
    for file, content in FILES.items():
        if file.endswith(".yaml"):
            targets = re.findall(r"_target_: ([\w.]+)\.(\w+)", content)
            assert yaml.safe_load(content)
            assert targets
            for module, name in targets:
                assert f"class {name}" in FILES[f"src/{module.replace('.', '/')}.py"]


def test_the_method_joins_both_ends(examples):
    sphere = lg.Sphere(2.0)
    x0, x1 = sphere.project(torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))).unbind()
    problem = lg.BoundaryProblem(field=lg.PoincareBall(), manifold=sphere, x0=x0, x1=x1, alpha=0.1)
    path = examples["OverTheMean"](share=0.3).solve(problem).path
    points = path.point(torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(points[:, 0], x0)
    torch.testing.assert_close(points[:, 2], x1)
    assert bool(sphere.contains(points, 1e-5).all())


def test_the_metric_is_the_mean_of_the_frames(examples):
    frames = torch.rand(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = examples["Brightness"]().measure(SimpleNamespace(morph=SimpleNamespace(frames=frames)))
    torch.testing.assert_close(found["brightness"], frames.flatten(1).mean(1))


def test_the_data_set_reads_its_folders(examples, tmp_path):
    for name, count in (("one", 3), ("two", 1), ("three", 2)):
        (tmp_path / name).mkdir()
        for k in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{k}.png")
    data = examples["Stills"](root=str(tmp_path), batch_size=2)
    assert [pair.id for pair in data.pairs] == ["one", "three"]
    assert [len(pair.frames) for pair in data.pairs] == [3, 2]
    with pytest.raises(UserError, match=r"set data\.root"):
        examples["Stills"](root=str(tmp_path / "one"))


def test_the_experiment_runs_and_is_held_against_its_bounds(pace, pictures, command_line, tiny_model_folder):
    folder = pace / "run"
    arguments = (
        f"--config-dir={pace / 'conf'}",
        "experiment=pace",
        f"image_a={pictures / 'a.png'}",
        f"image_b={pictures / 'b.png'}",
        f"model.path_or_name={tiny_model_folder}",
        "model.steps=5",
        "model.cache_dir=null",
        "logger.mode=disabled",
        "method=[slerp,crossfade]",
        f"output_dir={folder}",
    )
    outcome = command_line(*arguments, f"expected={pace / 'experiments' / 'pace' / 'expected.json'}")
    assert outcome.code == 0, outcome.stderr
    summary = json.loads((folder / "summary.json").read_text())
    even = ((1 - 1 / 16**2) / 12) ** 0.5  # of sixteen equal steps at the middles of their intervals
    assert summary["crossfade/spread"] == pytest.approx(
        even, abs=1e-3
    )  # frames are measured as files of 8 bits hold them
    assert 0 < summary["slerp/spread"] < 0.5
    assert [row["method"] for row in csv.DictReader((folder / "results.csv").open())] == ["slerp", "crossfade"]
    assert len(list(csv.DictReader((folder / "steps.csv").open()))) == 2 * 16
    assert len(list((folder / "frames" / "slerp" / "a--b").glob("*.png"))) == 17
    assert (folder / "films" / "slerp" / "a--b.mp4").stat().st_size
    assert (folder / "figures" / "pace.png").stat().st_size
    page = (folder / "report.html").read_text()
    assert "How evenly sequences change" in page
    assert "a--b" in page


def test_the_experiment_tells_a_jump_from_an_even_pace(pace):
    from latent_geodesics.experiments.pace.recipe import changes, spread

    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    middles = (u[1:] + u[:-1]) / 2
    jump = (u > 0.5).double()[:, None, None, None].expand(-1, 3, 4, 4)
    assert spread(changes(jump), middles) == pytest.approx(0, abs=1e-9)
    halves = torch.where((u > 0.2) & (u < 0.8), 0.5, (u > 0.5).double())[:, None, None, None].expand(-1, 3, 4, 4)
    assert spread(changes(halves), middles) == pytest.approx(float((middles[6] - middles[1]) / 2))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_every_experiment_is_told_in_one_order():
    told = {file: file.read_text(encoding="utf-8") for file in (ROOT / "experiments").glob("*/README.md")}
    told[Path("pace")] = FILES["experiments/pace/README.md"]
    for file, page in told.items():
        found = re.findall(r"^## (.*)$", page, re.MULTILINE)
        assert found[: len(HEADINGS)] == HEADINGS, file
        assert set(found) <= {*HEADINGS, "Protocol", "Deviations from the paper"}, file


def test_every_link_leads_to_a_file():
    links = 0
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", prose):
            if not link.startswith("https://"):
                links += 1
                assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} leads to {link}"
    assert links > 50
