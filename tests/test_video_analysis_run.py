"""A whole video analysis through the command line, on a small model of random weights; the rules of its verdicts."""

import csv
import json
import re
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pytest
from browser import check_page
from PIL import Image

from latent_geodesics.experiments.video_analysis.verdicts import (
    held,
    judge,
    larger_table,
    verdict,
    verdict_table,
    with_floors,
)
from recipes.clevr.rendering.videos import save_video

SHOWN = ("video", "optimised", "perturbed_0.5", "smoothed_1")
METHODS = {*SHOWN, "great_circle"}
SMALL = (
    "task.analyser.amplitudes=[0.5]",
    "task.analyser.widths=[1.0]",
    "task.analyser.perturbations=2",
    "task.analyser.optimiser.max_evaluations=60",
)


def sliding_square(frames=7, start=0):
    video = np.full((frames, 16, 16, 3), 90, dtype=np.uint8)
    for number in range(frames):
        video[number, 4:9, start + number : start + number + 5] = (200, 30, 30)
    return video


@pytest.fixture
def clips(tmp_path):
    """A manifest of two motions and a control."""
    rows = []
    for name, control, video in (
        ("one", 0, sliding_square()),
        ("two", 0, sliding_square(start=2)),
        ("mixed", 1, sliding_square()[[0, 3, 1, 5, 2, 4, 6]]),
    ):
        save_video(tmp_path / f"{name}.mp4", video)
        kind = "mixed" if control else "slide"
        rows.append({"id": name, "kind": kind, "file": f"{name}.mp4", "control": control} | {
            "prompt_a": "a red cube", "prompt_b": "a red cube"})  # fmt: skip
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


@pytest.fixture
def analyse(command_line, clips, tiny_model_folder):
    def call(*arguments, folder="run"):
        return command_line(
            "experiment=video_analysis",
            f"data.manifest={clips / 'manifest.csv'}",
            "data.batch_size=2",
            f"model.path_or_name={tiny_model_folder}",
            "model.steps=5",
            "model.cache_dir=null",
            "logger.mode=disabled",
            f"output_dir={clips / folder}",
            *SMALL,
            *arguments,
        )

    return call


def test_a_run_leaves_a_whole_folder(analyse, clips):
    outcome = analyse()
    assert outcome.code == 0, outcome.stderr
    run = clips / "run"
    rows = list(csv.DictReader((run / "results.csv").open()))
    assert {row["pair"] for row in rows} == {"one", "two", "mixed"}
    assert {row["method"] for row in rows} == METHODS
    assert len(rows) == 3 * len(METHODS)
    assert {"pair", "method", "status", "seconds", "evaluations"} <= set(rows[0])
    by_name = {(row["pair"], row["method"]): row for row in rows}
    assert float(by_name["one", "video"]["rounding_floor"]) > 0
    assert float(by_name["two", "video"]["rounding_floor"]) > 0
    assert by_name["two", "optimised"]["rounding_floor"] == ""
    assert float(by_name["one", "great_circle"]["curvature_term"]) < 1e-3
    assert float(by_name["one", "great_circle"]["detour"]) == pytest.approx(1.0, abs=1e-3)
    assert float(by_name["one", "video"]["detour"]) >= 1.0
    assert int(by_name["one", "perturbed_0.5"]["evaluations"]) == 2 * int(by_name["one", "video"]["evaluations"]) == 10

    frames = list(csv.DictReader((run / "norms.csv").open()))
    assert len(frames) == 3 * len(METHODS) * 5
    of_one = [float(row["norm"]) for row in frames if (row["pair"], row["method"]) == ("one", "video")]
    assert np.mean(of_one) == pytest.approx(float(by_name["one", "video"]["norm"]), rel=1e-5)

    summary = json.loads((run / "summary.json").read_text())
    assert all(isinstance(value, int | float) for value in summary.values())
    assert (summary["videos"], summary["controls"]) == (2, 1)
    assert 0 <= summary["separation/norm"] <= 1
    assert (run / "config.yaml").exists()
    assert len(json.loads((run / "environment.json").read_text())["weights"]["model"]) == 64
    with Image.open(run / "images" / "one.webp") as animation:
        assert animation.n_frames == 4
        assert animation.width > animation.height
    assert {file.stem for file in (run / "figures").iterdir()} == {
        "norms_along_the_path", "norms_by_kind", "sweeps", "scale", "balance"
    }  # fmt: skip
    page = (run / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert "near zero" in page
    check_page(run / "report.html")
    assert not list(run.rglob("*.partial*"))


@pytest.mark.slow
def test_a_video_does_not_depend_on_its_batch_and_a_run_can_be_made_again(analyse, clips):
    tables = []
    for folder, arguments in (("a", ()), ("b", ("data.batch_size=1",))):
        outcome = analyse("task.shown_videos=0", *arguments, folder=folder)
        assert outcome.code == 0, outcome.stderr
        table = pd.read_csv(clips / folder / "results.csv").set_index(["pair", "method"])
        tables.append(table[["norm", "score_term", "curvature_term", "step", "from_video"]])
    pd.testing.assert_frame_equal(*tables, rtol=2e-3, atol=2e-4)


def test_ones_own_video_needs_no_control_and_its_dropped_frames_are_said_everywhere(analyse, clips):
    with av.open(str(clips / "own.avi"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "bgr0"
        for picture, time in zip(sliding_square(), (0, 1, 2, 4, 5, 6, 8), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    outcome = analyse(f"data.video={clips / 'own.avi'}", "data.prompt='a red cube'", "data.frames=5")
    assert outcome.code == 0, outcome.stderr
    rows = list(csv.DictReader((clips / "run" / "results.csv").open()))
    assert {(row["pair"], row["kind"], row["frames"]) for row in rows} == {("own", "own", "5")}
    said = "its frames are 0.1 to 0.2 s apart"
    assert {row["remark"][: len(said)] for row in rows} == {said}
    assert said in (clips / "run" / "report.html").read_text()
    assert said in outcome.stderr + outcome.stdout
    summary = json.loads((clips / "run" / "summary.json").read_text())
    assert summary["controls"] == 0
    assert not any(name.startswith(("controls/", "separation/")) for name in summary)
    assert "on controls" not in (clips / "run" / "report.html").read_text()
    for name in ("norms_along_the_path", "norms_by_kind"):  # a figure of one video is no row of many panels
        with Image.open(clips / "run" / "figures" / f"{name}.png") as figure:
            assert figure.width < 1.8 * figure.height


def test_a_score_that_draws_has_a_floor_that_is_known(analyse, clips):
    outcome = analyse(
        "score=contrastive_renoised",
        "task.analyser.draws=3",
        "data.limit=1",
        "task.encoder.rounding_frames=0",
        "task.shown_videos=0",
    )
    assert outcome.code == 0, outcome.stderr
    table = pd.read_csv(clips / "run" / "results.csv").set_index("method")
    assert (table["floor"] > 0).all()
    assert table["rounding_floor"].isna().all()
    assert table.loc["video", "evaluations"] == 3 * 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tau=0"], "tau"),
        (["alpha=0"], "alpha"),
        (["task.analyser.amplitudes=[]"], "amplitudes"),
        (["task.analyser.widths=[-1]"], "widths"),
        (["task.encoder.rounding_frames=2"], "rounding_frames"),
        (["data.frames=2"], "data.frames"),
        (["data.video=nowhere.mp4"], "nowhere.mp4"),
        (["data.prompt='a red cube'"], "without a video"),
        (["score=contrastive_renoised", "task.analyser.draws=1"], "draws"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(analyse, clips, arguments, words):
    outcome = analyse(*arguments)
    assert outcome.code == 2, outcome.stderr
    assert words in outcome.sentence
    assert not (clips / "run" / "results.csv").exists()


def test_a_bad_video_is_known_before_the_good_ones_are_looked_at(analyse, clips):
    whole = (clips / "mixed.mp4").read_bytes()
    (clips / "mixed.mp4").write_bytes(whole[: len(whole) // 2])
    outcome = analyse()
    assert outcome.code == 2
    assert "mixed.mp4" in outcome.sentence
    assert not (clips / "run" / "results.csv").exists()


def test_an_interrupt_keeps_what_was_finished(analyse, clips, monkeypatch):
    from latent_geodesics.experiments.video_analysis.encoding import VideoEncoder

    encode, calls = VideoEncoder.encode, []

    def interrupted(self, batch):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, batch)

    monkeypatch.setattr(VideoEncoder, "encode", interrupted)
    outcome = analyse()
    assert outcome.code == 130
    run = clips / "run"
    assert {row["pair"] for row in csv.DictReader((run / "results.csv").open())} == {"one", "two"}
    assert "2 of 3: not finished" in (run / "report.html").read_text()
    assert not (run / "summary.json").exists()
    assert not list(run.rglob("*.partial*"))


def made_up(norms, *, floor, control=0, pair="a", step=1.0, perturbed_step=1.0):
    """Tables of one video: its norm, the optimised, the perturbed and the smoothed one's, at six frames."""
    table, frames = [], []
    for method, value in zip(("video", "optimised", "perturbed_1", "smoothed_1"), norms, strict=True):
        common = {"pair": pair, "kind": "k", "control": control, "method": method, "family": method.partition("_")[0]}
        table.append(common | {"norm": value, "norm_high": value, "floor": floor, "rounding_floor": np.nan})
        size = perturbed_step if method.startswith("perturbed") else step
        frames += [common | {"frame": k, "norm": value + 1e-4 * k, "step": size} for k in range(1, 7)]
    return with_floors(pd.DataFrame(table)), pd.DataFrame(frames)


@pytest.mark.parametrize(
    ("norms", "floor", "expected"),
    [
        ((0.1, 0.0, 0.3, 0.2), 0.06, (True, True, True, True)),
        ((0.1, 0.0, 0.3, 0.05), 0.04, (False, False, True, False)),
        ((0.1, 0.06, 0.05, 0.2), 0.01, (False, True, False, True)),
    ],
)
def test_a_prediction_holds_by_its_rule(norms, floor, expected):
    judged = judge(*made_up(norms, floor=floor))
    found = judged[["near_zero", "close_to_optimised", "perturbed_1", "smoothed_1"]].iloc[0]
    assert tuple(found) == expected


def test_the_turn_counts_the_step_where_the_norm_does_not():
    judged = judge(*made_up((0.1, 0.0, 0.09, 0.2), floor=0.01, perturbed_step=2.0)).iloc[0]
    assert not judged["perturbed_1"]
    assert judged["perturbed_1_per_frame"]


@pytest.mark.parametrize(("count", "word"), [(4, "held"), (3, "held"), (2, "mixed"), (1, "not held"), (0, "not held")])
def test_a_verdict_is_a_word_for_a_share_of_the_motions_alone(count, word):
    parts = [made_up((0.1, 0.0, 0.3 if n < count else 0.01, 0.2), floor=0.01, pair=str(n)) for n in range(4)]
    parts.append(made_up((0.1, 0.0, 0.3, 0.2), floor=0.01, pair="control", control=1))
    judged = judge(*(pd.concat(tables) for tables in zip(*parts, strict=True)))
    found = held(judged, "perturbed_1")
    assert (found.sum(), len(found), verdict(found)) == (count, 4, word)
    assert held(judged, "perturbed_1", control=True).tolist() == [1.0]


def test_tables_have_columns_for_the_controls_only_where_there_are_any():
    motion = made_up((0.1, 0.0, 0.3, 0.2), floor=0.06)
    control = made_up((0.1, 0.0, 0.3, 0.05), floor=0.04, pair="c", control=1)
    shown = ("video", "optimised", "perturbed_1", "smoothed_1")
    alone = judge(*motion)
    assert list(verdict_table(alone, shown)["held on motions"]) == ["1 of 1"] * 6
    assert "on controls" not in verdict_table(alone, shown)
    assert list(larger_table(alone)) == ["path", "larger norm, motions", "larger turn, motions"]
    both = judge(*(pd.concat(tables) for tables in zip(motion, control, strict=True)))
    assert list(verdict_table(both, shown)["on controls"]) == [f"{n} of 1" for n in (0, 0, 1, 0, 1, 0)]
    assert list(larger_table(both)["larger norm, controls"]) == ["1 of 1", "0 of 1"]


def test_the_floor_adds_both_kinds_of_noise():
    table = pd.DataFrame({"floor": [0.3, 0.1], "rounding_floor": [0.4, np.nan]})
    assert with_floors(table)["noise"].tolist() == pytest.approx([0.5, 0.1])
