"""Run folders from someone else: a report reads them as data, runs nothing, and looks at nothing outside of them."""

import json

import pandas as pd
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from measured import measured, sequences
from test_metrics_contract import CONF

from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics import FeatureDistances, MetricPanel
from latent_geodesics.run.compare.runs import find_runs
from latent_geodesics.run.compare.shard_metrics import set_metrics
from latent_geodesics.run.compare.shards import join_shards


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(CONF.parent)


def write_run(folder, *, metrics=None, shard="1/1", column="fd_clevr@raw", **settings):
    folder.mkdir(parents=True)
    config = {"seed": 0, "data": {"shard": shard}, "metrics": metrics or {}} | settings
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    pd.DataFrame([{"pair": f"p{shard[0]}", "method": "slerp", "status": "closed_form", "length": 1.0}]).to_csv(
        folder / "results.csv", index=False
    )
    record = {"method": "slerp", "column": column, "value": 1.0, "standard_error": 0.1}
    (folder / "metrics.json").write_text(json.dumps({"records": [record]}))
    return folder


def described(option):
    """The metrics of an option of the configuration, as a run's folder holds them."""
    from omegaconf import OmegaConf

    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return OmegaConf.to_container(compose("config", overrides=[f"metrics={option}"]).metrics, resolve=True)


@pytest.mark.parametrize("place", ["metric", "network", "protocols", "generated", "argument"])
def test_no_class_that_a_configuration_names_is_made(tmp_path, place):
    proof = tmp_path / "ran"
    evil = {"_target_": "pathlib.Path.touch", "_args_": [str(proof)]}
    calls = {"_target_": "subprocess.run", "args": ["touch", str(proof)]}
    protocol = {"_target_": "latent_geodesics.metrics.Protocol", "name": "raw", "source": None}
    metric = {
        "_target_": "latent_geodesics.metrics.FeatureDistances",
        "network": {"_target_": "latent_geodesics.metrics.ClevrFeatures", "folder": "/no/such/folder"},
        "protocols": {"raw": protocol},
    }
    if place == "metric":
        metric = calls
    elif place == "generated":
        protocol["generated"] = calls
    elif place == "argument":
        protocol["step_notes"] = [calls]
    else:
        metric[place] = calls if place == "network" else {"raw": calls}
    write_run(tmp_path / "run", metrics={"x": metric, "y": evil})
    try:
        (joined,) = join_shards(find_runs([tmp_path / "run"]))
    except UserError as refused:
        assert "x of the shards cannot be made again" in str(refused)  # noqa: PT017
    else:
        assert place == "metric"
        assert len(joined.measured) == 0
        assert "fd_clevr@raw is not of this project" in joined.remarks[0]
    assert not proof.exists()


def test_the_metrics_of_the_list_are_those_of_the_configuration():
    frames = sequences(4)
    plain = described("protocols_clevr")
    wanted = {
        name: one for name, one in instantiate(plain, _convert_="all").items() if isinstance(one, FeatureDistances)
    }
    panel = MetricPanel(method="slerp", metrics=wanted)
    panel.score(measured(frames))
    remade = MetricPanel(method="slerp", metrics=set_metrics(plain))
    remade.add(panel.states)
    assert len(panel.numbers()) >= 6
    assert pd.DataFrame(remade.numbers()).equals(pd.DataFrame(panel.numbers()))


@pytest.mark.parametrize("option", ["fid", "protocols_clevr", "benchmark"])
def test_every_metric_of_sets_that_ships_can_be_put_together(option):
    plain = described(option)
    sets = [name for name, one in plain.items() if one["_target_"].endswith("FeatureDistances")]
    assert sets
    assert list(set_metrics(plain)) == sets


def test_what_a_configuration_refers_to_is_not_looked_up(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hidden")
    write_run(tmp_path / "run", tau="${oc.env:SECRET}", alpha="${processes:}", frames="???")
    (run,) = find_runs([tmp_path / "run"])
    assert run.settings["tau"] == "${oc.env:SECRET}"
    assert run.settings["alpha"] == "${processes:}"


@pytest.mark.parametrize("text", ["- a\n", "5\n", "x: !!python/name:os.getcwd\n", "a: ${b\n", "a: &a [*a]\n"])
def test_a_configuration_that_is_none_is_refused(tmp_path, text):
    (write_run(tmp_path / "run") / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        find_runs([tmp_path])


@pytest.mark.parametrize("name", ["config.yaml", "results.csv", "metrics.json", "summary.json", "environment.json"])
def test_a_file_that_is_a_link_out_of_the_folder_is_refused(tmp_path, name):
    folder = write_run(tmp_path / "run")
    (tmp_path / "outside").write_text("secret")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="leads out of the folder") as refused:
        find_runs([folder])
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"records": [1]}', '{"records": 5}', '{"records": {"a": 1}}', "\udcff",
                                  '{"records": [{"method": "m", "column": "c", "value": "x", "standard_error": 1}]}',
                                  "[" * 100_000])  # fmt: skip
def test_metrics_that_cannot_be_read_are_refused(tmp_path, text):
    folder = write_run(tmp_path / "run")
    (folder / "metrics.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"metrics\.json"):
        find_runs([folder])


@pytest.mark.parametrize("states", [{"slerp": {}}, {"slerp": 5}, None, {"slerp": {"x": {"frames": "no tensor"}}}])
def test_states_that_do_not_fit_are_refused(tmp_path, states):
    protocols = {"raw": {"_target_": "latent_geodesics.metrics.Protocol", "name": "raw", "source": None}}
    network = {"_target_": "latent_geodesics.metrics.ClevrFeatures"}
    metric = {"_target_": "latent_geodesics.metrics.FeatureDistances", "network": network, "protocols": protocols}
    folder = write_run(tmp_path / "run", metrics={"x": metric})
    (folder / "batches").mkdir()
    torch.save({"pairs": ["p1"], "made_with": {}, "content": {"states": states}}, folder / "batches" / "00000.pt")
    with pytest.raises(UserError):
        join_shards(find_runs([folder]))
