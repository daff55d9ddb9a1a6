"""Sweeps on Hydra's launchers: several processes, a cluster's scheduler played by this machine, and Ray."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_a_launcher_runs_a_sweep_and_its_runs_are_compared(launcher, pictures, tiny_model_folder):
    arguments = [
        "-m",
        f"hydra/launcher={launcher}",
        "alpha=0.001,0.003",
        "method=[geodesic,slerp]",
        f"image_a={pictures / 'a.png'}",
        f"image_b={pictures / 'b.png'}",
        "prompt_a=red",
        f"model.path_or_name={tiny_model_folder}",
        "model.steps=5",
        "model.cache_dir=null",
        "frames=5",
        "logger.mode=disabled",
        f"output_dir={pictures / 'sweep'}",
    ]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    for job in ("0", "1"):
        assert (pictures / "sweep" / job / "summary.json").exists()
    compared = pd.read_csv(pictures / "sweep" / "comparison.csv")
    assert set(compared["alpha"]) == {0.001, 0.003}
