"""A whole run of distances through the command line, on a small model with random weights."""

import csv
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import check_page
from PIL import Image, ImageDraw

from latent_geodesics.experiments.distances.paths import PathFinder

ROOT = Path(__file__).parents[1]


def draw(folder):
    folder.mkdir()
    for place, name in enumerate("abcd"):
        picture = Image.new("RGB", (16, 16), "gray")
        ImageDraw.Draw(picture).rectangle((2 + 2 * place, 4, 7 + 2 * place, 10), fill=("red", "blue")[place % 2])
        picture.save(folder / f"{name}.png")
    shutil.copy(folder / "a.png", folder / "e.png")
    return folder


def arguments(images, model, folder):
    return [
        "experiment=distances",
        f"task.images={images}",
        "task.pairs=null",
        "task.known=null",
        f"model.path_or_name={model}",
        "model.steps=5",
        "model.cache_dir=null",
        "logger.mode=disabled",
        "task.batch_size=3",
        "task.checks=2",
        "task.draws=20",
        "alpha=0.003",
        f"output_dir={folder}",
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model_folder):
    """The folder of a run with all its figures, shared by the tests that only look at it."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        given = arguments(draw(root / "pictures"), tiny_model_folder, root / "run")
        patch.setattr(sys, "argv", [str(ROOT / "run.py"), *given])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    assert not left.value.code
    return root / "run"


@pytest.fixture
def pictures(tmp_path):
    return draw(tmp_path / "pictures")


@pytest.fixture
def measure(command_line, pictures, tiny_model_folder, tmp_path):
    def call(*more, folder="run", images=pictures):
        return command_line(*arguments(images, tiny_model_folder, tmp_path / folder), *more)

    return call


@pytest.fixture
def no_figures(monkeypatch):
    """Figures take half the time of a run this small."""
    monkeypatch.setattr("latent_geodesics.experiments.distances.recipe.add_sections", lambda *given, **options: None)


def rows(folder):
    return list(csv.DictReader((folder / "results.csv").open()))


def test_a_run_leaves_a_whole_folder(finished):
    found = rows(finished)
    assert {"pair", "method", "status", "seconds", "evaluations"} <= set(found[0])
    assert len(found) == 10
    by_pair = {row["pair"]: row for row in found}
    assert by_pair["a--e"]["status"] == "duplicate"
    assert float(by_pair["a--e"]["geodesic"]) == 0
    assert by_pair["a--b"]["geodesic"] == by_pair["b--e"]["geodesic"]
    assert {row["status"] for row in found} == {"duplicate", "converged"}

    matrix = pd.read_csv(finished / "distances.csv", index_col="image")
    assert list(matrix.columns) == list("abcde")
    values = matrix.to_numpy()
    np.testing.assert_array_equal(values, values.T)
    np.testing.assert_array_equal(np.diag(values), 0)
    assert (values[np.triu_indices(4, 1)] > 0).all()

    images = pd.read_csv(finished / "images.csv", keep_default_na=False)
    assert images["duplicate_of"].tolist() == ["", "", "", "", "a"]
    unique = images["log_density"].to_numpy()[:4]
    assert abs(unique.mean()) < 1e-9
    assert np.ptp(unique) > 0

    summary = json.loads((finished / "summary.json").read_text())
    assert summary["duplicate_pairs"] == 1
    assert summary["asymmetry_max"] < 1e-3
    assert summary["triangle_violations"] == 0
    assert summary["line_integral/covered"] == 1
    figures = {file.name for file in (finished / "figures").iterdir()}
    assert figures >= {"embedding.png", "heat_map.png", "neighbours.png", "levels.png", "line_integrals.png"}
    page = (finished / "report.html").read_text()
    assert "true error, nats" in page
    assert "true_<wbr>error" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert not list(finished.rglob("*.partial*"))
    check_page(finished / "report.html")


def test_another_reference_multiplies_all_distances_by_one_number(measure, finished, tmp_path, no_figures):
    assert measure("task.reference=b", folder="other").code == 0
    ratio = [
        float(new["geodesic"]) / float(old["geodesic"])
        for old, new in zip(rows(finished), rows(tmp_path / "other"), strict=True)
        if old["status"] != "duplicate"
    ]
    assert np.ptp(ratio) < 1e-9
    level = pd.read_csv(finished / "images.csv").set_index("image").loc["b", "log_density"]
    assert ratio[0] == pytest.approx(np.exp(0.003 * level), rel=1e-9)


def test_an_interrupted_run_goes_on_where_it_was(measure, finished, tmp_path, monkeypatch, no_figures):
    find, calls = PathFinder.find, []

    def cut(self, paths, **space):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(len(paths))
        return find(self, paths, **space)

    monkeypatch.setattr(PathFinder, "find", cut)
    assert measure(folder="cut").code == 130
    folder = tmp_path / "cut"
    assert not (folder / "results.csv").exists()
    assert not (folder / "summary.json").exists()

    def counted(self, paths, **space):
        calls.append(len(paths))
        return find(self, paths, **space)

    def never(*given, **options):
        raise AssertionError("what was encoded is not encoded again")

    calls.clear()
    monkeypatch.setattr(PathFinder, "find", counted)
    monkeypatch.setattr(PathFinder, "encode", never)
    outcome = measure(folder="cut")
    assert outcome.code == 0, outcome.stderr
    assert sum(calls) == 6 + 2 - 3 + 2  # pairs, both directions, less those done before, and the finer solutions
    for old, new in zip(rows(finished), rows(folder), strict=True):
        assert float(new["geodesic"]) == pytest.approx(float(old["geodesic"]), rel=1e-9)


def test_a_run_that_is_interrupted_while_it_encodes_goes_on(measure, finished, tmp_path, monkeypatch, no_figures):
    encode, calls = PathFinder.encode, []

    def cut(self, images, condition):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, images, condition)

    monkeypatch.setattr(PathFinder, "encode", cut)
    assert measure(folder="cut").code == 130
    assert measure(folder="cut").code == 0
    assert calls == [3, 1, 1]
    columns = ["geodesic", "log_density_change", "perceptual_clevr"]
    old, new = (pd.read_csv(folder / "results.csv")[columns] for folder in (finished, tmp_path / "cut"))
    pd.testing.assert_frame_equal(old, new, rtol=1e-9)


@pytest.mark.slow
def test_two_processes_give_the_tables_of_one(finished, tiny_model_folder, tmp_path):
    given = arguments(finished.parent / "pictures", tiny_model_folder, tmp_path / "two")
    command = [sys.executable, str(ROOT / "run.py"), *given, "trainer.devices=2"]
    assert subprocess.run(command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=False).returncode == 0
    for name in ("results", "images", "neighbours"):
        one, two = (pd.read_csv(folder / f"{name}.csv") for folder in (finished, tmp_path / "two"))
        drop = [column for column in ("seconds",) if column in one]
        pd.testing.assert_frame_equal(one.drop(columns=drop), two.drop(columns=drop), rtol=1e-6, atol=1e-9)
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in (finished, tmp_path / "two"))
    assert two == pytest.approx(one, rel=1e-5, abs=1e-8)
    assert len(list((tmp_path / "two" / "paths").glob("*.pt"))) == 4


def test_a_collection_of_one_picture_is_simply_handled(measure, pictures, tmp_path):
    for name in "bcd":
        (pictures / f"{name}.png").unlink()
    outcome = measure()
    assert outcome.code == 0, outcome.stderr
    assert [row["status"] for row in rows(tmp_path / "run")] == ["duplicate"]


def test_known_changes_are_ranked_and_alpha_zero_is_spherical(measure, pictures, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number, name in enumerate("abcd"):
        shutil.copy(pictures / f"{name}.png", frames / f"{number}.png")
    header = "id,group,difficulty,image_a,image_b,prompt_a,prompt_b,frames"
    lines = [header, "one,g,1,frames/0.png,frames/3.png,,,frames", "two,g,3,frames/1.png,frames/2.png,,,"]
    (tmp_path / "known.csv").write_text("\n".join(lines) + "\n")
    outcome = measure(f"task.known={tmp_path / 'known.csv'}", "task.known_frames=4", "alpha=0")
    assert outcome.code == 0, outcome.stderr
    assert "a to b, a to c" in outcome.stderr, "the progress speaks of images, not of what they are stored by"
    assert not re.search("[0-9a-f]{64}", outcome.stderr)
    for row in rows(tmp_path / "run"):
        assert float(row["geodesic"]) == pytest.approx(float(row["spherical"]), rel=1e-4, abs=1e-9)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for name in ("geodesic", "spherical", "pixels", "perceptual_clevr"):
        assert -1 <= summary[f"{name}/family_spearman"] <= 1
        assert 0 <= summary[f"{name}/family_triplets"] <= 1
    assert "does it rank" in (tmp_path / "run" / "report.html").read_text().lower()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["task.images=no/such/folder"], "no/such/folder"),
        (["tau=0"], "tau"),
        (["alpha=-1"], "alpha"),
        (["task.radius=-3"], "radius"),
        (["task.batch_size=0"], "batch_size"),
        (["task.reference=nobody"], "nobody"),
        (["task.resume=runs/before"], "resume"),
        (["task.checks=-1"], "checks"),
        (["task.finder.pieces=0"], "pieces"),
        (["task.known=no/such/manifest.csv"], "no/such/manifest.csv"),
        (["task.network=no/such/network"], "no/such/network"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(measure, arguments, words):
    outcome = measure(*arguments)
    assert outcome.code == 2, outcome.stderr
    assert words in outcome.sentence


def test_a_file_that_is_no_image_is_named(measure, pictures):
    (pictures / "f.png").write_bytes(b"no image at all")
    outcome = measure()
    assert outcome.code == 2
    assert "f.png" in outcome.sentence


def test_a_score_that_is_not_finite_is_a_status(measure, tmp_path, monkeypatch, no_figures):
    from latent_geodesics.models.latent_field import LatentField

    score = LatentField.score

    def broken(self, x, u):
        return score(self, x, u) * float("nan")

    monkeypatch.setattr(LatentField, "score", broken)
    outcome = measure()
    assert outcome.code == 2
    assert "not finite" in outcome.sentence
    assert {row["status"] for row in rows(tmp_path / "run")} == {"duplicate", "non_finite_score"}
    assert not (tmp_path / "run" / "summary.json").exists()
