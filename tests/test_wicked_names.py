"""Runs whose pairs, groups, kinds and prompts are named as paths, formulas and markup: all of it is text."""

import csv

import numpy as np
import pytest
from PIL import Image, ImageDraw

from latent_geodesics.run.files import file_stem, unguarded

IDS = ("../../x $\\foo$", "overview", "=1+1 | <script>alert(1)</script>\n%_&{$b$", "A" * 300)
WORDS = "a <script> $\\foo$ cube"


def draw(folder):
    """Five pictures of a square that moves."""
    folder.mkdir()
    for number in range(5):
        picture = Image.new("RGB", (16, 16), "gray")
        ImageDraw.Draw(picture).rectangle((2 + 2 * number, 4, 6 + 2 * number, 9), fill="red")
        picture.save(folder / f"{number}.png")


def write(file, rows):
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.fixture
def inputs(tmp_path):
    """Manifests of pairs, images and videos."""
    folder = tmp_path / "in"
    draw(folder)
    ends = {"image_a": "0.png", "image_b": "4.png", "prompt_a": WORDS, "prompt_b": WORDS}
    write(folder / "pairs.csv", [{"id": name, "group": f"{name}!"} | ends | {"frames": "."} for name in IDS])
    images = [{"id": name, "image": f"{k}.png", "prompt": WORDS, "family": IDS[k % 2]} for k, name in enumerate(IDS)]
    write(folder / "images.csv", images)
    return folder


@pytest.fixture
def run(command_line, inputs, tiny_model_folder, tmp_path):
    def call(experiment, *arguments):
        before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        outcome = command_line(
            f"experiment={experiment}",
            f"model.path_or_name={tiny_model_folder}",
            "model.steps=5",
            "model.cache_dir=null",
            "logger.mode=disabled",
            f"output_dir={tmp_path / 'out' / 'run'}",
            *arguments,
        )
        assert outcome.code == 0, outcome.stderr
        outside = {file for file in tmp_path.rglob("*") if file.is_file() and "run" not in file.parts}
        assert outside == set(before), "a file was written outside the run's folder"
        assert all(file.read_bytes() == content for file, content in before.items())
        page = (tmp_path / "out" / "run" / "report.html").read_text()
        assert page.count("<script") == 1, "the page's own"
        with (tmp_path / "out" / "run" / "results.csv").open(newline="") as lines:
            return tmp_path / "out" / "run", page, list(csv.DictReader(lines, strict=True))

    return call


def test_interpolation(run, inputs):
    folder, page, rows = run(
        "interpolation", f"data.manifest={inputs / 'pairs.csv'}", "data.limit=3", "frames=3", "method=[geodesic,slerp]"
    )
    assert [unguarded(row["pair"]) for row in rows[::2]] == list(IDS[:3])
    stems = {file_stem(name) for name in IDS[:3]}
    assert {file.stem for file in (folder / "figures").iterdir()} == stems | {"overview", "grid"}
    assert {file.stem for file in (folder / "images").glob("*.png")} == stems
    assert len(list((folder / "images").glob("*.webp"))) == 3 * 3
    assert "../../x $\\foo$" in page


@pytest.mark.slow
def test_the_truth(run, inputs):
    folder, _, _ = run("truth", f"data.manifest={inputs / 'pairs.csv'}", "frames=5", "task.draws=20", "metrics=truth",
                       "method=[geodesic,slerp,true_frames]")  # fmt: skip
    assert {file.stem for file in (folder / "images").glob("*.png")} == {file_stem(name) for name in IDS}


@pytest.mark.slow
def test_extrapolation(run, inputs):
    folder, _, _ = run(
        "extrapolation", f"data.manifest={inputs / 'pairs.csv'}", "task.images=null", "task.pairs=[]", "frames=3",
        "task.reference_images=4", "integrator=[parallel]", "velocity=[random]",
    )  # fmt: skip
    stems = {file_stem(name, "random") for name in IDS}
    assert {file.stem for file in (folder / "images").glob("*.png")} == stems


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["pipelines", "evolution"])
def test_a_single_pair(run, inputs, experiment):
    more = {"pipelines": ("frames=5", "task.integrator.steps=4"), "evolution": ("density=[half_plane]",)}[experiment]
    (inputs / "pairs.csv").unlink()
    ends = {"image_a": "0.png", "image_b": "4.png", "prompt_a": WORDS, "prompt_b": WORDS}
    write(inputs / "pairs.csv", [{"id": IDS[0], "group": ""} | ends])
    folder, _, _ = run(experiment, f"data.manifest={inputs / 'pairs.csv'}", *more)
    assert any(file_stem(IDS[0])[:4] in file.name for file in (folder / "images").iterdir())


@pytest.mark.slow
def test_distances(run, inputs):
    _, _, rows = run("distances", f"task.images={inputs / 'images.csv'}", "task.pairs=null", "task.known=null",
                     "task.checks=2", "task.draws=20", "task.batch_size=3")  # fmt: skip
    assert len(rows) == 6


@pytest.mark.slow
def test_videos(run, inputs):
    from recipes.clevr.rendering.videos import save_video

    video = np.full((7, 16, 16, 3), 90, dtype=np.uint8)
    for number in range(7):
        video[number, 4:9, number : number + 5] = (200, 30, 30)
    save_video(inputs / "v.mp4", video)
    rows = [{"id": name, "kind": f"{name}!", "file": "v.mp4", "control": k % 2, "prompt_a": WORDS, "prompt_b": WORDS}
            for k, name in enumerate(IDS[:2])]  # fmt: skip
    folder, _, _ = run(
        "video_analysis", f"data.manifest={write(inputs / 'videos.csv', rows)}", "data.batch_size=2",
        "task.analyser.amplitudes=[0.5]", "task.analyser.widths=[1.0]", "task.analyser.perturbations=2",
        "task.analyser.optimiser.max_evaluations=60",
    )  # fmt: skip
    assert {file.stem for file in (folder / "images").glob("*.webp")} == {file_stem(name) for name in IDS[:2]}
