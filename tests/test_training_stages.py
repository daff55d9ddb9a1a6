"""What makes a stage of training done, and which checkpoint is gone on with."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.files import DamagedFileError, seal
from recipes.clevr.training.fit import Checkpoints
from recipes.clevr.training.stages import StageRecords, TrainingStage, alone_in, load, save


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.fixture
def checkpoints():
    return Checkpoints(origin="these settings")


def test_the_last_whole_checkpoint_is_gone_on_with(tmp_path, checkpoints, caplog):
    file = tmp_path / "last.ckpt"
    assert checkpoints.last(tmp_path) is None
    for step in (1, 2):
        checkpoints.save_checkpoint({"state": torch.full((2,), step), "global_step": step}, file)
    assert checkpoints.last(tmp_path) == file
    assert checkpoints.load_checkpoint(file)["global_step"] == 2
    file.write_bytes(file.read_bytes()[:200])
    kept = checkpoints.last(tmp_path)
    assert "cannot be gone on with" in caplog.text
    assert checkpoints.load_checkpoint(kept)["global_step"] == 1
    assert Checkpoints(origin="others").last(tmp_path) is None


@pytest.mark.parametrize("sealed", [False, True])
def test_nothing_in_a_checkpoint_is_run(tmp_path, checkpoints, sealed):
    content = pickle.dumps({"origin": "these settings", "checkpoint": Bomb(tmp_path / "ran")})
    (tmp_path / "last.ckpt").write_bytes(seal(content) if sealed else content)
    with pytest.raises(DamagedFileError):
        checkpoints.load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert checkpoints.last(tmp_path) is None
    assert not (tmp_path / "ran").exists()


def records(folder: Path, **settings) -> StageRecords:
    """Two stages, the second made from the first and written elsewhere."""

    def stage(name: str, needs: tuple[str, ...], output: Path, *, trained: bool) -> TrainingStage:
        return TrainingStage(
            name=name,
            work=lambda run: None,
            settings=settings.get(name, {"lr": 0.1, "widths": (4, 8)}),
            needs=needs,
            outputs=lambda: [output],
            trained=trained,
            place=None if trained else output.parent,
        )

    first = stage("network", (), folder / "network" / "raw.pt", trained=True)
    second = stage("export", ("network",), folder.parent / "model" / "weights", trained=False)
    return StageRecords(folder=folder, stages={"network": first, "export": second})


def perform(found: StageRecords, name: str, content: str) -> None:
    found.begin(name)
    (output,) = found.stages[name].outputs()
    output.parent.mkdir(exist_ok=True)
    output.write_text(content)
    found.end(name)


@pytest.fixture
def work(tmp_path):
    perform(records(tmp_path / "work"), "network", "weights")
    perform(records(tmp_path / "work"), "export", "half of them")
    return tmp_path / "work"


def test_a_stage_is_done_as_long_as_all_is_as_it_was(work):
    found = records(work)
    assert found.is_done("network")
    assert found.is_done("export")
    found.check_place("export", option="task.model_dir")
    assert not records(work / "other").is_done("network")


@pytest.mark.parametrize("damage", ["deleted", "changed", "record"])
def test_a_stage_whose_files_are_not_as_it_left_them_is_not_done(work, damage, caplog):
    model = work.parent / "model" / "weights"
    if damage == "deleted":
        model.unlink()
    elif damage == "changed":
        model.write_text("another's")
    else:
        record = work / "export" / "stage.json"
        record.write_bytes(record.read_bytes().replace(b"null", b"true").replace(b"weights", b"weightz"))
    assert not records(work).is_done("export")
    assert "done again" in caplog.text
    assert records(work).is_done("network")


def test_a_stage_of_files_that_were_made_anew_is_not_done(work):
    perform(records(work), "network", "other weights")
    assert records(work).is_done("network")
    assert not records(work).is_done("export")
    perform(records(work), "network", "weights")
    assert records(work).is_done("export"), "the same files are the same files"


def test_what_was_trained_with_other_settings_is_neither_taken_nor_overwritten(work):
    other = records(work, network={"lr": 0.2, "widths": (4, 8)})
    with pytest.raises(UserError, match=r"network' was trained with other settings \(lr\)"):
        other.is_done("network")
    assert not records(work, export={"lr": 0.2}).is_done("export"), "what takes no time is done again"


def test_a_training_that_saved_nothing_does_not_block_another_one(tmp_path):
    records(tmp_path).begin("network")
    other = records(tmp_path, network={"lr": 0.2})
    assert not other.is_done("network")
    (tmp_path / "network" / "last.ckpt").touch()
    with pytest.raises(UserError, match="other settings"):
        other.is_done("network")


def test_the_origin_of_checkpoints_follows_settings_and_earlier_stages(work):
    before = records(work).origin("export")
    assert records(work).origin("export") == before
    assert records(work, export={"lr": 0.2}).origin("export") != before
    perform(records(work), "network", "other weights")
    assert records(work).origin("export") != before
    again = records(work)
    again.stages["network"] = replace(again.stages["network"], settings={"lr": 0.3})
    assert again.origin("network") != records(work).origin("network")


def test_two_trainings_do_not_share_a_folder(tmp_path):
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(UserError, match="Another training is at work"),
        alone_in(tmp_path),
    ):
        pass


def test_results_of_a_stage_are_sealed(tmp_path):
    save({"weights": {"a": torch.arange(3)}}, tmp_path / "raw" / "a.pt")
    assert torch.equal(load(tmp_path / "raw" / "a.pt")["weights"]["a"], torch.arange(3))
    (tmp_path / "raw" / "a.pt").write_bytes(b"cut")
    with pytest.raises(UserError, match="is damaged .*: run stage 'raw' again"):
        load(tmp_path / "raw" / "a.pt")
