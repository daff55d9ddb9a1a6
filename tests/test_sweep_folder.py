"""The folder of a sweep: whose it is, and which of its jobs belong to the sweep that just ended."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from latent_geodesics.run.compare.callback import CompareSweep, _jobs

CONF = Path(__file__).parents[1] / "conf"


def config(folder: Path | str, number: int = 0):
    sweep = OmegaConf.create({"hydra": OmegaConf.structured(HydraConf)})
    sweep.hydra.sweep.dir, sweep.hydra.job.num, sweep.hydra.mode = str(folder), number, RunMode.MULTIRUN
    return sweep


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # as a command begins


def sweep(folder: Path, count: int) -> CompareSweep:
    """Begins a sweep and leaves a table in each of its jobs."""
    callback = CompareSweep()
    callback.on_multirun_start(config(folder))
    for number in range(count):
        callback.on_job_start(config(folder, number))
        (folder / str(number)).mkdir(exist_ok=True)
        (folder / str(number) / "results.csv").write_text("pair,method\n")
    return callback


def test_jobs_of_an_earlier_larger_sweep_are_not_compared(tmp_path):
    folder = tmp_path / "sweep"
    sweep(folder, 11)
    assert [job.name for job in _jobs(folder)] == [str(number) for number in range(11)]
    sweep(folder, 2)
    assert [job.name for job in _jobs(folder)] == ["0", "1"]


def test_a_job_without_a_table_is_named(tmp_path, caplog):
    sweep(tmp_path / "sweep", 3)
    (tmp_path / "sweep" / "1" / "results.csv").unlink()
    assert [job.name for job in _jobs(tmp_path / "sweep")] == ["0", "2"]
    assert "The jobs 1 of the sweep left no table" in caplog.text


def test_a_folder_with_files_of_others_is_refused(tmp_path, capsys):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(SystemExit) as left:
        CompareSweep().on_multirun_start(config(tmp_path))
    assert left.value.code == 2
    assert "no sweep's (report.html)" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_sweep_that_names_no_folder_gets_one_by_its_experiment_and_the_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        swept = compose("config", overrides=["experiment=ablation_alpha"], return_hydra_config=True)
    CompareSweep().on_multirun_start(swept)
    (folder,) = (tmp_path / "runs" / "ablation_alpha").iterdir()
    assert folder.name in swept.hydra.sweep.dir
    assert (folder / ".jobs").is_dir()


@pytest.mark.parametrize("name", ["", "."])
def test_the_folder_one_stands_in_is_refused(name, capsys):
    with pytest.raises(SystemExit) as left:
        CompareSweep().on_multirun_start(config(name))
    assert left.value.code == 2
    assert "output_dir is empty" in capsys.readouterr().err
