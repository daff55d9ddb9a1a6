"""Every score, velocity, method and metric on the pretended device gives the numbers of the CPU."""

from pathlib import Path

import pytest
import torch
import torchvision
from baselines import TAU, configured_methods, encoded_pairs, positions, save_adapter
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from measured import SIDE, measured, sequences
from omegaconf import OmegaConf
from pretended_device import OnDevice, pretended_device
from tiny_model import pictures

from latent_geodesics.data.starts import Start
from latent_geodesics.methods.departure import Departure, encode_images
from latent_geodesics.methods.encoding import Setting
from latent_geodesics.metrics import MetricPanel, RunFacts, topiq
from latent_geodesics.metrics import networks as networks_module
from latent_geodesics.metrics.networks import Inception, Lpips, build_lpips
from latent_geodesics.metrics.typicality import Typicality
from latent_geodesics.models import Conditional, load_model
from latent_geodesics.models.weights import WeightsRegistry

CONF = Path(__file__).parents[1] / "conf"
FACTS = RunFacts(pairs=12, with_truth=6, frames=5, image_size=(SIDE, SIDE))
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
# Those that only take other numbers for the same objects.
PUBLISHED = "_published"


def options(group):
    return sorted(file.stem for file in (CONF / group).glob("*.yaml") if not file.stem.endswith(PUBLISHED))


@pytest.fixture(scope="module")
def device():
    with pretended_device() as device:
        yield device


@pytest.fixture(scope="module")
def models(tiny_model_folder, device):
    """The same model on the device and on the CPU; its prediction varies slowly enough for three steps to be undone."""
    found = []
    for place in (str(device), "cpu"):
        model = load_model(tiny_model_folder, device=place, dtype="float32", steps=3, refinements=2)
        with torch.no_grad():
            model.network.module.conv_out.weight *= 0.3
        found.append(model)
    return found


@pytest.fixture(scope="module")
def pairs(models):
    return [encoded_pairs(model) for model in models]


@pytest.fixture(scope="module")
def departures(models):
    setting = [Setting(model=model, score=Conditional(), tau=TAU, alpha=0.01) for model in models]
    starts = tuple(Start(id=name, image=name, prompt="red", second=name, second_prompt="blue") for name in "ab")
    found = []
    for one in setting:
        first, second = (
            encode_images(one, pictures(2, seed=seed), [word] * 2) for seed, word in ((0, "red"), (1, "blue"))
        )
        found.append(Departure(setting=one, starts=starts, places=(0, 1), total=2, first=first, second=second))
    return found


def close(there, here):
    assert isinstance(there, OnDevice)
    torch.testing.assert_close(there.cpu(), here, equal_nan=True, **CLOSE)


@pytest.mark.parametrize("name", options("score"))
def test_every_score(models, name):
    answers = []
    for model in models:
        score = instantiate(
            OmegaConf.create({"seed": 0, "score": OmegaConf.load(CONF / "score" / f"{name}.yaml")}).score
        )
        ends = [model.condition(words) for words in (["a red cube", "a"], ["a sphere", "blue"])]
        field = model.field(condition0=ends[0], condition1=ends[1], tau=TAU, score=score)
        x = torch.randn(2, 3, model.dimension, generator=torch.Generator().manual_seed(0)).to(model.device)
        u = torch.linspace(0, 1, 3).expand(2, 3)
        part = field.restrict(torch.tensor([1], device=model.device))
        answers.append([field.score(x, u.to(x)), part.score(x[1:], u[1:])])
    for there, here in zip(*answers, strict=True):
        close(there, here)


@pytest.mark.parametrize("name", options("velocity"))
def test_every_velocity(departures, name, tmp_path):
    torch.save(torch.randn(256, generator=torch.Generator().manual_seed(0)), tmp_path / "v.pt")
    file = [f"velocities.{name}.file={tmp_path / 'v.pt'}"] if name == "file" else []
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("config", overrides=["experiment=extrapolation", f"velocity=[{name}]", *file])
    launches = [instantiate(config.velocities[name], _convert_="all").launch(one) for one in departures]
    for part in ("x0", "v0", "radius", "norms"):
        close(*(getattr(launch, part) for launch in launches))


@pytest.fixture(scope="module")
def settings(models, tmp_path_factory):
    return configured_methods(save_adapter(models[1], tmp_path_factory.mktemp("adapter")))


@pytest.mark.parametrize("name", options("method"))
def test_every_method(pairs, settings, name):
    slow = name in ("diffmorpher", "impus", "smooth_diffusion")
    morphs = []
    for given in pairs:
        made = instantiate(settings[name])
        morphs.append(made.morph(given.restrict([1]) if slow else given, positions(3)))
    there, here = morphs
    close(there.frames, here.frames)
    assert there.statuses == here.statuses
    torch.testing.assert_close(there.evaluations.cpu(), here.evaluations)


@pytest.fixture(scope="module")
def wide_models(tiny_model_folder, device):
    return [
        load_model(tiny_model_folder, device=place, dtype="float32", steps=5, image_size=SIDE)
        for place in (str(device), "cpu")
    ]


@pytest.fixture(scope="module")
def stand_ins():
    """Networks of the right shape with random weights, for the metrics whose weight files are not here."""

    class Features(torch.nn.Module):
        def forward(self, *images):
            return (torch.stack([image.float().std((-1, -2)) for image in images]).sum(0),)

    class Quality(Features):
        def forward(self, *images):
            return super().forward(*images)[0].mean(-1)

    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    return build_lpips("squeeze", state), Features(), Quality()


@pytest.fixture
def networks(stand_ins, monkeypatch, tmp_path):
    perceptual, features, quality = stand_ins
    (tmp_path / "weights").write_bytes(b"none")
    monkeypatch.chdir(CONF.parent)
    monkeypatch.setattr(Lpips, "network", perceptual)
    monkeypatch.setattr(Inception, "network", features)
    monkeypatch.setattr(topiq, "_loaded", lambda name, file: quality)
    monkeypatch.setattr(WeightsRegistry, "take", lambda self, name: tmp_path / "weights")
    monkeypatch.setattr(networks_module, "_heads", lambda variant: tmp_path / "weights")


@pytest.mark.parametrize("option", options("metrics"))
def test_every_metric(wide_models, option, networks):
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("config", overrides=[f"metrics={option}"])
    panels = []
    for model in wide_models:
        metrics = instantiate(config.metrics, _convert_="all")
        for metric in metrics.values():
            if isinstance(metric, Typicality):
                metric.images = metric.images[:3]
        panel = MetricPanel(method="some", metrics=metrics)
        frames = sequences(2).to(model.device)
        panel.score(measured(frames, images=sequences(2)[:, [0, -1]], model=model))
        panels.append({record.column: record.value for record in panel.records(FACTS, seed=0)})
    assert panels[0] == pytest.approx(panels[1], rel=1e-3, abs=1e-5, nan_ok=True)
    assert any(value == value for value in panels[0].values())
