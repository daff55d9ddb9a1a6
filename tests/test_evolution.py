"""The evolution run through the command line: in the plane, and on a pair of images with a small random model."""

import csv
import json

import pytest
from browser import check_page
from PIL import Image

from latent_geodesics.experiments.evolution.subjects import watch_solver

QUICK = "task.solvers.geodesic_paper.iterations=20"
PLANE = ("task.pair=null", "density=[half_plane]", "task.stages=4")


@pytest.fixture
def evolve(command_line, tiny_model_folder, tmp_path):
    def call(*arguments):
        return command_line(
            "experiment=evolution",
            f"output_dir={tmp_path / 'run'}",
            f"model.path_or_name={tiny_model_folder}",
            "model.steps=5",
            "model.cache_dir=null",
            "logger.mode=disabled",
            *arguments,
        )

    return call


def table(folder, name):
    return list(csv.DictReader((folder / name).open()))


def test_in_the_plane_the_path_grows_shorter(evolve, tmp_path):
    outcome = evolve(*PLANE)
    assert outcome.code == 0, outcome.stderr
    folder = tmp_path / "run"
    rows = table(folder, "results.csv")
    assert [row["method"] for row in rows] == ["geodesic", "geodesic_paper"]
    assert {"pair", "status", "seconds", "evaluations"} <= set(rows[0])
    for row in rows:
        assert float(row["length"]) < float(row["length_first"])
    assert float(rows[0]["length_first"]) == pytest.approx(float(rows[1]["length_first"]), rel=1e-6)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["half_plane/geodesic/residual_over_first"] < 0.01
    assert summary["half_plane/geodesic/length_over_geodesic_paper"] < 1
    stages = [row for row in table(folder, "stages.csv") if row["method"] == "geodesic"]
    costs = [int(row["evaluations"]) for row in stages]
    assert costs == sorted(set(costs))
    assert costs[-1] == int(rows[0]["evaluations"])
    assert (folder / "figures" / "evolution_half_plane.png").exists()
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "geodesic_paper" not in page
    assert "Geodesic paper" not in page, "solvers are called alike in figures and tables"
    check_page(folder / "report.html")


def test_of_a_pair_of_images_the_middle_frames_are_shown(evolve, pictures):
    outcome = evolve(
        "density=[half_plane]", "task.stages=3", QUICK, f"image_a={pictures / 'a.png'}", f"image_b={pictures / 'b.png'}"
    )
    assert outcome.code == 0, outcome.stderr
    folder = pictures / "run"
    assert [row["pair"] for row in table(folder, "results.csv")] == ["half_plane", "half_plane", "a--b", "a--b"]
    with Image.open(folder / "images" / "a--b_middle.png") as strip:
        assert strip.height > 180
    assert (folder / "figures" / "evolution_a--b.png").exists()
    environment = json.loads((folder / "environment.json").read_text())
    assert len(environment["weights"]["model"]) == 64
    assert {"dtype", "layout"} <= set(environment["network"])


def test_under_a_moving_prompt_there_is_no_length(evolve, pictures):
    ends = [f"image_{side}={pictures / f'{side}.png'}" for side in "ab"]
    prompts = ["prompt_a='a red cube'", "prompt_b='a blue sphere'"]
    outcome = evolve("density=[half_plane]", "task.stages=2", QUICK, "condition=moving", *ends, *prompts)
    assert outcome.code == 0, outcome.stderr
    for name, columns in {"results.csv": ("length", "closure"), "stages.csv": ("length", "log_density_mean")}.items():
        for row in table(pictures / "run", name):
            assert all((row[column] == "") == (row["pair"] == "a--b") for column in columns)
            assert row["residual"]
    summary = json.loads((pictures / "run" / "summary.json").read_text())
    assert "a--b/geodesic/residual" in summary
    assert "half_plane/geodesic/length" in summary
    assert not [name for name in summary if name.startswith("a--b") and ("length" in name or "density" in name)]


def test_an_interrupted_run_shows_what_is_done_and_goes_on(evolve, tmp_path, monkeypatch, undrawn):
    folder, watched = tmp_path / "run", []

    def cut(subject, method, *given, **options):
        watched.append((subject.name, method))
        if len(watched) == 4:
            raise KeyboardInterrupt
        return watch_solver(subject, method, *given, **options)

    monkeypatch.setattr("latent_geodesics.experiments.evolution.recipe.watch_solver", cut)
    given = ("task.pair=null", "density=[half_plane,moons]", "task.stages=2", QUICK)
    assert evolve(*given).code == 130
    assert {row["pair"] for name in ("results.csv", "stages.csv") for row in table(folder, name)} == {"half_plane"}
    assert "1 of 2: not finished" in (folder / "report.html").read_text()
    watched.clear()
    assert evolve(*given).code == 0
    assert {name for name, _ in watched} == {"moons"}
    assert [row["pair"] for row in table(folder, "results.csv")] == ["half_plane"] * 2 + ["moons"] * 2
    assert (folder / "report.html").read_text().count("data:image/png;base64,") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["task.stages=1"], "stages"),
        (["task.stages=many"], "stages"),
        (["task.pair=no-such-pair"], "no-such-pair"),
        (["tau=1.5"], "tau"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(evolve, arguments, words):
    outcome = evolve("density=[half_plane]", *arguments)
    assert outcome.code == 2, outcome.stderr
    assert words in outcome.sentence
