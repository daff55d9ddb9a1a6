"""What the logger is told, and that its end is not the run's."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.tracking import RunLogger, WandbRun, open_wandb


class Listener:
    """Takes the place of a wandb run."""

    def __init__(self):
        self.rows = []

    def define_metric(self, name, step_metric=None, step_sync=None):
        """Is told of the axes first."""

    def log(self, row):
        self.rows.append(row)

    def finish(self, exit_code):
        """Ends."""


@pytest.mark.parametrize(("count", "told"), [(0, 0), (1, 1), (2, 2), (100, 100), (101, 100), (491, 100)])
def test_a_long_curve_is_told_in_part_with_both_its_ends(count, told):
    listener = Listener()
    run = WandbRun(listener)
    values = [float(index) ** 2 for index in range(count)]
    run.curve("residual", values, against=range(count), axis="iteration")
    positions = [row["iteration"] for row in listener.rows]
    assert len(positions) == told == len(set(positions))
    assert positions == sorted(positions)
    assert all(row["residual"] == row["iteration"] ** 2 for row in listener.rows)
    if count:
        assert positions[0] == 0
        assert positions[-1] == count - 1


class Dead(Listener):
    """Takes the place of a run whose process has died."""

    def __init__(self):
        super().__init__()
        self.told = 0
        self.summary = SimpleNamespace(update=self.log)

    def log(self, row):
        self.told += 1
        raise BrokenPipeError("the process is gone")

    def finish(self, exit_code):
        self.log(exit_code)


def test_a_logger_that_dies_is_said_once_and_ends_nothing(tmp_path, caplog):
    run = Dead()
    logger = WandbRun(run)
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")
    logger.curve("residual", [1.0, 2.0], against=[0, 1], axis="iteration")
    logger.picture("strip", picture)
    logger.table("results", ["a"], [[1]])
    logger.summary({"a": 1.0})
    logger.lightning.log_metrics({"loss": 1.0}, step=1)
    logger.lightning.finalize("success")
    logger.close(succeeded=True)
    assert run.told == 1
    (said,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "Weights & Biases is lost (BrokenPipeError: the process is gone): the run goes on" in said


def test_a_picture_that_cannot_be_read_ends_nothing(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"cut")
    WandbRun(Listener()).picture("strip", tmp_path / "a.png")
    assert "Weights & Biases is lost" in caplog.text


@pytest.mark.parametrize("home", ["closed", "open"])
def test_tables_are_staged_in_the_run_s_folder_and_a_closed_home_is_left_alone(tmp_path, monkeypatch, home):
    seen = {}

    def init(**options):
        seen.update({name: value for name, value in os.environ.items() if name.startswith("WANDB_")})
        return Listener()

    monkeypatch.setattr("wandb.init", init)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/proc/nohome" if home == "closed" else str(tmp_path))
    opened = open_wandb(folder=tmp_path / "run", record={})
    places = {name: Path(value) for name, value in seen.items() if name.endswith("_DIR")}
    moved = ["WANDB_DATA_DIR"] if home == "open" else ["WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"]
    assert sorted(places) == moved
    assert all(place.is_relative_to(tmp_path / "run") for place in places.values())
    opened.close(succeeded=True)
    assert not {name for name in os.environ if name in places}


def test_what_cannot_be_opened_offline_is_done_without_and_online_is_refused(tmp_path, monkeypatch, caplog):
    def init(**options):
        raise OSError("no process can be started")

    monkeypatch.setattr("wandb.init", init)
    assert type(open_wandb(folder=tmp_path, record={}, mode="offline")) is RunLogger
    assert "no process can be started" in caplog.text
    with pytest.raises(UserError, match="cannot be reached"):
        open_wandb(folder=tmp_path, record={}, mode="online")
