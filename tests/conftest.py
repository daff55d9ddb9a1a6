"""What the tests share: a seeded generator, a small model, and the command line called in this process."""

# ruff: noqa: E402
import os

# Several tests run side by side, so each keeps to one core: this is read when numpy is imported, and so comes first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import logging
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import checked_shapes
import pytest
import torch
from browser import close_shared
from hydra.core.hydra_config import HydraConfig
from PIL import Image, ImageDraw

checked_shapes.install()  # before anything imports the core

from tiny_model import build_tiny_model

from latent_geodesics.models import LatentModel, load_model

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def one_browser() -> Iterator[None]:
    """Ends the browser that the tests of pages share."""
    yield
    close_shared()


@pytest.fixture(autouse=True)
def shapes_of_the_core(request: pytest.FixtureRequest) -> None:
    """Are checked by the tests of the core."""
    checked_shapes.switch(request.path.stem)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def model(tiny_model_folder: Path) -> LatentModel:
    return load_model(tiny_model_folder, device="cpu", steps=5)


@pytest.fixture(scope="module")
def once() -> Callable[[str, Callable[[], Path]], Path]:
    """Makes a folder for the first test of a module that asks for it by its name, and gives it to the others."""
    made: dict[str, Path] = {}

    def call(name: str, make: Callable[[], Path]) -> Path:
        if name not in made:
            made[name] = make()
        return made[name]

    return call


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with two small pictures of different things, a.png and b.png."""
    for name, color, box in (("a", "red", (2, 2, 9, 9)), ("b", "blue", (6, 6, 14, 14))):
        picture = Image.new("RGB", (16, 16), "gray")
        ImageDraw.Draw(picture).rectangle(box, fill=color)
        picture.save(tmp_path / f"{name}.png")
    return tmp_path


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str

    @property
    def sentence(self) -> str:
        """What stands after `error:`; it must be one line."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        return lines[0].removeprefix("error: ")


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Calls `run.py` with arguments as a user would, without the cost of a new interpreter."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py"), *arguments])
        capfd.readouterr()
        handlers = list(logging.getLogger().handlers)
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
        HydraConfig.instance().cfg = None  # that of a sweep stays set
        logging.getLogger().handlers[:] = handlers  # Hydra's write to a folder that a later test does not have
        said = capfd.readouterr()
        return Outcome(code=int(left.value.code or 0), stdout=said.out, stderr=said.err)

    return call
