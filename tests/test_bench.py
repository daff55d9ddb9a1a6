"""Measuring speed: a whole run on a small network of random weights, twice, and what it keeps."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from browser import check_page
from hydra import compose, initialize_config_dir

from latent_geodesics.experiments.bench.measures import evaluations_to
from latent_geodesics.experiments.bench.recipe import RATIOS
from latent_geodesics.experiments.bench.record import BenchRecord


@pytest.fixture
def bench(command_line, tmp_path):
    def call(name, *arguments):
        return command_line(
            "experiment=bench_gpu",
            "model.unet.sample_size=16",
            "model.unet.layers_per_block=1",
            "model.vae.layers_per_block=1",
            "model.unet.block_out_channels=[32,32,32,32]",
            "model.unet.attention_head_dim=4",
            "model.unet.cross_attention_dim=64",
            "model.vae.block_out_channels=[32,32,32,32]",
            "model.image_size=128",
            "model.steps=5",
            "model.cache_dir=null",
            "task.pairs=2",
            "frames=5",
            "solver.max_evaluations=60",
            "task.batches=[1,2]",
            "task.seconds=0.05",
            "task.solvers.descent.max_evaluations=40",
            *(f"task.knots.knots_{count}.max_evaluations=40" for count in (8, 16, 32)),
            "task.growth=[1]",
            "task.limit=null",
            f"task.folder={tmp_path / 'kept'}",
            "logger.mode=disabled",
            f"output_dir={tmp_path / name}",
            *arguments,
        )

    return call


@pytest.fixture
def kept(tmp_path):
    """The lines that were kept."""

    def read():
        (file,) = (tmp_path / "kept").iterdir()
        return [json.loads(line) for line in file.read_text().splitlines()]

    return read


STAGES = ["raw", "stack", "alone", "pair", "growth", "solvers"]
PARTS = ["encoding", "inversion", "solving", "decoding"]


@pytest.mark.slow
def test_a_run_is_kept_and_the_next_compared_with_it(bench, kept, tmp_path):
    for name in ("first", "second"):
        outcome = bench(name)
        assert outcome.code == 0, outcome.stderr
    lines = kept()
    assert len(lines) == 2
    assert lines[0]["settings"] == lines[1]["settings"]
    assert lines[0]["settings"]["d"] == 4 * 16 * 16
    assert lines[0]["machine"]["cores"] >= 1
    assert lines[0]["machine"]["network"]["dtype"] in ("float32", "float16")
    assert list(lines[0]["stages"]) == STAGES
    now, before = (line["numbers"] for line in reversed(lines))
    table = pd.read_csv(tmp_path / "second" / "results.csv").set_index("number")
    assert table.loc["stack_over_raw", "before"] == pytest.approx(before["stack_over_raw"])
    assert table.loc["stack_over_raw", "now"] == pytest.approx(now["stack_over_raw"])
    assert set(RATIOS) - {"run/outside_networks"} <= set(now)
    assert now["raw/best"] == max(now["raw/batch_1"], now["raw/batch_2"])
    assert now["batch/together_over_alone"] == pytest.approx(now["batch/together_seconds"] / now["batch/alone_seconds"])


def interrupted(*arguments, **options):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_pair_is_taken_from_its_images_to_its_frames(bench, kept, tmp_path, monkeypatch):
    """With what it costs, stage by stage, and with nothing taken from a cache."""
    monkeypatch.setattr("latent_geodesics.experiments.bench.recipe.growth", interrupted)  # and what comes after it
    assert bench("pair", f"model.cache_dir={tmp_path / 'cache'}").code == 130
    (line,) = kept()
    found = {name.removeprefix("pair/"): value for name, value in line["numbers"].items() if name.startswith("pair/")}
    assert found["seconds"] == pytest.approx(sum(found[f"seconds_{part}"] for part in PARTS))
    assert min(found[f"seconds_{part}"] for part in PARTS) > 0
    levels = 3  # of 5 steps, at tau 0.6
    assert found["inversion_calls"] >= 2 * levels
    # One prediction a score, and five frames down the levels.
    assert found["unet_calls"] == found["score_evaluations"] + 5 * levels
    assert found["converged"] in (0, 1)
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_what_was_measured_is_kept_when_the_rest_is_cut_off(bench, kept, tmp_path, monkeypatch):
    monkeypatch.setattr("latent_geodesics.experiments.bench.recipe.pair_cost", interrupted)
    assert bench("cut").code == 130
    (cut,) = kept()
    assert list(cut["stages"]) == ["raw", "stack", "alone"]
    assert min(cut["stages"].values()) > 0
    assert "batch/together_over_alone" in cut["numbers"]
    table = pd.read_csv(tmp_path / "cut" / "results.csv").set_index("number")
    assert table.loc["stack_over_raw", "now"] == pytest.approx(cut["numbers"]["stack_over_raw"])


def test_a_number_is_compared_with_the_last_run_that_has_it(tmp_path):
    file = tmp_path / "machine.jsonl"
    for settings, numbers in (("s", {"a": 1.0, "b": 2.0}), ("s", {"a": 3.0, "b": float("nan")}), ("t", {"a": 4.0})):
        BenchRecord(file, machine={}, settings={"name": settings}).add("raw", numbers, seconds=1)
    assert BenchRecord(file, machine={}, settings={"name": "s"}).before == {"a": 3.0, "b": 2.0}


def test_no_stage_begins_after_the_limit(bench, kept):
    outcome = bench("short", "task.limit=1e-6")
    assert outcome.code == 0, outcome.stderr
    assert "stack, alone, pair, growth, solvers" in outcome.stderr + outcome.stdout
    (line,) = kept()
    assert list(line["stages"]) == ["raw"]
    outcome = bench("none", "task.limit=0")
    assert outcome.code == 2
    assert "task.limit must be above 0" in outcome.sentence


def test_the_bench_of_a_gpu_bounds_every_solver_and_its_time():
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base=None):
        task = compose("config", overrides=["experiment=bench_gpu"]).task
    for solver in (*task.solvers.values(), *task.knots.values()):
        assert solver.max_evaluations <= 240
        assert solver.get("tolerance") is None  # finer scores would be those of another network than the raw one
    assert task.limit <= 140


def test_two_runs_at_once_keep_a_line_each(tmp_path):
    file = tmp_path / "machine.jsonl"
    one, other = (BenchRecord(file, machine={"name": name}, settings={}) for name in "ab")
    for stage in ("raw", "stack"):
        for record in (one, other):
            record.add(stage, {f"{stage}/x": float("nan")}, seconds=1.23456)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["machine"]["name"] for line in lines] == ["a", "b"]
    assert all(line["stages"] == {"raw": 1.235, "stack": 1.235} for line in lines)
    assert all(line["numbers"] == {"raw/x": None, "stack/x": None} for line in lines)


@pytest.mark.slow
def test_a_whole_run_is_measured_as_well(command_line, tiny_model_folder, pictures, tmp_path):
    outcome = command_line(
        "experiment=bench",
        f"model.path_or_name={tiny_model_folder}",
        "model.steps=5",
        "model.cache_dir=null",
        *(f"{key}={pictures / file}" for key, file in (("image_a", "a.png"), ("image_b", "b.png"))),
        "prompt_a=one",
        "prompt_b=two",
        "method=[geodesic,slerp]",
        "frames=5",
        "task.batches=[1]",
        "task.seconds=0.05",
        "task.solvers.descent.max_evaluations=40",
        "task.growth=[1]",
        f"task.folder={tmp_path / 'kept'}",
        "logger.mode=disabled",
        f"output_dir={tmp_path / 'run'}",
    )
    assert outcome.code == 0, outcome.stderr
    found = pd.read_csv(tmp_path / "run" / "results.csv").set_index("number")["now"]
    assert set(RATIOS) <= set(found.index)
    assert found["run/seconds"] > 0
    assert 0 < found["run/outside_networks"] < 1
    for page in (tmp_path / "run" / "interpolation" / "report.html", tmp_path / "run" / "report.html"):
        check_page(page)


def test_a_target_counts_as_reached_where_the_residual_stays_below_it():
    residual = torch.tensor([[8.0, 1, 1], [1, 1, 1], [4, 1, 1], [1, 1, 9], [1, 1, 9]])
    spent = torch.tensor([3.0, 6, 10, 25, 40])[:, None].expand(5, 3)
    trace = SimpleNamespace(residual=residual, evaluations=spent)
    found = evaluations_to(SimpleNamespace(trace=trace), torch.tensor([2.0, 2.0, 2.0]))
    torch.testing.assert_close(found, torch.tensor([25.0, 3.0, torch.nan], dtype=torch.float64), equal_nan=True)
