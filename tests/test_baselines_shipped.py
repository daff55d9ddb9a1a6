"""The baselines that steer or train the network, on the shipped model and one of its pairs."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from latent_geodesics.data import read_batch
from latent_geodesics.methods import PairEncoder
from latent_geodesics.models.lora import Loras, LoraTraining

ROOT = Path(__file__).parents[1]
METHODS = ["aid", "diffmorpher", "freemorph", "impus", "noise_diffusion", "wang_golland"]
# The ends of these are the images through the autoencoder at worst; the others guide, clip or blend them.
FAITHFUL = {"aid", "diffmorpher", "freemorph", "wang_golland"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config():
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return compose("config", overrides=[f"method=[{','.join(METHODS)}]", "model.cache_dir=null"])


@pytest.fixture(scope="module")
def pairs(config):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        model, data = instantiate(config.model), instantiate(config.data)
    batch = read_batch([pair for pair in data.pairs if pair.id == "26-several_changed"], size=model.image_size)
    return PairEncoder(model=model, score=instantiate(config.score), tau=0.6, alpha=0.003).encode(batch)


def decibels(a, b):
    return -10 * float((a - b).square().mean().log10())


@pytest.mark.parametrize("name", METHODS)
def test_a_baseline_goes_from_the_one_image_to_the_other(config, pairs, monkeypatch, name):
    monkeypatch.chdir(ROOT)
    frames = (
        instantiate(config.methods[name]).morph(pairs, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)).frames[0]
    )
    first, second = pairs.batch.images_a[0], pairs.batch.images_b[0]
    assert frames.shape == (3, *first.shape)
    for frame, image, other in ((frames[0], first, second), (frames[2], second, first)):
        assert decibels(frame, image) > (30 if name in FAITHFUL else 20)
        assert decibels(frame, image) > decibels(frame, other)
    assert max(decibels(frames[1], image) for image in (first, second)) < 35


def test_a_lora_learns_the_image(pairs):
    model, image, condition = pairs.model, pairs.batch.images_a, pairs.condition_a
    latents, schedule = model.encode(image), model.schedule
    t = torch.arange(50, 1000, 100)
    noise = torch.randn(len(t), model.dimension, generator=torch.Generator().manual_seed(99))
    x0 = latents.expand_as(noise)

    def error():
        with torch.no_grad():
            output = model.network.output(schedule.diffuse(x0, noise, t), t, condition.expand(len(t), -1, -1))
        return float((output - schedule.target(x0, noise, t)).square().mean())

    before = error()
    with Loras(model.network.module) as loras:
        LoraTraining(steps=40, learning_rate=1e-3).run(
            model.network, loras, "a", latents=latents, conditions=condition, seed=0
        )
        fitted = error()
    assert fitted < 0.95 * before
    assert error() == before
