"""What the tests share: a seeded generator, a small model, and the command line called in this process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_model import build_tiny_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@dataclass(frozen=True)
class Outcome:
    code: int
    stderr: str

    @property
    def sentence(self) -> str:
        """What stands after `error:`; it must be one line."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        return lines[0].removeprefix("error: ")


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Calls `run.py` with arguments as a user would, without the cost of a new interpreter."""
    import importlib.util

    from latent_geodesics.command import exit_code

    torch.set_num_threads(1)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    specification = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    assert specification is not None and specification.loader is not None
    run = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(run)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py"), *arguments])
        capfd.readouterr()
        try:
            code = exit_code(run.main)
        except SystemExit as left:
            code = int(left.code or 0)
        return Outcome(code=code, stderr=capfd.readouterr().err)

    return call
