"""Extrapolation through the command line, on a small model with random weights: what its folder must hold."""

import csv
import json
import re

import pytest
import torch
from browser import check_page
from PIL import Image, ImageDraw
from safetensors.torch import load_file

METHODS = ["parallel", "slerp", "lerp"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name, color, box in (("a", "red", (2, 2, 9, 9)), ("b", "blue", (6, 6, 14, 14))):
        picture = Image.new("RGB", (16, 16), "gray")
        ImageDraw.Draw(picture).rectangle(box, fill=color)
        picture.save(tmp_path / "in" / f"{name}.png")
    return tmp_path


@pytest.fixture
def extrapolate(command_line, folder, tiny_model_folder):
    def call(*arguments, out="run", images="in"):
        return command_line(
            "experiment=extrapolation",
            f"task.images={folder / images}",
            "task.prompt='a red cube'",
            "task.reference_images=4",
            "integrator=[parallel]",
            f"model.path_or_name={tiny_model_folder}",
            "model.steps=5",
            "model.cache_dir=null",
            "frames=3",
            "logger.mode=disabled",
            f"output_dir={folder / out}",
            *arguments,
        )

    return call


def rows_of(folder, out="run"):
    return list(csv.DictReader((folder / out / "results.csv").open()))


def test_a_run_leaves_a_whole_folder(extrapolate, folder):
    outcome = extrapolate("velocity=[boundary,images,prompt,random]", "logger.mode=offline")
    assert outcome.code == 0, outcome.stderr
    run, rows = folder / "run", rows_of(folder)
    assert {"pair", "velocity", "method", "status", "seconds", "evaluations", "sequential"} <= set(rows[0])
    # The last file of a folder has none after it to lead to.
    assert [row["pair"] for row in rows if row["velocity"] == "boundary" and row["method"] == "lerp"] == ["a"]
    assert [row["pair"] for row in rows if row["velocity"] == "random" and row["method"] == "lerp"] == ["a", "b"]
    assert [row["method"] for row in rows if (row["pair"], row["velocity"]) == ("a", "prompt")] == METHODS
    for row in rows:
        assert row["status"] in {"integrated", "closed_form", "left_plausible"}
        assert (int(row["evaluations"]) > 0) == (row["method"] == "parallel")
        assert 0 <= float(row["plausible_until"] or 0) <= 1
        leads = row["velocity"] == "boundary"
        assert bool(row["origin"]) == leads
        assert bool(row["returned"]) == leads
    summary = json.loads((run / "summary.json").read_text())
    assert all(isinstance(value, int | float) for value in summary.values())
    assert summary["finished_share"] == 1
    assert summary["apart_worst"] == 0
    assert summary["returned_worst"] < 0.01
    for name in ("config.yaml", "environment.json", "report.html", "curves.csv", "figures/overview.png"):
        assert (run / name).exists()
    with Image.open(run / "images" / "a_boundary.png") as strip:
        assert strip.height > 4 * 90
    assert len(list((run / "frames" / "parallel" / "a_boundary").glob("*.png"))) == 5
    assert len(list((run / "frames" / "slerp" / "b_random").glob("*.png"))) == 3
    assert list(run.glob("wandb/offline-run-*/run-*.wandb"))
    assert not list(run.rglob("*.partial*"))
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * 6 + 1
    assert "plausible" in page
    assert "Geodesic (parallel)" in page, "methods are called alike in figures, tables and players"
    assert not re.search(r">\s*(Parallel|Slerp)\s*<", page)
    check_page(run / "report.html")


def test_integrators_agree_and_are_listed(extrapolate, folder, undrawn):
    chosen = "integrator=[parallel,rk4,adaptive]"
    quick = ("task.baselines=false", "integrators.rk4.steps=20")
    assert extrapolate("velocity=[random]", chosen, *quick, images="in/a.png").code == 0
    rows = rows_of(folder)
    assert [row["method"] for row in rows] == ["parallel", "rk4", "adaptive"]
    assert {row["status"] for row in rows} <= {"integrated", "left_plausible"}
    assert all(float(row["apart"]) < 1e-3 for row in rows)
    assert [int(row["evaluations"]) for row in rows if row["method"] == "rk4"] == [81]


@pytest.mark.parametrize(
    ("geometry", "evaluations"),
    [
        pytest.param(["geometry=graph", "geometry.lam=1"], 243, marks=pytest.mark.slow),
        (["geometry=typical", "geometry.from_start=true"], 81),
    ],
    ids=["graph", "typical"],
)
def test_integrators_agree_in_other_geometries(extrapolate, folder, undrawn, geometry, evaluations):
    arguments = ("velocity=[random]", "integrator=[parallel,rk4,adaptive]", "alpha=0.05", *geometry)
    quick = ("task.baselines=false", "integrators.rk4.steps=20")
    outcome = extrapolate(*arguments, *quick, images="in/a.png")
    assert outcome.code == 0, outcome.stderr
    rows = rows_of(folder)
    assert {row["status"] for row in rows} <= {"integrated", "left_plausible"}
    assert all(float(row["apart"]) < 2e-3 for row in rows)
    assert [int(row["evaluations"]) for row in rows if row["method"] == "rk4"] == [evaluations]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_paths_and_another_others(extrapolate, folder):
    tables = []
    for out, seed in (("first", 0), ("second", 0), ("third", 1)):
        arguments = ("velocity=[random]", "task.baselines=false", f"seed={seed}")
        assert extrapolate(*arguments, images="in/a.png", out=out).code == 0
        ignored = ("seconds", "seconds_solving")
        tables.append([{k: v for k, v in row.items() if k not in ignored} for row in rows_of(folder, out)])
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]


def test_a_single_file_and_a_file_of_velocities(extrapolate, folder, undrawn):
    first = extrapolate("velocity=[random]", "task.baselines=false", images="in/b.png", out="first")
    assert first.code == 0, first.stderr
    saved = folder / "first" / "velocities" / "random.safetensors"
    assert list(load_file(saved)) == ["b"]
    again = extrapolate(
        "velocity=[file]", f"velocities.file.file={saved}", "task.baselines=false", images="in/b.png", out="again"
    )
    assert again.code == 0, again.stderr
    one, two = rows_of(folder, "first")[0], rows_of(folder, "again")[0]
    assert float(two["log_density_end"]) == pytest.approx(float(one["log_density_end"]), rel=1e-4)


def test_a_velocity_without_a_direction_leaves_nothing_that_looks_whole(extrapolate, folder):
    torch.save(torch.zeros(256), folder / "v.pt")
    outcome = extrapolate("velocity=[file]", f"velocities.file.file={folder / 'v.pt'}", images="in/a.png")
    assert outcome.code == 2
    assert "'a'" in outcome.sentence
    assert "is zero" in outcome.sentence
    for name in ("summary.json", "report.html", "results.csv"):
        assert not (folder / "run" / name).exists()


@pytest.mark.parametrize(
    ("arguments", "images", "words"),
    [
        (["velocity=[boundary]"], "in/a.png", "there is only one"),
        (["velocity=[prompt]", "velocities.prompt.prompt='a red cube'"], "in", "is zero"),
        (["velocity=[random]", "velocities.random.angle=-1"], "in", "angle"),
        (["velocity=[images]", "velocities.images.share=0"], "in", "share"),
        (["velocity=[random]"], "nowhere", "nowhere"),
        (["velocity=[random]", "task.images=null", "task.pairs=[nonsense]"], "in", "no pair 'nonsense'"),
        (["velocity=[random]", "task.reference_images=3"], "in", "reference"),
        (["velocity=[random]", "frames=1"], "in", "frames"),
        (["velocity=[random]", "tau=1.2"], "in", "tau"),
        (["velocity=[]"], "in", "No initial velocity"),
        (["velocity=[random]", "integrator=[]"], "in", "No integrator"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(extrapolate, arguments, images, words):
    outcome = extrapolate(*arguments, images=images)
    assert outcome.code == 2
    assert words in outcome.sentence


@pytest.mark.slow
def test_a_path_that_leaves_what_is_plausible_says_so(extrapolate, folder):
    outcome = extrapolate("velocity=[random]", "velocities.random.angle=1.5", "alpha=0", images="in/a.png")
    assert outcome.code == 0, outcome.stderr
    straight = [row for row in rows_of(folder) if row["method"] == "lerp"]
    assert {row["status"] for row in straight} == {"left_plausible"}
    assert all(float(row["plausible_until"] or 0) < 1 for row in straight)
    assert all(float(row["norm_end"]) > 0 for row in straight)
    assert "not to be trusted" in (folder / "run" / "report.html").read_text()
