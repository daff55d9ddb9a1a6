"""Interpolation from Python: the command's numbers, in three lines."""

import csv
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image

import latent_geodesics as lg
from latent_geodesics.methods import Slerp

PROMPTS = {"prompt_a": "a red cube", "prompt_b": "a blue sphere"}
QUICK = ["model.steps=5", "model.cache_dir=null"]


@pytest.fixture
def quick(pictures, tiny_model_folder, monkeypatch):
    """Between the two pictures, from a folder that holds neither configuration nor data."""
    monkeypatch.chdir(pictures)

    def call(a=pictures / "a.png", b="b.png", **options):
        return lg.interpolate(a, b, **{"model": tiny_model_folder, "frames": 5, "settings": QUICK} | PROMPTS | options)

    return call


def test_the_numbers_are_those_of_the_command(quick, command_line, pictures, tiny_model_folder):
    own = [f"{name}={value}" for name, value in PROMPTS.items()]
    outcome = command_line(
        f"image_a={pictures / 'a.png'}", f"image_b={pictures / 'b.png'}", *own, *QUICK, "method=[geodesic]", "frames=5",
        "alpha_d=2", "tau=0.5", f"model.path_or_name={tiny_model_folder}", f"output_dir={pictures / 'run'}",
        "logger.mode=disabled",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    (row,) = csv.DictReader((pictures / "run" / "results.csv").open())
    found = quick(pictures / "a.png", pictures / "b.png", alpha_d=2.0, tau=0.5)
    assert (found.status, found.evaluations) == (row["status"], int(row["evaluations"]))
    assert float(found.curves.length) == pytest.approx(float(row["length"]), rel=1e-9)
    for number, frame in enumerate(found.frames):
        with Image.open(pictures / "run" / "frames" / "geodesic" / "a--b" / f"{number:04d}.png") as kept:
            assert np.array_equal(np.asarray(frame), np.asarray(kept))


def test_files_pictures_models_and_methods_that_are_made_are_the_same(quick, model, pictures):
    named = quick(method="slerp")
    with Image.open("a.png") as a, Image.open("b.png") as b:
        made = quick(a, b.convert("RGBA"), model=model, method=Slerp())
    assert named.images.shape == (5, 3, 16, 16)
    torch.testing.assert_close(made.images, named.images)
    assert (named.status, made.method) == ("closed_form", "Slerp")
    assert "closed form" in named.sentence
    assert named.ends_db < 25, "a network with random weights"
    assert f"the images of this pair: it gives them back with {named.ends_db:.1f} dB" in named.sentence
    faded = quick(method="crossfade")
    assert faded.ends_db == named.ends_db, "of the model, whatever frames a method shows"
    torch.testing.assert_close(named.solution.path.point(torch.tensor([0.0])).norm(), named.solution.path.point(
        torch.tensor([0.5])).norm())  # fmt: skip
    axes = named.plot().axes[0]
    assert np.allclose(axes.lines[0].get_ydata(), named.curves.log_density[0])


def test_a_prompt_of_one_image_serves_both(quick):
    both = quick(method="slerp", prompt_b="a red cube")
    one = quick(method="slerp", prompt_b=None)
    assert torch.equal(one.images, both.images)


def test_it_is_saved_by_the_ending(quick, pictures):
    found = quick(method="lerp")
    with av.open(str(found.save("film.mp4", fps=10))) as film:
        assert len(list(film.decode(video=0))) == 5
        assert film.streams.video[0].average_rate == 10
    for ending in ("gif", "webp"):
        with Image.open(found.save(f"film.{ending}")) as film:
            assert film.n_frames == 5
    found.save("frames")
    assert sorted(file.name for file in (pictures / "frames").iterdir()) == [f"{k:04d}.png" for k in range(5)]
    assert "tensor" not in repr(found)
    with pytest.raises(lg.UserError, match="holds other files, such as '0003.png'"):
        replace(found, images=found.images[:3]).save("frames")
    with pytest.raises(lg.UserError, match="Nowhere"):
        found.save("")
    with pytest.raises(lg.UserError, match="film.mp4/frames' cannot be written"):
        found.save("film.mp4/frames")
    with pytest.raises(lg.UserError, match="film.avi"):
        found.save("film.avi")
    with pytest.raises(lg.UserError, match="fps"):
        found.save("other.mp4", fps=0)
    assert not (pictures / "other.mp4").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"a": "nope.png"}, "'nope.png' does not exist"),
        ({"a": 3}, "Pillow image or the path of a file, got int"),
        ({"a": Image.new("RGB", (4, 4))}, "4 x 4 pixels"),
        ({"model": "clevr_lmd"}, "no such folder"),
        ({"method": ["slerp", "lerp"]}, "method must be one name"),
        ({"settings": "model.steps=10"}, "settings must be a list of texts"),
        ({"settings": {"model.steps": 10}}, "settings must be a list of texts"),
        ({"method": "geodesc"}, "Did you mean 'geodesic'"),
        ({"tau": 1.5}, "tau is a noise level between 0 and 1"),
        ({"tau": "high"}, "tau"),
        ({"alpha_d": -1.0}, "alpha_d"),
        ({"frames": 2}, "frames must be at least 3"),
        ({"frames": 5.5}, "must be a whole number, got 5.5"),
        ({"prompt_a": 3}, "prompt_a must be a text"),
        ({"settings": ["solver.memry=3"]}, "Did you mean 'solver.memory'"),
        ({"method": "true_frames"}, "true_frames made no sequence"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_one_sentence(quick, options, words):
    with pytest.raises(lg.UserError) as said:
        quick(**options)
    assert words in str(said.value)
    assert "\n" not in str(said.value)
