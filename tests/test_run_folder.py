"""Whose folder it is: claimed, gone on with, finished and whole, or not this project's at all."""

import json
from pathlib import Path

import pytest

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.config import Settings
from latent_geodesics.run.run_folder import claimed, complete, finished


def settings(folder: Path, **changed) -> Settings:
    task = {"_target_": "latent_geodesics.experiments.toy.recipe.Toy"}
    resolved = {"seed": 0, "output_dir": str(folder), "task": task, "expected": None} | changed
    return Settings(seed=0, output_dir=folder, task=task, trainer={}, logger={}, expected=None, resolved=resolved)


def run(folder: Path, **changed) -> None:
    """A whole run that leaves a table and a picture."""
    with claimed(settings(folder, **changed)):
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / "a.png").write_bytes(b"picture")
        (folder / "results.csv").write_text("pair,method\n")
        complete(folder, {"pairs": 1.0})


@pytest.mark.parametrize("name", ["report.html", "environment.json", "notes", "summary.json", "multirun.yaml"])
def test_a_folder_with_files_of_others_is_refused_and_left_as_it_was(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"no run's .*{name}"), claimed(settings(tmp_path)):
        pass
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "mine")]


def test_the_configuration_of_another_program_is_no_run(tmp_path):
    (tmp_path / "config.yaml").write_text("model: mine\n")
    with pytest.raises(UserError, match="no run's"), claimed(settings(tmp_path)):
        pass
    assert (tmp_path / "config.yaml").read_text() == "model: mine\n"


def test_a_run_that_left_nothing_does_not_block_the_corrected_command(tmp_path):
    with claimed(settings(tmp_path, alpha=-1)):
        (tmp_path / "environment.json").write_text("{}")
    with claimed(settings(tmp_path, alpha=1)):
        assert "alpha: 1" in (tmp_path / "config.yaml").read_text()
        (tmp_path / "batches").mkdir()
        (tmp_path / "batches" / "00000.pt").write_bytes(b"a batch")
    with pytest.raises(UserError, match=r"other settings \(alpha\)"), claimed(settings(tmp_path, alpha=2)):
        pass


def test_a_finished_run_is_known_by_its_summary_and_is_not_begun_again(tmp_path):
    run(tmp_path)
    assert finished(settings(tmp_path)) == {"pairs": 1.0}
    assert finished(settings(tmp_path, alpha=2)) is None
    listed = {"config.yaml", "images/a.png", "results.csv", "summary.json"}
    assert set(json.loads((tmp_path / "files.json").read_text())) == listed
    with pytest.raises(UserError, match="already holds a finished run"), claimed(settings(tmp_path)):
        pass


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *[(name, damage) for name in ("results.csv", "images/a.png") for damage in ("lost", "empty", "changed")],
        *[(name, damage) for name in ("summary.json", "files.json") for damage in ("empty", "cut", "changed")],
    ],
)
def test_a_finished_run_of_which_something_is_lost_is_gone_on_with(tmp_path, name, damage, caplog):
    run(tmp_path)
    file = tmp_path / name
    content = file.read_bytes()
    flipped = content.replace(b"1", b"3").replace(b"p", b"q")
    file.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "changed": flipped}.get(damage, b""))
    if damage == "lost":
        file.unlink()
    assert finished(settings(tmp_path)) is None
    with claimed(settings(tmp_path)):
        assert not (tmp_path / "summary.json").exists()
    assert "lost or damaged" in caplog.text
    run(tmp_path)
    assert finished(settings(tmp_path)) == {"pairs": 1.0}


def test_half_written_files_of_a_killed_run_are_cleared(tmp_path):
    with claimed(settings(tmp_path)):
        (tmp_path / "figures" / ".groups.partial-abc").mkdir(parents=True)
    with claimed(settings(tmp_path)):
        assert list((tmp_path / "figures").iterdir()) == []
