"""The command line: whatever is wrong, one sentence that names it and a code that is not zero."""

import errno

import pytest

from latent_geodesics import UserError
from latent_geodesics.command import exit_code


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
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x"), 2, "'/proc/x': No such file"),
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
        (["tau"], "tau"),
        (["seed=-1"], "seed"),
        (["seed=many"], "seed"),
        (["logger.mode=sometimes"], "offline, online, disabled"),
    ],
)
def test_a_wrong_argument_is_named(command_line, tmp_path, arguments, words):
    outcome = command_line(f"output_dir={tmp_path / 'run'}", *arguments)
    assert outcome.code == 2
    assert words in outcome.sentence


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
