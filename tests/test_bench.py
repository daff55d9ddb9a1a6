"""Measuring speed: a whole run on a small network of random weights, twice, and what it keeps."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from latent_geodesics.bench.measures import evaluations_to
from latent_geodesics.tasks.bench import RATIOS


@pytest.fixture
def bench(command_line, tmp_path):
    def call(name):
        return command_line(
            "experiment=bench_gpu",
            "model.unet.sample_size=16",
            "model.unet.block_out_channels=[32,32,32,32]",
            "model.unet.attention_head_dim=4",
            "model.unet.cross_attention_dim=64",
            "model.vae.block_out_channels=[32,32,32,32]",
            "model.image_size=128",
            "model.steps=5",
            "model.cache_dir=null",
            "task.pairs=2",
            "task.batches=[1,2]",
            "task.seconds=0.05",
            "task.solvers.descent.max_evaluations=40",
            f"task.folder={tmp_path / 'kept'}",
            "logger.mode=disabled",
            f"output_dir={tmp_path / name}",
        )

    return call


def test_a_run_is_kept_and_the_next_compared_with_it(bench, tmp_path):
    for name in ("first", "second"):
        outcome = bench(name)
        assert outcome.code == 0, outcome.stderr
    (file,) = (tmp_path / "kept").iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 2
    assert lines[0]["settings"] == lines[1]["settings"]
    assert lines[0]["settings"]["d"] == 4 * 16 * 16
    assert lines[0]["machine"]["cores"] >= 1
    assert lines[0]["machine"]["network"]["dtype"] in ("float32", "float16")
    now, before = (line["numbers"] for line in reversed(lines))
    table = pd.read_csv(tmp_path / "second" / "results.csv").set_index("number")
    assert table.loc["stack_over_raw", "before"] == pytest.approx(before["stack_over_raw"])
    assert table.loc["stack_over_raw", "now"] == pytest.approx(now["stack_over_raw"])
    assert set(RATIOS) - {"run/outside_networks"} <= set(now)
    assert now["raw/best"] == max(now["raw/batch_1"], now["raw/batch_2"])
    assert now["batch/together_over_alone"] == pytest.approx(now["batch/together_seconds"] / now["batch/alone_seconds"])


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
        f"task.folder={tmp_path / 'kept'}",
        "logger.mode=disabled",
        f"output_dir={tmp_path / 'run'}",
    )
    assert outcome.code == 0, outcome.stderr
    found = pd.read_csv(tmp_path / "run" / "results.csv").set_index("number")["now"]
    assert set(RATIOS) <= set(found.index)
    assert found["run/seconds"] > 0
    assert 0 < found["run/outside_networks"] < 1
    assert (tmp_path / "run" / "interpolation" / "report.html").is_file()


def test_a_target_counts_as_reached_where_the_residual_stays_below_it():
    residual = torch.tensor([[8.0, 1, 1], [1, 1, 1], [4, 1, 1], [1, 1, 9], [1, 1, 9]])
    spent = torch.tensor([3.0, 6, 10, 25, 40])[:, None].expand(5, 3)
    trace = SimpleNamespace(residual=residual, evaluations=spent)
    found = evaluations_to(SimpleNamespace(trace=trace), torch.tensor([2.0, 2.0, 2.0]))
    torch.testing.assert_close(found, torch.tensor([25.0, 3.0, torch.nan], dtype=torch.float64), equal_nan=True)
