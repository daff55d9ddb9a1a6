"""A whole run through the command line, on a small model with random weights: what its folder must hold."""

import csv
import html
import json
import re

import av
import pandas as pd
import pytest
import yaml
from browser import check_page
from PIL import Image

from latent_geodesics.run.files import title_of
from latent_geodesics.run.results import STAGE_TITLES

METHODS = ["geodesic", "geodesic_paper", "slerp", "lerp"]
QUICK = "methods.geodesic_paper.solver.iterations=20"


@pytest.fixture
def interpolate(command_line, pictures, tiny_model_folder):
    def call(*arguments, folder="run", a="a.png", b="b.png"):
        return command_line(
            f"image_a={pictures / a}",
            f"image_b={pictures / b}",
            "prompt_a='a red cube'",
            "prompt_b='a blue sphere'",
            f"model.path_or_name={tiny_model_folder}",
            "model.steps=5",
            "model.cache_dir=null",
            "frames=5",
            f"output_dir={pictures / folder}",
            *arguments,
        )

    return call


@pytest.fixture
def offline_run(interpolate, pictures, once):
    """The folder of one run of all methods, which the tests below only read."""

    def run():
        outcome = interpolate(QUICK)
        assert outcome.code == 0, outcome.stderr
        return pictures / "run"

    return once("offline_run", run)


def test_a_run_leaves_a_whole_folder(offline_run):
    rows = list(csv.DictReader((offline_run / "results.csv").open()))
    assert [row["method"] for row in rows] == METHODS
    assert {"pair", "method", "status", "seconds", "evaluations"} <= set(rows[0])
    assert all(row["pair"] == "a--b" for row in rows)
    assert int(rows[0]["evaluations"]) > 0
    assert int(rows[2]["evaluations"]) == 0
    assert [row["status"] for row in rows[2:]] == ["closed_form"] * 2

    summary = json.loads((offline_run / "summary.json").read_text())
    assert all(isinstance(value, int | float) for value in summary.values())
    assert summary["slerp/length"] == pytest.approx(float(rows[2]["length"]))

    config = yaml.safe_load((offline_run / "config.yaml").read_text())
    assert config["frames"] == 5
    assert config["model"]["dtype"] == "auto"
    assert config["in_force"] == {"device": "cpu", "dtype": "float32", "layout": "channels_first"}
    assert "${" not in (offline_run / "config.yaml").read_text()

    environment = json.loads((offline_run / "environment.json").read_text())
    assert environment["seed"] == 0
    assert len(environment["weights"]["model"]) == 64
    assert environment["versions"]["torch"]

    assert {str(file) for file in environment["inputs"]} == {str(offline_run.parent / f"{name}.png") for name in "ab"}

    with Image.open(offline_run / "images" / "a--b.png") as strip:
        assert strip.height > 4 * 90
    for method in METHODS:
        with Image.open(offline_run / "images" / f"a--b_{method}.webp") as sprite:
            assert sprite.width == 5 * sprite.height
        frames = sorted((offline_run / "frames" / method / "a--b").iterdir())
        assert [file.name for file in frames] == [f"{number:04d}.png" for number in range(5)]
        with av.open(str(offline_run / "films" / method / "a--b.mp4")) as film:
            assert len(list(film.decode(video=0))) == 5
    assert {file.name for file in (offline_run / "figures").iterdir()} >= {
        "a--b.png",
        "overview.png",
        "grid.png",
        "grid.pdf",
    }
    assert list(offline_run.glob("wandb/offline-run-*/run-*.wandb"))
    assert not list(offline_run.rglob("*.partial*"))


def test_the_report_stands_alone(offline_run):
    page = (offline_run / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert page.count("data:image/png;base64,") >= 3
    for method in METHODS:
        assert html.escape(title_of(method)) in page
    assert re.search(r"<figcaption>Slerp <b>(fade|morph|jump)</b></figcaption>", page)


def test_the_report_in_a_browser(offline_run):
    check_page(offline_run / "report.html")


def test_the_same_seed_gives_the_same_table(interpolate, pictures, undrawn):
    tables = []
    for folder in ("first", "second"):
        assert interpolate("logger.mode=disabled", "method=[geodesic,slerp]", folder=folder).code == 0
        rows = list(csv.DictReader((pictures / folder / "results.csv").open()))
        measured = ("seconds", "peak_memory_mb", *STAGE_TITLES)
        tables.append([{name: value for name, value in row.items() if name not in measured} for row in rows])
        assert not (pictures / folder / "wandb").exists()
    assert tables[0] == tables[1]


def test_one_density_closes_and_a_moving_one_has_no_length(interpolate, pictures):
    for condition in ("mean", "moving"):
        chosen = ("method=[geodesic,slerp]", f"condition={condition}", "alpha_d=3", "logger.mode=disabled")
        assert interpolate(*chosen, folder=condition).code == 0
        geodesic, slerp = csv.DictReader((pictures / condition / "results.csv").open())
        summary = json.loads((pictures / condition / "summary.json").read_text())
        for column in ("length", "log_density_mean", "closure"):
            assert (geodesic[column] == "") == (condition == "moving")
            assert (f"geodesic/{column}" in summary) == (condition == "mean")
        assert ("geodesic/length_better_than_slerp" in summary) <= (condition == "mean")
        assert geodesic["strength"] == slerp["strength"] != ""
        assert geodesic["noise_norm"] != slerp["noise_norm"] != ""
    assert "moving with u: no one density" not in (pictures / "mean" / "report.html").read_text()


def test_identical_images_are_simply_handled(interpolate, pictures):
    outcome = interpolate("logger.mode=disabled", "method=[geodesic,slerp,lerp]", "prompt_b='a red cube'", b="a.png")
    assert outcome.code == 0, outcome.stderr
    rows = list(csv.DictReader((pictures / "run" / "results.csv").open()))
    assert rows[0]["status"] == "coincident_ends"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tau=0"], "tau"),
        (["tau=1.5"], "1.5"),
        (["tau=high"], "tau"),
        (["alpha=-1"], "alpha"),
        (["alpha=.inf"], "alpha"),
        (["geometry=graph", "geometry.lam=-1"], "lam must be a finite number, at least zero; received -1"),
        (["geometry=typical", "geometry.width=0"], "width must be above zero"),
        (["frames=1"], "frames"),
        (["guidance=-2"], "guidance"),
        (["method=[]"], "No method was chosen"),
        (["image_a=nowhere.png"], "nowhere.png"),
        (["model.path_or_name=no/such/folder"], "no/such/folder"),
        (["metrics.perceptual.network=no/such/network"], "no/such/network"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(interpolate, arguments, words):
    outcome = interpolate("logger.mode=disabled", *arguments)
    assert outcome.code == 2, outcome.stderr
    assert words in outcome.sentence


@pytest.mark.parametrize("geometry", ["graph", "typical"])
def test_another_geometry_is_solved_for_and_measured_by(interpolate, pictures, undrawn, geometry):
    strong = {"graph": "geometry.lam=1", "typical": "geometry.width=0.1"}[geometry]
    arguments = ("method=[geodesic,slerp]", f"geometry={geometry}", strong, "alpha=0.05", "condition=mean")
    outcome = interpolate(*arguments, "logger.mode=disabled")
    assert outcome.code == 0, outcome.stderr
    rows = {row["method"]: row for row in csv.DictReader((pictures / "run" / "results.csv").open())}
    assert rows["geodesic"]["status"] == "converged"
    assert float(rows["geodesic"]["length"]) < float(rows["slerp"]["length"])
    assert float(rows["geodesic"]["residual_mean"]) < 0.1 * float(rows["slerp"]["residual_mean"])


def test_a_run_without_metrics_measures_nothing(interpolate, pictures):
    outcome = interpolate(QUICK, "metrics=[]", "logger.mode=disabled")
    assert outcome.code == 0
    for place in (outcome.stdout + outcome.stderr, (pictures / "run" / "report.html").read_text()):
        assert place.count("The model does not know the images of") == 1, "a network with random weights"
    assert pd.read_csv(pictures / "run" / "results.csv")["unknown"].str.fullmatch(r"given back with \d+\.\d dB").all()
    assert json.loads((pictures / "run" / "metrics.json").read_text()) == {"records": [], "skipped": {}}


def test_an_interrupt_keeps_what_was_finished(interpolate, pictures, monkeypatch, undrawn):
    from latent_geodesics.methods import Slerp

    def interrupted(self, problem):
        raise KeyboardInterrupt

    monkeypatch.setattr(Slerp, "solve", interrupted)
    outcome = interpolate(QUICK, "logger.mode=disabled")
    assert outcome.code == 130
    assert (pictures / "run" / "config.yaml").exists()


def test_a_run_of_other_images_is_another_run(interpolate, pictures, undrawn):
    chosen = ("method=[slerp]", "metrics=[]", "logger.mode=disabled", "format=none")
    assert interpolate(*chosen).code == 0
    made = (pictures / "run" / "ends" / "a--b_a.png").read_bytes()
    assert interpolate(*chosen).code == 0, "nothing is done again"
    (pictures / "a.png").write_bytes((pictures / "b.png").read_bytes())
    refused = interpolate(*chosen)
    assert refused.code == 2
    assert f"{pictures / 'a.png'}' has changed since" in refused.sentence
    (pictures / "run" / "summary.json").unlink()  # as if it had been interrupted
    refused = interpolate(*chosen)
    assert refused.code == 2
    assert "'a--b.image_a' is not what it was" in refused.sentence
    assert (pictures / "run" / "ends" / "a--b_a.png").read_bytes() == made


def test_a_sweep_is_compared_and_held_against_its_expectations(interpolate, pictures):
    (pictures / "bounds.json").write_text('{"slerp[alpha=0.02]/evaluations": {"at_least": 1}}')
    outcome = interpolate(
        "hydra.mode=MULTIRUN",
        "alpha=0.01,0.02",
        "method=[geodesic,slerp]",
        f"expected={pictures / 'bounds.json'}",
        folder="sweep",
    )
    assert outcome.code == 2
    assert "1 of 1 expectations" in outcome.sentence
    assert sorted(file.parent.name for file in (pictures / "sweep").glob("*/results.csv")) == ["0", "1"]
    rows = list(csv.DictReader((pictures / "sweep" / "comparison.csv").open()))
    assert {row["alpha"] for row in rows} == {"0.01", "0.02"}
    assert "As the settings vary" in (pictures / "sweep" / "report.html").read_text()


def test_a_sweep_that_was_cut_off_goes_on_with_the_jobs_that_it_lacks(interpolate, pictures, monkeypatch, undrawn):
    from latent_geodesics.experiments.interpolation.recipe import PairInterpolation

    done, run = [], PairInterpolation.run

    def counted(self, run_):
        done.append(run_.folder.name)
        if len(done) == 2:
            raise KeyboardInterrupt
        return run(self, run_)

    def sweep(values):
        return interpolate(
            "hydra.mode=MULTIRUN", f"alpha={values}", "method=[slerp]", "logger.mode=disabled", folder="sweep"
        )

    monkeypatch.setattr(PairInterpolation, "run", counted)
    assert sweep("0.01,0.02").code == 130
    assert not (pictures / "sweep" / "report.html").exists()
    assert sweep("0.01,0.02").code == 0
    assert done == ["0", "1", "1"]
    rows = list(csv.DictReader((pictures / "sweep" / "comparison.csv").open()))
    assert {row["alpha"] for row in rows} == {"0.01", "0.02"}
    refused = sweep("0.01,0.03")
    assert refused.code == 2
    assert "already holds a finished run" in refused.sentence
