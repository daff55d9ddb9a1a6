"""What the tests share: a seeded generator, a small model, and the command line called in this process."""

# ruff: noqa: E402
import os

# Several tests run side by side, so each keeps to one core: this is read when numpy is imported, and so comes first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import gc
import logging
import pickle
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import checked_shapes
import pytest
import torch
from browser import close_shared
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image, ImageDraw

checked_shapes.install()  # before anything imports the core

from tiny_model import build_tiny_model

from latent_geodesics.models import LatentModel, accelerator, load_model

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)
# Latents are dealt out by the cores, and each part is a call of its own; `test_models_latent_model.py` has two cores.
accelerator.machine_cores = lambda: 1


def pytest_collection_finish() -> None:
    """What is imported stays: the collector of garbage looks at it no more."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Libraries that are let go of find all of their objects."""
    gc.unfreeze()


def read_once(source: type[ConfigSource]) -> None:
    """Lets Hydra read the files that ship once a process, not for every configuration anew."""
    load, kept = source.load_config, {}

    def load_config(self: ConfigSource, config_path: str) -> ConfigResult:
        key = (self.path, config_path)
        if self.path not in (str(ROOT / "conf"), "hydra.conf"):
            return load(self, config_path)
        if key not in kept:
            kept[key] = pickle.dumps(load(self, config_path))
        return pickle.loads(kept[key])  # Hydra takes parts of what it is given away

    source.load_config = load_config


read_once(FileConfigSource)
read_once(ImportlibResourcesConfigSource)
read_mode = Hydra.get_mode


def mode_of(self: Hydra, config_name: str | None, overrides: list[str]) -> RunMode | None:
    """What Hydra composes a configuration a second time for; here only where an experiment's file may say it."""
    given = dict(each.partition("=")[::2] for each in overrides)
    file = ROOT / "conf" / "experiment" / f"{given.get('experiment')}.yaml"
    if file.exists() and "hydra:" in file.read_text():
        return read_mode(self, config_name, overrides)
    return RunMode.__members__.get(given.get("hydra.mode", ""))


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
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are put together and not drawn, where another test draws the same: each takes a quarter of a second."""

    def save(self: Figure, file: Path, **options: object) -> None:
        Image.new("RGB", (8, 8)).save(file, format=options.get("format"))

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture
def command_line(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Calls `run.py` with arguments as a user would, without the cost of a new interpreter."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(Hydra, "get_mode", mode_of)
    if not {"whole", "wicked"} & set(re.split("[_:.]", request.node.nodeid)):
        # Finding the margins of a figure takes as long as drawing it.
        monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda self, figure: None)

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
