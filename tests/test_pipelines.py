"""Both pipelines through the command line, on a small model with random weights."""

import csv
import json

import pytest
from browser import check_page
from PIL import Image


@pytest.fixture
def show(command_line, tiny_model_folder, pictures):
    def call(*arguments):
        return command_line(
            "experiment=pipelines",
            f"image_a={pictures / 'a.png'}",
            f"image_b={pictures / 'b.png'}",
            "prompt_a='a small red cube and a large green metal sphere beside a very long wall'",
            f"output_dir={pictures / 'run'}",
            f"model.path_or_name={tiny_model_folder}",
            "model.steps=5",
            "model.cache_dir=null",
            "logger.mode=disabled",
            "frames=5",
            "task.integrator.steps=4",
            *arguments,
        )

    return call


def test_a_run_leaves_a_whole_folder(show, pictures):
    outcome = show()
    assert outcome.code == 0, outcome.stderr
    folder = pictures / "run"
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [(row["pair"], row["method"]) for row in rows] == [("a--b", "interpolation"), ("a--b", "extrapolation")]
    assert rows[1]["status"] == "integrated"
    # Four evaluations a step and one at the end.
    assert int(rows[1]["evaluations"]) == 17
    summary = json.loads((folder / "summary.json").read_text())
    assert {"autoencoder_psnr", "round_trip_psnr", "interpolation/length", "extrapolation/length"} <= set(summary)
    with Image.open(folder / "figures" / "pipelines.png") as picture:
        assert picture.width > 3000
    assert len(list((folder / "frames" / "there_and_on").glob("*/*.png"))) == 9
    assert (folder / "images" / "a--b.png").exists()
    assert (folder / "report.html").read_text().count("data:image/") == 3
    check_page(folder / "report.html")
    assert not list(folder.rglob("*.partial*"))


def test_a_moving_prompt_leaves_the_interpolation_without_a_length(show, pictures):
    assert show("condition=moving", "prompt_b='a blue cube'").code == 0
    first, second = csv.DictReader((pictures / "run" / "results.csv").open())
    assert (first["length"], first["log_density_mean"], first["closure"]) == ("", "", "")
    assert float(first["strength"]) > 0
    assert float(second["length"]) > 0  # which keeps the second prompt


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["frames=6"], "frames"), (["task.beyond=0"], "beyond"), (["task.beyond=far"], "beyond"), (["alpha=-1"], "alpha")],
)
def test_what_cannot_be_done_is_said_in_a_sentence(show, pictures, arguments, words):
    outcome = show(*arguments)
    assert outcome.code == 2, outcome.stderr
    assert words in outcome.sentence
    assert not (pictures / "run" / "results.csv").exists()
