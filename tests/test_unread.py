"""What an experiment does not read is refused where a command sets it, and is not in what it writes."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from latent_geodesics.run.config import read_keys

CONF = Path(__file__).resolve().parents[1] / "conf"
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_sets_what_it_reads(experiment):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        raw = OmegaConf.to_container(compose("config", overrides=[f"experiment={experiment}"]), resolve=False)
    own = yaml.safe_load((CONF / "experiment" / f"{experiment}.yaml").read_text())
    assert {key for key in own if key not in ("defaults", "hydra")} <= read_keys(raw)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["experiment=toy", "alpha=0.5"], "alpha"),
        (["experiment=toy", "data.limit=2"], "data"),
        (["experiment=distances", "method=[slerp]"], "method"),
        (["experiment=evolution", "metrics=[fid]"], "metrics"),
    ],
)
def test_another_key_is_refused_by_name(command_line, tmp_path, arguments, key):
    outcome = command_line(*arguments, f"output_dir={tmp_path / 'run'}", "logger.mode=disabled")
    assert outcome.code == 2
    assert f"reads '{key}'" in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_what_an_experiment_has_in_place_of_the_data_is_said(command_line, tmp_path):
    outcome = command_line("experiment=distances", "data.limit=3", f"output_dir={tmp_path / 'run'}")
    assert "task.pairs, task.frames" in outcome.sentence
    assert "Did you mean" not in outcome.sentence


def test_a_preflight_takes_the_keys_of_the_run_that_it_stands_for(command_line, tmp_path, tiny_model_folder):
    given = (f"model.path_or_name={tiny_model_folder}", "model.device=cpu", "method=[slerp]", "frames=5", "metrics=[]")
    outcome = command_line("--preflight", *given, "logger.mode=disabled", f"output_dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.stderr
