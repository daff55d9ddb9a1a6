"""The command line: whatever is wrong, one sentence that names it and a code that is not zero."""

import errno
import io
import os
import signal
import sys

import pytest
import torch

from latent_geodesics import UserError
from latent_geodesics.models import load_model, precision
from latent_geodesics.models.precision import Layout
from latent_geodesics.models.store import measured_once
from latent_geodesics.run.main import exit_code


def fail(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("alpha must be at least 0, got -1."), 2, "alpha must be at least 0, got -1."),
        (OSError(errno.ENOSPC, "No space left on device", "x.png"), 2, "'x.png' cannot be written: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "permission is denied"),
        (RuntimeError("io error: No space left on device (os error 28)"), 2, "the disk is full"),
        (FileNotFoundError(errno.ENOENT, "Not there", "/proc/x"), 2, "'/proc/x' cannot be used (Not there): name an"),
        (KeyboardInterrupt(), 130, "Interrupted"),
    ],
)
def test_an_error_for_the_user_is_a_sentence(capsys, error, code, words):
    assert exit_code(fail(error)) == code
    said = capsys.readouterr().err.strip()
    assert words in said
    assert "\n" not in said


def test_a_defect_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="a defect"):
        exit_code(fail(RuntimeError("a defect")))


def test_success_is_zero():
    assert exit_code(lambda: None) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=interpolatoin"], "Did you mean 'interpolation'"),
        (["method=[geodesics]"], "geodesics"),
        (["solver=newton"], "picard_anderson"),
        (["no_such_key=1"], "no_such_key"),
        (["task.no_such_key=1"], "no_such_key"),
        (["modl.steps=5"], "Did you mean 'model.steps'?"),
        (["metrics=[flp]"], "There is no choice of metrics 'flp'; there are: "),
        (["tau"], "tau"),
        (["+data.keys=[README.md]"], "It belongs to data=keys."),
        (["seed=-1"], "seed"),
        (["seed=many"], "seed"),
        (["logger.mode=sometimes"], "offline, online, disabled"),
    ],
)
def test_a_wrong_argument_is_named(command_line, tmp_path, arguments, words):
    outcome = command_line(f"output_dir={tmp_path / 'run'}", *arguments)
    assert outcome.code == 2
    assert words in outcome.sentence


def test_what_asks_a_run_to_end_interrupts_it(command_line, tmp_path, monkeypatch):
    from latent_geodesics.experiments.toy.recipe import Toy

    monkeypatch.setattr(Toy, "run", lambda self, run: signal.raise_signal(signal.SIGTERM))
    assert command_line("experiment=toy", f"output_dir={tmp_path / 'run'}", "logger.mode=disabled").code == 130


def test_a_folder_that_cannot_be_made_is_named(command_line, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = command_line(f"output_dir={tmp_path / 'file' / 'run'}")
    assert outcome.code == 2
    assert str(tmp_path / "file") in outcome.sentence


def test_a_folder_that_holds_a_run_is_refused(command_line, tmp_path):
    (tmp_path / "results.csv").write_text("pair,method\n")
    outcome = command_line(f"output_dir={tmp_path}")
    assert outcome.code == 2
    assert "already holds a run" in outcome.sentence
    assert (tmp_path / "results.csv").read_text() == "pair,method\n"


def test_an_error_that_was_dealt_with_is_no_cause(capsys):
    def action():
        try:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "cache.json")
        except FileNotFoundError:
            raise RuntimeError("a defect")  # noqa: B904

    with pytest.raises(RuntimeError, match="a defect"):
        exit_code(action)


def test_a_full_disk_is_the_cause_of_what_fails_while_it_is_dealt_with(capsys):
    def action():
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "x.pt")
        finally:
            raise RuntimeError("unexpected position")

    assert exit_code(action) == 2
    assert "'x.pt' cannot be written: the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        MemoryError("Unable to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: 20.00 GiB"),
    ],
)
def test_memory_that_ran_out_is_named(capsys, error):
    assert exit_code(fail(error)) == 2
    said = capsys.readouterr().err
    assert "The memory is full" in said
    assert "20.00 GiB" in said


def test_memory_that_ran_out_at_the_first_load_is_named(capsys, monkeypatch, tmp_path, tiny_model_folder):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(precision, "_measured_layout", full)
    assert exit_code(lambda: load_model(tiny_model_folder, device="cpu", dtype="float32", cache_dir=tmp_path)) == 2
    said = capsys.readouterr().err
    assert "CUDA out of memory" in said
    assert "No such file" not in said


def test_a_measurement_raises_its_own_error_alone(tmp_path):
    def broken():
        raise ValueError("no such kernel")

    with pytest.raises(ValueError, match="no such kernel") as error:
        measured_once(tmp_path / "x.json", Layout, broken)
    assert error.value.__context__ is None


def test_a_measurement_whose_file_was_damaged_is_made_again(tmp_path):
    file, first, second = tmp_path / "x.json", Layout(rates={"a": 1.0}), Layout(rates={"a": 2.0})
    assert measured_once(file, Layout, lambda: first) == first
    assert measured_once(file, Layout, lambda: second) == first
    file.write_text(file.read_text().replace("1.0", "3.0"))
    assert measured_once(file, Layout, lambda: second) == second
    file.write_text("{}")
    assert measured_once(file, Layout, lambda: first) == first


def test_a_measurement_that_cannot_be_kept_is_used_all_the_same(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    found = measured_once(tmp_path / "file" / "x.json", Layout, lambda: Layout(rates={"a": 1.0}))
    assert found == Layout(rates={"a": 1.0})
    assert "could not be written" in caplog.text


def test_a_file_that_may_not_be_read_is_not_called_unwritable(capsys, tmp_path, monkeypatch):
    file = tmp_path / "x.png"
    file.write_text("")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert exit_code(fail(PermissionError(errno.EACCES, "Permission denied", str(file)))) == 2
    assert "cannot be read: permission is denied" in capsys.readouterr().err


def test_a_shell_that_hands_on_a_backend_or_ascii_ends_nothing(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert exit_code(lambda: sys.stdout.write("\u2588 caf\u00e9\n")) == 0
    assert os.environ["MPLBACKEND"] == "agg"
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue() == b"? caf?\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data._target_=nope.Nope"], "'nope.Nope' (at `data` in the configuration) cannot be imported"),
        (["data.limit=all"], "data.limit must be a whole number, got 'all'"),
        (["method=null"], "No method was chosen"),
        (["task=report", "task.runs=README.md"], "'README.md' (task.runs) is a file, not a folder"),
    ],
)
def test_a_wrong_value_is_named(command_line, tmp_path, arguments, words, tiny_model_folder):
    own = [] if "task=report" in arguments else [f"model.path_or_name={tiny_model_folder}", "model.cache_dir=null"]
    outcome = command_line(f"output_dir={tmp_path / 'run'}", "logger.mode=disabled", *own, *arguments)
    assert outcome.code == 2
    assert words in outcome.sentence


def test_names_and_prompts_may_look_like_anything(command_line, pictures, tiny_model_folder):
    first, second = pictures / "photo (1), \u00e9t\u00e9.png", pictures / "it's = b.png"
    (pictures / "a.png").rename(first)
    (pictures / "b.png").rename(second)
    outcome = command_line(
        f"image_a={first}", f"image_b={second}", "prompt_a=2024", "prompt_b=a cube, (red)", "method=[slerp]",
        "metrics=null", "frames=3", "model.steps=3", f"model.path_or_name={tiny_model_folder}", "model.cache_dir=null",
        "logger.mode=disabled", f"output_dir={pictures / 'run (2)'}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    assert (pictures / "run (2)" / "summary.json").exists()


def test_a_trainer_option_that_there_is_not_is_told(command_line, pictures, tiny_model_folder):
    outcome = command_line(
        f"image_a={pictures / 'a.png'}", f"image_b={pictures / 'b.png'}", "method=[slerp]", "metrics=null", "frames=3",
        f"model.path_or_name={tiny_model_folder}", "model.cache_dir=null", "model.steps=3", "logger.mode=disabled",
        f"output_dir={pictures / 'run'}", "+trainer.max_epoch=3",
    )  # fmt: skip
    assert outcome.code == 2
    assert "max_epoch" in outcome.sentence
