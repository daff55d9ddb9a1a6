"""Where the time of a pair goes: stages that are told apart, add up, and are in every table."""

import csv
import json
import time
from contextlib import nullcontext

import pandas as pd
import pytest
import torch
from baselines import encoded_pairs, gentle_model, morphs_of, positions

from latent_geodesics.methods import AutoencodedTruth, CrossFade, EncodedPairs, Retimed, Slerp
from latent_geodesics.methods.base import PairMethod
from latent_geodesics.methods.timing import Timing
from latent_geodesics.metrics import MetricPanel
from latent_geodesics.models import accelerator
from latent_geodesics.models.accelerator import STAGES, Stopwatch
from latent_geodesics.run.results import STAGE_TITLES


class Clock:
    """Time that passes only where a test lets it."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(accelerator, "time", made)
    return made


@pytest.fixture(scope="module")
def gentle(tiny_model_folder):
    return gentle_model(tiny_model_folder, refinements=2)


@pytest.fixture(scope="module")
def pairs(gentle):
    return encoded_pairs(gentle)


class Slow(PairMethod):
    """Takes a second before it draws, and two while it does."""

    def __init__(self, clock):
        self.clock = clock

    def sequence(self, pair):
        self.clock.now += 1

        def draw(u):
            self.clock.now += 2
            return torch.zeros(len(u), 3, 16, 16)

        return nullcontext(draw)


class OnTrial(Timing):
    """Draws once on trial."""

    def positions(self, draw, u):
        draw(u)
        return u


def test_a_stopwatch_gives_each_stage_its_time_and_waits_for_the_device_at_the_boundaries_alone(clock, monkeypatch):
    waited = []
    monkeypatch.setattr(accelerator, "wait", waited.append)
    watch = Stopwatch(torch.device("cuda"))
    for stage, seconds in (("solving", 1), ("decoding", 5), ("solving", 2)):
        clock.now += seconds
        watch.lap(stage)
    assert watch.seconds == {"solving": 3, "decoding": 5}
    assert waited == [torch.device("cuda")] * 4


def test_what_comes_before_drawing_is_solving(pairs, clock):
    morph = Slow(clock).morph(pairs, positions())
    assert (morph.seconds, morph.seconds_solving, morph.seconds_decoding) == (3, 1, 2)


def test_a_timings_trial_is_solving(pairs, clock, monkeypatch):
    morph = Retimed(method=Slow(clock), timing=OnTrial()).morph(pairs, positions())
    assert (morph.seconds, morph.seconds_solving, morph.seconds_decoding) == (5, 3, 2)

    def decoded(self, path, u):
        clock.now += 4
        return torch.zeros(len(self.batch), len(u), 3, 16, 16)

    monkeypatch.setattr(EncodedPairs, "decode", decoded)
    drawn = Retimed(method=Slerp(), timing=OnTrial()).morph(pairs, positions())
    assert (drawn.seconds, drawn.seconds_solving, drawn.seconds_decoding) == (8, 4, 4)


def test_references_are_told_apart_too(pairs):
    assert CrossFade().morph(pairs, positions()).seconds_solving == 0
    truth = AutoencodedTruth().morph(pairs, positions())
    assert 0 < truth.seconds_solving < truth.seconds


@pytest.mark.parametrize("options", [{}, {"textual_inversion": {"steps": 3, "progress": False}}])
def test_encoding_and_inversion_are_each_pairs_share(gentle, options):
    started = time.perf_counter()
    pairs = encoded_pairs(gentle, **options)
    elapsed = time.perf_counter() - started
    spent = pairs.seconds
    assert set(spent) == {"encoding", "inversion"}
    assert all(seconds > 0 for seconds in spent.values())
    assert 0.2 * elapsed < 2 * sum(spent.values()) <= elapsed
    assert pairs.restrict([1]).seconds == spent


def test_an_inversion_from_the_cache_is_what_it_took_to_read(tiny_model_folder, tmp_path):
    model = gentle_model(tiny_model_folder, cache_dir=tmp_path)
    encoded_pairs(model)  # what is slow the first time
    first = encoded_pairs(model, remember=False).seconds
    again = encoded_pairs(model).seconds
    assert 0 < again["inversion"] < first["inversion"]


def test_metrics_have_a_time_of_their_own(pairs, clock, monkeypatch):
    def score(self, measured):
        clock.now += 4
        return {}

    monkeypatch.setattr(MetricPanel, "score", score)
    (method,) = morphs_of(pairs, {"slow": Slow(clock)}, {}, frames=5).methods
    row = method.row(0)
    assert [name for name in row if name.startswith("seconds_")] == [f"seconds_{stage}" for stage in STAGES]
    assert {stage: row[f"seconds_{stage}"] for stage in STAGES} == {
        **pairs.seconds, "solving": 1, "decoding": 2, "metrics": 2,
    }  # fmt: skip
    assert row["seconds"] == 3


def test_every_table_of_a_run_tells_them(command_line, tiny_model_folder, pictures):
    outcome = command_line(
        f"image_a={pictures / 'a.png'}",
        f"image_b={pictures / 'b.png'}",
        f"model.path_or_name={tiny_model_folder}",
        "model.steps=5",
        "model.cache_dir=null",
        "method=[geodesic,slerp,aid,crossfade]",
        "frames=5",
        "logger.mode=disabled",
        f"output_dir={pictures / 'run'}",
    )
    assert outcome.code == 0, outcome.stderr
    table = pd.read_csv(pictures / "run" / "results.csv").set_index("method")
    stages = table[list(STAGE_TITLES)]
    assert list(STAGE_TITLES) == [f"seconds_{stage}" for stage in STAGES]
    assert (stages >= 0).all(axis=None)
    assert (stages[["seconds_encoding", "seconds_inversion"]].nunique() == 1).all()
    assert (stages["seconds_solving"] + stages["seconds_decoding"]).to_numpy() == pytest.approx(table["seconds"])
    summary = json.loads((pictures / "run" / "summary.json").read_text())
    assert summary["geodesic/seconds_solving"] == pytest.approx(table.loc["geodesic", "seconds_solving"])
    page = (pictures / "run" / "report.html").read_text()
    section = page[page.index("Seconds by stage") :]
    assert all(f"<th>{stage}</th>" in section for stage in STAGES)
    with (pictures / "run" / "comparison.csv").open() as lines:
        assert set(STAGE_TITLES) <= {row["column"] for row in csv.DictReader(lines)}
