"""Scoring frames that others made: the numbers are those of the run that made them; what is not whole is refused."""

import csv
import json

import av
import numpy as np
import pandas as pd
import pytest
import torch
from browser import check_page
from measured import fade, motion
from PIL import Image

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.images import as_uint8
from latent_geodesics.experiments.score import recipe
from latent_geodesics.experiments.score.layout import find_sequences
from latent_geodesics.experiments.score.sequences import SequenceData
from latent_geodesics.metrics import Ghosting, Reconstruction, Typicality, Verdict
from latent_geodesics.run import morphs

SIDE = 32


def save(folder, frames, *, start=0):
    """Frames as a run keeps them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(as_uint8(frames), start):
        Image.fromarray(picture).save(folder / f"{number:04d}.png")
    return folder


def save_film(file, frames):
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[-1], frames.shape[-2], "yuv444p"
        for picture in as_uint8(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file


def save_pairs(folder, **ends):
    """A manifest of pairs whose images are the ends of sequences."""
    lines = ["id,group,image_a,image_b,prompt_a,prompt_b"]
    for name, frames in ends.items():
        for side, frame in (("a", frames[0]), ("b", frames[-1])):
            Image.fromarray(as_uint8(frame)).save(folder / f"{name}-{side}.png")
        lines.append(f"{name},some,{name}-a.png,{name}-b.png,,")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


def names(place, **options):
    return [(one.method, one.pair) for one in find_sequences(place, **options)]


@pytest.fixture
def two_methods(tmp_path):
    for method, make in (("moved", motion), ("faded", fade)):
        save(tmp_path / "all" / method / "disc", make(9))
        save(tmp_path / "all" / method / "short way", make(9, end=0.6))
    return tmp_path / "all"


def test_every_layout_is_found(tmp_path, two_methods):
    every = [("faded", "disc"), ("faded", "short way"), ("moved", "disc"), ("moved", "short way")]
    assert names(two_methods) == every
    assert names(two_methods / "moved") == [("moved", "disc"), ("moved", "short way")]
    assert names(two_methods / "moved", method="mine") == [("mine", "disc"), ("mine", "short way")]
    assert names(two_methods / "moved" / "disc") == [("given", "disc")]
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    two_methods.rename(run / "frames")
    assert names(run) == every
    films = tmp_path / "films"
    save_film(films / "pair 10.mp4", motion(3))
    save_film(films / "pair 9.mp4", motion(3))
    assert names(films) == [("films", "pair 9"), ("films", "pair 10")]
    assert names(films / "pair 9.mp4") == [("given", "pair 9")]
    # DiffMorpher leaves an animation beside its frames, and a run of this project a film beside a folder of frames.
    folder = save(tmp_path / "made" / "cat", motion(3))
    save_film(folder / "output.mp4", motion(3))
    save_film(tmp_path / "made" / "cat.mp4", motion(3))
    assert [(one.pair, one.place.name) for one in find_sequences(tmp_path / "made")] == [("cat", "cat")]
    manifest = tmp_path / "list.csv"
    manifest.write_text("method,pair,frames\nmine,cat,made/cat\nhers,cat,films/pair 9.mp4\n")
    assert names(manifest) == [("mine", "cat"), ("hers", "cat")]


def test_the_only_sequence_belongs_to_the_only_pair_whatever_it_is_called(tmp_path):
    save(tmp_path / "my film", motion(9))
    for name, frame in (("left", motion(9)[0]), ("right", motion(9)[-1])):
        Image.fromarray(as_uint8(frame)).save(tmp_path / f"{name}.png")
    ends = {"image_a": str(tmp_path / "left.png"), "image_b": str(tmp_path / "right.png")}
    data = SequenceData(frames=str(tmp_path / "my film"), **ends)
    assert [pair.id for pair in data.pairs] == ["left--right"]


def test_frames_are_read_in_the_order_of_their_numbers(tmp_path):
    folder = tmp_path / "way"
    folder.mkdir()
    for number, picture in enumerate(as_uint8(motion(12))):
        Image.fromarray(picture).save(folder / f"frame_{number}.png")
    data = SequenceData(frames=str(folder))
    (given,) = data.read(data.pairs)
    torch.testing.assert_close(given.frames[0], motion(12), atol=0.5 / 255 + 1e-6, rtol=0)
    few = SequenceData(frames=str(folder), count=4)
    torch.testing.assert_close(few.read(few.pairs)[0].frames[0], given.frames[0][[0, 4, 7, 11]])


def broken(tmp_path, case):
    """The arguments for frames that something is wrong with."""
    way = save(tmp_path / "all" / "some" / "disc", motion(9))
    other = save(tmp_path / "all" / "some" / "other", motion(9, end=0.7))
    found = {"frames": str(tmp_path / "all")}
    if case == "counts":
        (other / "0008.png").unlink()
    elif case == "gap":
        (other / "0004.png").unlink()
    elif case == "sizes":
        save(other, motion(9, side=48))
    elif case == "one size":
        save(other, motion(1, side=48), start=5)
    elif case == "empty":
        for file in other.iterdir():
            file.unlink()
    elif case == "nothing":
        found = {"frames": str(tmp_path / "none")}
        (tmp_path / "none").mkdir()
    elif case == "cut picture":
        (other / "0003.png").write_bytes((other / "0003.png").read_bytes()[:200])
    elif case == "cut film":
        film = save_film(tmp_path / "all" / "some" / "film.mp4", motion(9))
        film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    elif case == "empty film":
        (tmp_path / "all" / "some" / "film.mp4").touch()
    elif case == "two formats":
        Image.open(other / "0003.png").save(other / "0003.webp")
    elif case == "few frames":
        found |= {"count": 17}
    elif case == "mixed":
        save(tmp_path / "all" / "loose", motion(9))
    elif case == "truth":
        found |= {"true": str(save(tmp_path / "truth" / "disc", motion(8)).parent)}
    else:
        for file in way.parent.rglob("9*"):
            file.unlink()
        ends = {"disc": motion(9), "other": motion(9, end=0.7)}
        if case == "backwards":
            save(other, motion(9, end=0.7).flip(0))
        elif case == "wrong ends":
            ends["other"] = motion(9, start=0.5, end=0.3)
        elif case == "missing end":
            save(other, torch.cat([motion(17, end=0.7)[8:], motion(9, end=0.7)[:0]]))
        elif case == "missing last":
            ends["other"] = (motion(17, end=0.7) - 0.5) / 4 + 0.5  # so faint that any frame might be an end
            save(other, ends["other"][:9])
        elif case == "no such pair":
            ends = {"disc": motion(9), "othr": motion(9, end=0.7)}
        found |= {"pairs": str(save_pairs(tmp_path, **ends))}
    return found


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("counts", "differ in length (9 frames for 'disc', 8 for 'other')"),
        ("gap", "skip from '0003.png' to '0005.png'"),
        ("sizes", "differ in size (32 x 32 pixels for 'disc', 48 x 48 for 'other')"),
        ("one size", "differ in size (32 x 32 pixels at first, 48 x 48 in frame 6)"),
        ("empty", "other' holds no frames"),
        ("nothing", "holds no sequences"),
        ("cut picture", "0003.png' cannot be read"),
        ("cut film", "film.mp4' cannot be read"),
        ("empty film", "film.mp4' is empty"),
        ("two formats", "more than once"),
        ("few frames", "has 9 frames, and count=17 asks for more"),
        ("mixed", "both a sequence ('loose') and a folder of sequences ('some')"),
        ("truth", "has 8 true frames and 9 by some"),
        ("backwards", "runs backwards"),
        ("wrong ends", "frame of '"),
        ("missing end", "The first frame of '"),
        ("missing last", "frames are missing there"),
        ("no such pair", "Did you mean 'othr'"),
    ],
)
def test_what_is_not_whole_is_refused_in_a_sentence(tmp_path, case, words):
    with pytest.raises(UserError) as refused:
        SequenceData(**broken(tmp_path, case))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_ends_are_told_in_decibels_and_may_be_tolerated(tmp_path):
    arguments = broken(tmp_path, "wrong ends")
    with pytest.raises(UserError, match=r"PSNR 2\d\.\d dB, less than 25; .* ends_db lower"):
        SequenceData(**arguments)
    data = SequenceData(**arguments, ends_db=None)
    assert any("dB at worst (Some on 'other')" in remark for remark in data.remarks)


def test_a_film_is_as_good_as_its_frames(tmp_path):
    save_film(tmp_path / "films" / "disc.mp4", motion(9))
    pairs = save_pairs(tmp_path, disc=motion(9))
    data = SequenceData(frames=str(tmp_path / "films"), pairs=str(pairs))
    (given,) = data.read(data.pairs)
    assert given.frames.shape == (1, 9, 3, SIDE, SIDE)
    assert (given.frames[0] - motion(9)).abs().mean() < 0.01
    assert min(data.pairs[0].sequences[0].ends_db) > 35


def test_metrics_that_frames_cannot_serve_are_left_out_with_a_note(two_methods):
    data = SequenceData(frames=str(two_methods))
    metrics = {"verdict": Verdict(), "fade": Ghosting(), "ends": Reconstruction()}
    score = recipe.Scoring(data=data, metrics=metrics)
    assert {name: set(panel.metrics) for name, panel in score.panels.items()} == {
        "moved": {"verdict", "fade"},
        "faded": {"verdict", "fade"},
    }
    assert any("'ends, dB' needs the images" in note for note in score.notes)
    with pytest.raises(UserError, match="No metric can be had .* 'ends, dB' needs"):
        recipe.Scoring(data=data, metrics={"ends": Reconstruction()})
    with pytest.raises(UserError, match="No metric can be had .* needs a diffusion model, .*: leave it out, or set"):
        recipe.Scoring(data=data, metrics={"typical": Typicality(reference="data/pairs/manifest.csv")})


def table(folder):
    return {(row["pair"], row["method"]): row for row in csv.DictReader((folder / "results.csv").open())}


def test_the_frames_of_a_run_have_its_numbers(command_line, tmp_path, tiny_model_folder, monkeypatch):
    """Through PNG, for every metric of frames, of pairs and of the run; and both runs stand in one report."""
    kept = []
    attempt = morphs.attempt

    def keep(name, method, pairs, u):
        parts = attempt(name, method, pairs, u)
        kept.extend((name, part) for part in parts)
        return parts

    monkeypatch.setattr(morphs, "attempt", keep)
    pairs = save_pairs(tmp_path, one=motion(2), two=motion(2, end=0.6))
    truth = {"one": motion(5), "two": motion(9, end=0.6)}
    lines = pairs.read_text().splitlines()
    lines = [f"{lines[0]},frames", *(f"{line},true/{name}" for line, name in zip(lines[1:], truth, strict=True))]
    pairs.write_text("\n".join(lines) + "\n")
    for name, frames in truth.items():
        save(tmp_path / "true" / name, frames)
    run, scored, both = (tmp_path / name for name in ("run", "scored", "both"))
    made = command_line(
        f"data.manifest={pairs}", f"model.path_or_name={tiny_model_folder}", "model.steps=5", "model.cache_dir=null",
        f"model.image_size={SIDE}", "frames=5", "method=[slerp,crossfade]", "metrics=[offline,frames]",
        "metrics.sets_clevr.least=4", "logger.mode=disabled", f"output_dir={run}",
    )  # fmt: skip
    assert made.code == 0, made.stderr
    for name, part in kept:
        for pair, frames in zip(part.pairs.batch.ids, part.morph.frames, strict=True):
            save(run / "frames" / name / pair, frames)
    found = command_line(
        "task=score", f"frames={run}", "metrics.sets_clevr.least=4", "logger.mode=disabled", f"output_dir={scored}",
    )  # fmt: skip
    assert found.code == 0, found.stderr
    alone, stated = (
        SequenceData(frames=str(run), **given) for given in ({}, {"pairs": str(pairs), "ends_db": None})
    )  # fmt: skip
    for own, one in zip(alone.read(alone.pairs), stated.read(stated.pairs), strict=True):
        assert own.batch.ids == one.batch.ids
        assert torch.equal(own.batch.images_a, one.batch.images_a) and torch.equal(own.frames, one.frames)
        positions = slice(None, None, (len(one.batch.truth[0]) - 1) // (len(own.batch.truth[0]) - 1))
        assert torch.equal(own.batch.truth[0], one.batch.truth[0][positions])
    ours, theirs = table(run), table(scored)
    assert set(ours) == set(theirs)
    of_frames = [
        name for name, value in next(iter(theirs.values())).items()
        if value and name not in ("pair", "group", "cluster", "method", "status", "verdict")
    ]  # fmt: skip
    assert {"ghosting", "flow", "sharpness", "ppl_seq_clevr", "truth_rmse", "truth_clevr_aligned", "fades",
            "reconstruction_psnr", "ppl_clevr@diffmorpher", "change_at"} <= set(of_frames)  # fmt: skip
    for key, row in ours.items():
        assert theirs[key]["status"] == "given"
        assert theirs[key]["verdict"] == row["verdict"] != ""
        for name in of_frames:
            assert float(theirs[key][name]) == pytest.approx(float(row[name]), rel=1e-4, abs=1e-4), (key, name)
    records = [json.loads((folder / "metrics.json").read_text())["records"] for folder in (run, scored)]
    of_run, of_score = ({(one["method"], one["column"]): one for one in every} for every in records)
    assert ("slerp", "fd_clevr@raw") in of_score
    for key, one in of_score.items():
        if one["value"] is not None:
            assert one["value"] == pytest.approx(of_run[key]["value"], rel=1e-4, abs=1e-4), key
            assert one["weights"] == of_run[key]["weights"]
    summary = json.loads((scored / "summary.json").read_text())
    assert sum(summary[f"crossfade/{name}"] for name in ("fades", "morphs", "jumps")) == 1
    page = (scored / "report.html").read_text()
    assert all(words in page for words in ("one", "two", "Slerp", "Cross-fade", "A morph, a fade or a jump"))
    for folder in (run, scored):  # the same numbers by the same printed names
        page = (folder / "report.html").read_text()
        assert "PPL, sum (clevr, diffmorpher) ↓" in page
        assert "DiffMorpher</" in page and "<b>diffmorpher</b>" not in page
        assert not any(key in page.replace("<wbr>", "") for key in ("ppl_clevr", "@diffmorpher", "after the @"))
    check_page(scored / "report.html")
    joined = command_line("task=report", f"task.runs=[{run},{scored}]", "logger.mode=disabled", f"output_dir={both}")
    assert joined.code == 0, joined.stderr
    means = pd.read_csv(both / "comparison.csv")
    fades = means[(means["column"] == "ghosting") & (means["method"] == "crossfade")]["mean"]
    assert len(fades) == 2
    assert np.ptp(fades) < 1e-4


def test_a_score_that_cannot_be_had_leaves_no_table(command_line, tmp_path):
    folder = tmp_path / "out"
    for arguments, words in (
        ([], "frames="),
        ([f"frames={tmp_path / 'none'}"], "none' (frames) do not exist: give"),
        ([f"frames={broken(tmp_path, 'counts')['frames']}"], "differ in length"),
        ([f"frames={tmp_path / 'all' / 'some' / 'disc'}", "metrics=offline", f"true={tmp_path / 'no'}"], "do not exi"),
    ):
        outcome = command_line("task=score", *arguments, "logger.mode=disabled", f"output_dir={folder}")
        assert outcome.code == 2
        assert words in outcome.sentence
        assert not list(folder.rglob("*.csv")) and not list(folder.rglob("*.html"))
