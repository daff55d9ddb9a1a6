"""The page for one's own images: what it answers, and the page itself in a browser."""

import io
import time
import urllib.request

import av
import numpy as np
import pytest
from browser import Browser
from PIL import Image

import latent_geodesics as lg
from latent_geodesics.core.errors import UserError
from latent_geodesics.run.app import FPS, Wish, _methods, answer, build

SETTINGS = ("model.steps=5", "model.cache_dir=null")


@pytest.fixture
def wish(pictures, tiny_model_folder):
    def make(*names, **options):
        given = {"model": str(tiny_model_folder), "method": "slerp", "frames": 3, "settings": SETTINGS} | options
        return Wish(files=[str(pictures / name) for name in names], **given)

    return make


def test_three_images_make_one_sequence_through_the_second(wish, pictures, tmp_path):
    told = []
    three = wish("a.png", "b.png", "a.png", prompts="a red cube\na blue sphere")
    found = answer(three, folder=tmp_path, tell=told.append)
    assert len(found.frames) == 5
    leg = lg.interpolate(
        pictures / "b.png", pictures / "a.png", model=wish("a.png").model, method="slerp", frames=3,
        prompt_a="a blue sphere", settings=SETTINGS,
    )  # fmt: skip
    for ours, theirs in zip(found.frames[2:], leg.frames, strict=True):
        # the middle is drawn by the first leg, by the same numbers but for rounding
        assert np.abs(np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)).max() <= 1
    with av.open(str(found.film)) as film:
        assert len(list(film.decode(video=0))) == 5
        assert film.streams.video[0].average_rate == FPS
    assert len(found.curve.axes[0].lines) == 3  # a curve each, and where they meet
    assert "From image 2 to 3" in found.words
    assert "2 of 2: slerp: measuring" in told


def test_a_spline_goes_through_all_images_with_one_velocity(wish, pictures, tmp_path):
    three = wish("a.png", "b.png", "a.png", spline=True, frames=5)
    found = answer(three, folder=tmp_path)
    assert len(found.frames) == 9
    assert found.curve is None
    assert "spline through 3 images" in found.words
    assert "The model does not know the images of this sequence" in found.words, "a network with random weights"
    sharp = answer(wish("a.png", "b.png", "a.png", frames=5), folder=tmp_path)
    apart = [np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max()
             for a, b in zip(found.frames, sharp.frames, strict=True)]  # fmt: skip
    assert max(apart[0], apart[4], apart[8]) <= 1  # the keys stay where they are
    assert max(apart) > 1
    with pytest.raises(UserError, match="no path that could be smooth"):
        answer(wish("a.png", "b.png", "a.png", spline=True, method="crossfade"), folder=tmp_path)
    assert len(answer(wish("a.png", "b.png", spline=True), folder=tmp_path).frames) == 3


def test_a_method_without_a_path_has_no_curve(wish, tmp_path):
    found = answer(wish("a.png", "b.png", method="crossfade"), folder=tmp_path)
    assert found.curve is None
    assert len(found.frames) == 3
    assert found.words.startswith("A fade; ")


def test_bad_uploads_are_one_sentence(wish, pictures, tmp_path):
    (pictures / "empty.png").touch()
    (pictures / "words.png").write_text("no picture")
    Image.new("1", (10_000, 10_000)).save(pictures / "huge.png")
    cases = {
        ("a.png",): "got 1",
        ("a.png",) * 9: "got 9",
        ("a.png", "empty.png"): "'empty.png' is empty",
        ("words.png", "a.png"): "'words.png' is no image",
        ("a.png", "huge.png"): "100 megapixels",
        ("a.png", "gone.png"): "'gone.png' does not exist",
    }
    for names, words in cases.items():
        with pytest.raises(UserError) as said:
            answer(wish(*names), folder=tmp_path)
        assert words in str(said.value), names
        assert str(pictures) not in str(said.value)  # where an upload was put is nobody's business
    for options, words in (
        ({"prompts": "a\nb\nc"}, "3 prompts for 2 images"),
        ({"model": "/no/such/folder"}, "no such folder"),
        ({"tau": None, "alpha_d": -2.0}, "alpha_d"),
    ):
        with pytest.raises(UserError, match=words):
            answer(wish("a.png", "b.png", **options), folder=tmp_path)
    assert not list(tmp_path.glob("*.mp4"))


def test_every_method_that_is_offered_asks_for_no_true_frames():
    offered = {name for _, name in _methods()}
    assert {"geodesic", "slerp", "diffmorpher"} <= offered
    assert not any("truth" in name or "true" in name for name in offered)


def wait(page, script, seconds=240):
    """Until a script returns something."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := page.run(f"return {script}"):
            return found
        time.sleep(0.2)
    said = page.run("return document.body.innerText")
    pytest.fail(f"{script} was nothing after {seconds} s; the page said:\n{said}\n{page.errors()}")


def test_the_page_in_a_browser(wish, pictures):
    pytest.importorskip("gradio")
    (pictures / "words.png").write_text("no picture")
    defaults = wish(frames=5, method="geodesic")
    with Browser(1300) as page:
        served = build(defaults)
        _, address, _ = served.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        try:
            page.open(address)
            field = "document.querySelector('#files input[type=file]')"
            wait(page, f"{field} !== null")
            page.choose("#files input[type=file]", pictures / "a.png", pictures / "words.png")
            wait(page, "document.querySelector('#files').innerText.includes('words')")
            page.run("document.querySelector('#go').click()")
            assert "'words.png' is no image" in wait(page, "document.querySelector('#said .error')?.innerText")
            assert page.overflow() <= 0

            page.open(address)
            wait(page, f"{field} !== null")
            page.choose("#files input[type=file]", pictures / "a.png", pictures / "b.png")
            wait(page, "document.querySelector('#files').innerText.includes('b.png') || "
                       "document.querySelectorAll('#files tr, #files .file').length > 1")  # fmt: skip
            page.run("document.querySelector('#go').click()")
            assert wait(page, "document.querySelectorAll('#frames img').length") == 5
            shown = "[...document.querySelectorAll('#frames img')].findIndex(one => !one.hidden)"
            assert page.run(f"return {shown}") == 0
            page.run(
                "const one = document.querySelector('#slider input[type=range]'); one.value = 3;"
                "one.dispatchEvent(new Event('input', {bubbles: true}))"
            )
            assert wait(page, f"{shown} === 3")
            assert page.run("return document.querySelectorAll('#frames img')[3].naturalWidth") == 16
            assert wait(page, "document.querySelector('#curve img')?.naturalWidth")
            over_the_title = "document.querySelector('#curve label').getBoundingClientRect().width"
            assert page.run(f"return {over_the_title}") == 0
            link = wait(page, "document.querySelector('#film a[href*=\"morph.mp4\"]')?.href")
            with urllib.request.urlopen(link) as film, av.open(io.BytesIO(film.read())) as opened:
                assert len(list(opened.decode(video=0))) == 5
            assert page.overflow() <= 0

            page.open(address)
            wait(page, f"{field} !== null")
            Image.open(pictures / "a.png").rotate(90).save(pictures / "c.png")
            page.choose("#files input[type=file]", *(pictures / f"{name}.png" for name in "abc"))
            wait(page, "document.querySelector('#files').innerText.includes('c.png') || "
                       "document.querySelectorAll('#files tr, #files .file').length > 2")  # fmt: skip
            page.run("document.querySelector('#spline input[type=checkbox]').click()")
            page.run("document.querySelector('#go').click()")
            wait(page, "document.querySelector('#said')?.innerText.includes('A spline through 3 images')")
            assert wait(page, "document.querySelectorAll('#frames img').length") > 2
            assert not [error for error in page.errors() if "cdnjs" not in error and "iframe" not in error]
            with Browser(400) as narrow:
                narrow.open(address)
                wait(narrow, "document.querySelector('#go') !== null")
                assert narrow.overflow() <= 0
        finally:
            served.close()
