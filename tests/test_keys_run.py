"""Whole runs through several keys by the command line, and what they are made of, on a small model."""

import csv
import html
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from browser import check_page
from PIL import Image, ImageDraw

from latent_geodesics import UserError
from latent_geodesics.core.solvers import PicardAnderson
from latent_geodesics.data import KeyData, read_keys
from latent_geodesics.data.images import as_uint8, psnr
from latent_geodesics.experiments.keys.page import keys_page
from latent_geodesics.experiments.keys.recipe import Keys
from latent_geodesics.methods import AdainSlerp, AutoencodedTruth, CrossFade, Geodesic, Lerp, PairEncoder, Slerp
from latent_geodesics.methods.chains import chain_of, meeting, positions_of, shares
from latent_geodesics.models import load_model
from latent_geodesics.models.inversion import Fault
from latent_geodesics.models.scores import Conditional
from latent_geodesics.run.each import Tables
from latent_geodesics.run.key_path import path_through
from latent_geodesics.run.morphs import Morphs
from latent_geodesics.run.pages import Page


@pytest.fixture
def keys(tmp_path):
    names, boxes = ("a", "b (1), é", "c"), ((2, 2, 9, 9), (6, 6, 14, 14), (1, 8, 6, 15))
    for name, color, box in zip(names, ("red", "blue", "lime"), boxes, strict=True):
        picture = Image.new("RGB", (16, 16), "gray")
        ImageDraw.Draw(picture).rectangle(box, fill=color)
        picture.save(tmp_path / f"{name}.png")
    return [str(tmp_path / f"{name}.png") for name in names]


def legs_of(model, keys, *, loop=False, alpha=0.02):
    (sequence,) = KeyData(keys=keys, times=[0, 1, 3], loop=loop).sequences
    encoder = PairEncoder(model=model, score=Conditional(), tau=0.5, alpha=alpha)
    batch = read_keys([sequence], size=model.image_size)
    return sequence, meeting(encoder.encode(batch.legs), loop=loop)


def test_a_smooth_path_that_turns_back_stands_still_and_has_no_kink(model, keys):
    there_and_back = KeyData(keys=[keys[0], keys[1]], loop=True)
    (sequence,) = there_and_back.sequences
    encoder = PairEncoder(model=model, score=Conditional(), tau=0.5, alpha=0.02)
    legs = meeting(encoder.encode(read_keys([sequence], size=model.image_size).legs), loop=True)
    assert chain_of(Slerp(), legs, sequence, smooth=True).turns < 1e-3
    assert chain_of(Slerp(), legs, sequence, smooth=False).turns > 1


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
def test_latents_pass_every_key_and_turn_smoothly_where_asked_for(model, keys, smooth, loop):
    sequence, legs = legs_of(model, keys, loop=loop)
    own = torch.cat([legs.latents_a, legs.latents_b[-1:]])
    if loop:
        torch.testing.assert_close(own[-1], own[0], rtol=1e-6, atol=1e-5)
    inner = sequence.positions[1:-1]
    for method in (Geodesic(solver=PicardAnderson(intervals=8)), Slerp(), Lerp(), AdainSlerp()):
        chain = chain_of(method, legs, sequence, smooth=smooth)
        for at in (sequence.positions, (sequence.positions - 1e-9).clamp_min(0)):
            miss = (chain.latents(at) - own).norm(dim=-1) / own.norm(dim=-1)
            assert float(miss.max()) < 1e-6
        assert chain.misses < 1e-6
        before, after = (chain.velocities(inner + step) for step in (-1e-6, 1e-6))
        jump = float(((after - before).norm(dim=-1) / after.norm(dim=-1)).max())
        assert (jump < 1e-3) is smooth
        assert (chain.turns < 1e-3) is smooth
        if not smooth:
            assert chain.turns > 0.1
        if loop and smooth:
            ends = chain.velocities(torch.tensor([0.0, 1.0]))
            assert float((ends[1] - ends[0]).norm() / ends[0].norm()) < 1e-3


def test_between_two_keys_it_is_the_method_itself(model, keys):
    (sequence,) = KeyData(keys=keys[:2]).sequences
    batch = read_keys([sequence], size=model.image_size)
    pairs = PairEncoder(model=model, score=Conditional(), tau=0.5, alpha=0.02).encode(batch.legs)
    u = torch.linspace(0, 1, 5, dtype=torch.float64)
    for smooth in (False, True):
        frames = chain_of(Slerp(), meeting(pairs, loop=False), sequence, smooth=smooth).frames(u)
        torch.testing.assert_close(frames, Slerp().morph(pairs, u).frames[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("positions", "frames", "counts"),
    [([0, 1 / 3, 1], 13, [4, 8]), ([0, 0.001, 1], 4, [1, 2]), ([0, 0.5, 1], 4, [2, 1]), ([0, 0.3, 1], 3, [1, 1])],
)
def test_every_key_is_a_frame(positions, frames, counts):
    where = torch.tensor(positions, dtype=torch.float64)
    assert shares(where, frames) == counts
    at = positions_of(where, counts)
    assert len(at) == frames
    assert set(where.tolist()) <= set(at.tolist())


def test_fewer_frames_than_keys_are_refused():
    with pytest.raises(UserError, match="frames must be at least 3.*got 2"):
        shares(torch.tensor([0.0, 0.5, 1.0]), 2)


def test_what_the_model_gives_back_are_the_ends_of_its_paths(model, keys):
    _, legs = legs_of(model, keys)
    frames = Slerp().morph(legs, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)).frames
    for at, given, told in ((0, legs.batch.images_a, 0), (-1, legs.batch.images_b, 1)):
        torch.testing.assert_close(legs.given_back[:, told], psnr(frames[:, at], given), atol=1e-3, rtol=0)
    lost = replace(legs, faults=(Fault(step=1, level=2, error=float("inf")), None)).given_back
    assert lost[0].isnan().all()
    assert lost[1].isfinite().all()


def test_python_makes_the_path_of_the_experiment(go, keys, tmp_path, tiny_model_folder):
    outcome = go(f"data.keys=[{','.join(keys)}]", "frames=5", "smooth=true", "method=slerp", "format=none")
    assert outcome.code == 0, outcome.stderr
    found = path_through(
        keys, model=load_model(tiny_model_folder, device="cpu", steps=5), method="slerp", prompts=[""], frames=3,
        tau=0.6, alpha_d=3.0,
    )  # fmt: skip
    (folder,) = (tmp_path / "run" / "frames" / "slerp").iterdir()
    for image, file in zip(found.images, sorted(folder.glob("*.png")), strict=True):
        with Image.open(file) as kept:
            assert np.abs(np.asarray(kept, dtype=int) - as_uint8(image).astype(int)).max() <= 1
    (row,) = csv.DictReader((tmp_path / "run" / "results.csv").open())
    assert found.keys_db == pytest.approx(float(row["keys_db"]), abs=1e-3)
    assert f"it gives them back with {found.keys_db:.1f} dB" in found.sentence


def morphs_of(model, **methods):
    return Morphs(
        model=model, score=Conditional(), methods=methods, metrics={}, tau=0.5, alpha_d=1.0, frames=5, guidance=1.0,
        condition="mean", textual_inversion={}, geometry=None,
    )  # fmt: skip


def test_methods_without_a_path_say_why_they_are_not_smooth(model, keys):
    data = KeyData(keys=keys)
    known = Keys(morphs=morphs_of(model, slerp=Slerp(), fade=CrossFade()), data=data, smooth=True)
    assert list(known.left_out) == ["fade"]
    assert "'Fade' makes the frames of one pair at a time" in known.left_out["fade"]
    with pytest.raises(UserError, match="'Fade' .*smooth=false joins its frames"):
        Keys(morphs=morphs_of(model, fade=CrossFade()), data=data, smooth=True)
    assert not Keys(morphs=morphs_of(model, truth=AutoencodedTruth()), data=data).left_out


@pytest.fixture
def go(command_line, tiny_model_folder, tmp_path):
    def call(*arguments):
        return command_line(
            "experiment=keys", f"model.path_or_name={tiny_model_folder}", "model.steps=5", "model.cache_dir=null",
            "logger.mode=disabled", f"output_dir={tmp_path / 'run'}", *arguments,
        )  # fmt: skip

    return call


def test_a_run_leaves_one_sequence_one_film_and_one_report(go, keys, tmp_path):
    outcome = go(
        f"data.keys=[{','.join(keys)}]", "times=[0,1,3]", "frames=7", "smooth=true", "loop=true", "fps=6",
        "method=[geodesic,slerp,crossfade]",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    assert "'Cross-fade' makes the frames of one pair at a time" in outcome.stdout + outcome.stderr
    folder = tmp_path / "run"
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [row["method"] for row in rows] == ["geodesic", "slerp"]
    assert all(float(row["miss"]) < 1e-6 and float(row["turn"]) < 1e-3 for row in rows)
    for method in ("geodesic", "slerp"):
        (film,) = (folder / "films" / method).glob("*.mp4")
        with av.open(str(film)) as container:
            assert float(container.streams.video[0].average_rate) == 6
            assert sum(1 for _ in container.decode(video=0)) == 6  # the last frame of a loop is its first
    assert len(list((folder / "images").glob("*.png"))) == 1
    page = (folder / "report.html").read_text()
    for time, name in zip((0, 1, 3), ("a", "b (1), é", "c"), strict=True):
        assert f"<figcaption>time {time}, {name}.png, " in page
    assert page.count("What the run was given") == 3, "the key that a loop comes back to is shown once"
    assert "The path ends where it begins, at time 4.5." in page
    assert "time 0.00" in page
    assert "time 3.75" in page, "the last of the six frames that are shown"
    worst = min(float(row["keys_db"]) for row in rows)  # of a network with random weights
    assert worst < 25
    for place in (page, outcome.stdout + outcome.stderr):
        assert place.count(f"it gives them back with {worst:.1f} dB") == 1
        assert place.count("The model does not know") == 1, "once a sequence, and not once a leg"
    check_page(folder / "report.html")
    assert "crossfade" not in html.unescape(page)
    assert json.loads((folder / "summary.json").read_text())["slerp/turn"] < 1e-3


def test_every_leg_of_a_sequence_fades_morphs_or_jumps(go, keys, tmp_path):
    outcome = go(
        f"data.keys=[{','.join(keys)}]", "times=[0,1,5]", "frames=8", "method=[crossfade,slerp]", "format=none"
    )
    assert outcome.code == 0, outcome.stderr
    folder = tmp_path / "run"
    legs = list(csv.DictReader((folder / "legs.csv").open()))
    assert [(row["method"], row["leg"], row["start"], row["end"]) for row in legs] == [
        (method, *leg) for method in ("crossfade", "slerp") for leg in (("1", "0.0", "1.0"), ("2", "1.0", "5.0"))
    ]
    short, faded = legs[:2]
    assert (short["verdict"], short["ghosting"]) == ("none", ""), "no frame lies between its keys"
    assert (faded["verdict"], faded["fades"]) == ("fade", "1.0")
    assert float(faded["ghosting"]) > 0.99
    assert float(faded["half_changed"]) == pytest.approx(3, abs=0.05)
    rows = {row["method"]: row for row in csv.DictReader((folder / "results.csv").open())}
    assert (rows["crossfade"]["verdict"], float(rows["crossfade"]["fades"])) == ("none, fade", 1)
    assert json.loads((folder / "summary.json").read_text())["crossfade/fades"] == 1
    page = (folder / "report.html").read_text()
    for method, title in (("crossfade", "Cross-fade"), ("slerp", "Slerp")):
        assert f"<figcaption>{title} <b>{rows[method]['verdict']}</b>" in page
        assert f"{title} {rows[method]['verdict']}" in outcome.stdout + outcome.stderr


def test_the_page_of_a_run_that_was_cut_off_shows_what_is_finished(keys, tmp_path):
    first, second = (KeyData(keys=keys[:count]).sequences[0] for count in (2, 3))
    done = {
        "items": 1,
        "tables": {"results": [{"pair": second.id, "method": "slerp", "status": "closed_form"}]},
        "kept": {"shown": {"id": second.id, "keys": ["0.png", "1.png", "2.png"], "keys_db": [40.0] * 3, "players": []}},
    }
    run = SimpleNamespace(folder=tmp_path, page=lambda title, lead, *settings, **facts: Page(title, lead, facts))
    tables = Tables([done], batches=[[first.id], [second.id]])
    page = keys_page(run, tables, [first, second], frames=5, smooth=False, notes=[])
    shown = page.sections[0]
    assert shown.title == second.id
    assert [picture.caption for picture in shown.given.pictures] == [
        f"time {time}, {Path(key).name}, 40.0 dB" for time, key in enumerate(keys)
    ]


def test_methods_without_a_path_are_joined_and_what_fails_harms_no_other(go, keys, tmp_path):
    outcome = go(f"data.keys=[{','.join(keys)}]", "frames=5", "method=[slerp,crossfade,true_frames]", "format=none")
    assert outcome.code == 2
    assert "1 of 3 sequences failed (true_frames on" in outcome.sentence
    rows = {row["method"]: row for row in csv.DictReader((tmp_path / "run" / "results.csv").open())}
    assert rows["true_frames"]["status"] == "failed"
    assert float(rows["slerp"]["turn"]) > 0.1
    (fade,) = (tmp_path / "run" / "frames" / "crossfade").iterdir()
    frames = sorted(fade.glob("*.png"))
    assert len(frames) == 5
    for frame, key in zip(frames[::2], keys, strict=True):
        with Image.open(frame) as shown, Image.open(key) as given:
            assert shown.tobytes() == given.tobytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("times=[0,2,1]",), "must increase"),
        (("frames=3", "loop=true"), "frames must be at least 4"),
        (("data.prompts=[x,y]",), "3 keys and 2 prompts"),
        (("data=clevr_pairs",), "choose data=keys"),
        (("fps=0",), "fps"),
        (("+data.tims=[0,1,2]",), "no option 'tims' at `data`. Did you mean 'times'?"),
    ],
)
def test_bad_input_is_one_sentence_and_does_not_block_the_corrected_command(go, keys, tmp_path, arguments, words):
    own = [] if "data=clevr_pairs" in arguments else [f"data.keys=[{','.join(keys)}]"]
    outcome = go(*own, *arguments)
    assert outcome.code == 2
    assert words in outcome.sentence
    left = {file.name for file in (tmp_path / "run").rglob("*")} if (tmp_path / "run").exists() else set()
    assert left <= {"config.yaml", "environment.json", ".lock", "run.log"}


def test_neighbouring_keys_serve_experiments_that_take_pairs(go, keys, tmp_path):
    outcome = go(f"data.keys=[{','.join(keys)}]", "task=interpolation", "method=slerp", "frames=3", "metrics=benchmark")
    assert outcome.code == 0, outcome.stderr
    rows = list(csv.DictReader((tmp_path / "run" / "results.csv").open()))
    assert [row["pair"] for row in rows] == ["a--b (1), é--c.1", "a--b (1), é--c.2"]
    skipped = json.loads((tmp_path / "run" / "metrics.json").read_text())["skipped"]
    assert "sets_clevr" in skipped
    page = html.unescape((tmp_path / "run" / "report.html").read_text())
    assert "The metric 'Fréchet distance, clevr' needs at least 16 images" in page
    assert "'sets_clevr' is skipped" in outcome.stdout + outcome.stderr


def test_a_run_in_which_nothing_was_done_does_not_block_the_corrected_one(go, keys, tmp_path):
    photos = tmp_path / "photos (1), é=x"
    photos.mkdir()
    for name, key in zip(("x_a", "x_b"), keys, strict=False):
        (photos / f"{name}.png").write_bytes(Path(key).read_bytes())
    cut = photos / "x_b.png"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:60])  # its head is whole, so that this is found in the midst of the run
    settings = ("task=interpolation", "data=folder", f"data.root={photos}", "method=slerp", "frames=3", "metrics=[]")
    outcome = go(*settings)
    assert outcome.code == 2
    assert "x_b.png" in outcome.sentence
    cut.write_bytes(whole)
    outcome = go(*settings, "tau=0.5")  # a mended file and another setting
    assert outcome.code == 0, outcome.stderr
    (row,) = csv.DictReader((tmp_path / "run" / "results.csv").open())
    assert (row["pair"], row["group"]) == ("x", photos.name)
