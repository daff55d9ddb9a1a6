"""Every file of conf/metrics keeps the contract of a metric; new ones are found by themselves."""

import math
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from measured import SIDE, measured, sequences

from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics import MetricPanel, MorphMetric, RunFacts, check_metrics, known_columns
from latent_geodesics.models import load_model
from latent_geodesics.models import weights as weights_module
from latent_geodesics.run.results import HIGHER_IS_BETTER

CONF = Path(__file__).parents[1] / "conf"
OPTIONS = sorted(file.stem for file in (CONF / "metrics").glob("*.yaml"))
FACTS = RunFacts(pairs=12, with_truth=6, frames=5, image_size=(SIDE, SIDE))


@lru_cache
def metrics_of(option, *overrides):
    """Shared by the tests, which measure with copies."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("config", overrides=[f"metrics={option}", *overrides])
    return instantiate(config.metrics, _convert_="all")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(CONF.parent)


@pytest.fixture(scope="module")
def wide_model(tiny_model_folder):
    return load_model(tiny_model_folder, device="cpu", steps=5, image_size=SIDE)


def present(metric):
    here = all(package.present for package in metric.packages)
    return here and all(needed.registry.problem(needed.file) is None for needed in metric.requirements)


@pytest.mark.parametrize("option", OPTIONS)
def test_its_columns_are_described(option):
    for metric in metrics_of(option).values():
        assert isinstance(metric, MorphMetric)
        assert metric.names
        assert set(metric.names) <= set(metric.columns)
        if type(metric).__module__.startswith("latent_geodesics.metrics."):
            assert set(metric.names) <= set(known_columns())
        for name in metric.names:
            column = metric.columns[name]
            assert column.title
            assert (name in HIGHER_IS_BETTER) == (column.better == "higher") or name not in known_columns()


@pytest.mark.parametrize("option", OPTIONS)
def test_neither_batches_nor_processes_change_a_number(option, wide_model):
    frames = sequences(4)
    metrics = {name: metric for name, metric in metrics_of(option).items() if present(metric)}
    if not metrics:
        pytest.skip("its weight files are not here")

    def panel_of(*batches):
        panel = MetricPanel(method="some", metrics=metrics)
        for rows in batches:
            panel.score(measured(frames[rows], model=wide_model, start=rows.start))
        return panel

    whole = panel_of(slice(0, 4))
    split = panel_of(slice(3, 4), slice(0, 1), slice(1, 3))
    first, second = panel_of(slice(2, 4)), panel_of(slice(0, 2))
    for name, metric in first.metrics.items():
        metric.merge_state(second.metrics[name])
    # That a half of the pairs has other numbers shows that the merged ones are not a half's.
    halves = {record.column: record.value for record in second.records(FACTS, seed=0)}
    known = {record.column: record for record in whole.records(FACTS, seed=0)}
    assert set(known) == {column for metric in metrics.values() for column in metric.names}
    assert any(known[name].value != halves[name] for name in known)
    for other in (split, first):
        for record in other.records(FACTS, seed=0):
            expected = known[record.column]
            assert record.value == pytest.approx(expected.value, rel=1e-6, abs=1e-9, nan_ok=True), record.column
            assert record.counts == expected.counts


@pytest.mark.parametrize("option", OPTIONS)
def test_a_number_of_a_run_is_the_mean_of_its_pairs_and_says_what_it_is_made_of(option, wide_model):
    metrics = {name: metric for name, metric in metrics_of(option).items() if present(metric)}
    if not metrics:
        pytest.skip("its weight files are not here")
    panel = MetricPanel(method="some", metrics=metrics)
    scores = panel.score(measured(sequences(3), model=wide_model))
    assert all(values.shape == (3,) for values in scores.values())
    for record in panel.records(FACTS, seed=5):
        assert record.seed == 5
        assert record.counts
        assert all(len(hash) == 64 for hash in record.weights.values())
        if record.protocol is not None:
            assert record.column.endswith(f"@{record.protocol}")
            assert record.network
        if record.column in scores and "sum over the pairs" not in record.notes:
            assert record.value == pytest.approx(float(scores[record.column].double().nanmean()), nan_ok=True)
        if record.column in scores:
            assert record.counts["pairs"] == int((~scores[record.column].isnan()).sum())


@pytest.mark.parametrize("option", OPTIONS)
def test_copies_share_networks_and_keep_their_own_sums(option):
    for metric in metrics_of(option).values():
        copy = metric.clone()
        assert [id(child) for child in copy.children()] == [id(child) for child in metric.children()]
        if hasattr(metric, "network"):
            assert copy.network is metric.network
        if hasattr(metric, "sums"):
            copy.sums += 1
            assert not metric.sums.any()


@pytest.mark.parametrize("option", OPTIONS)
def test_all_missing_weights_are_named_before_the_run_starts(option, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(weights_module.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(weights_module, "_of_the_hub", lambda file: [])
    metrics = metrics_of(option, f"weights.folder={tmp_path / 'none'}")
    needed = {item.id: item.file for metric in metrics.values() for item in metric.requirements}
    if not needed:
        check_metrics(metrics, FACTS)
        return
    with pytest.raises(UserError) as refused:
        check_metrics(metrics, FACTS)
    for file in needed.values():
        assert file.name in str(refused.value)
        assert f"{file.megabytes:.1f} MB" in str(refused.value)
        assert str(tmp_path / "none" / file.name) in str(refused.value)
        assert file.url is None or file.url in str(refused.value)


def test_a_failed_sequence_is_counted_out_and_harms_no_other(wide_model):
    metrics = metrics_of("benchmark")
    alone, both = (MetricPanel(method="some", metrics=metrics) for _ in range(2))
    frames = sequences(3)
    ends = frames[:, [0, -1]]
    broken = frames.clone()
    broken[1] = math.nan
    both.score(measured(broken, images=ends, model=wide_model))
    alone.score(measured(frames[[0, 2]], images=ends[[0, 2]], model=wide_model))
    expected = {record.column: record for record in alone.records(FACTS, seed=0)}
    for record in both.records(FACTS, seed=0):
        assert math.isfinite(record.value), record.column
        if "pairs" in record.counts:
            assert record.counts["pairs"] == 2
            assert record.value == pytest.approx(expected[record.column].value, rel=1e-6)
        else:
            assert record.counts["reference"] == 6  # the images of the pair are there all the same


def test_two_metrics_of_one_column_are_refused():
    metrics = metrics_of("offline") | {"again": metrics_of("offline")["path"]}
    with pytest.raises(UserError, match="path and again both fill"):
        check_metrics(metrics, FACTS)


@pytest.mark.parametrize(
    ("option", "facts", "words"),
    [
        ("truth", {"with_truth": 0}, ["'pixel error to truth' needs", "12 pair"]),
        ("topiq_truth", {"with_truth": 0}, ["'TOPIQ against truth' needs", "12 pair"]),
        ("fid", {"pairs": 3}, ["'FID' needs", "16 images", "3 pair", "6 images"]),
        ("protocols_clevr", {"pairs": 5}, ["'Fréchet distance, clevr' needs", "10 "]),
        ("lpips_alex", {"image_size": (16, 16)}, ["(lpips alex)' needs", "31", "16 x 16"]),
        ("topiq", {"image_size": (16, 24)}, ["'TOPIQ, no reference' needs", "32", "24 x 16"]),
    ],
)
def test_what_the_data_cannot_serve_is_skipped_naming_both(option, facts, words, monkeypatch):
    known, metrics = {"pairs": 12, "with_truth": 6, "frames": 5, "image_size": (SIDE, SIDE)}, metrics_of(option)
    monkeypatch.setattr("latent_geodesics.metrics.panel.require", list)  # weights that this machine may not have
    served, skipped = check_metrics(metrics, RunFacts(**(known | facts)))
    assert skipped
    assert {**served, **dict.fromkeys(skipped)}.keys() == metrics.keys()
    for name, reason in skipped.items():
        assert reason.startswith(f"'{name}' is skipped. ")
        assert "\n" not in reason
    assert any(all(word in reason for word in words) for reason in skipped.values())


def test_frames_of_another_size_are_refused_in_a_sentence():
    with pytest.raises(UserError, match="16 x 16 pixels and its images 32 x 32"):
        measured(torch.rand(1, 3, 3, 16, 16), images=torch.rand(1, 2, 3, SIDE, SIDE))
