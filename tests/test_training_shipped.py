"""The folders that ship: they load with no network, fit the size limit, and do what their cards say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latent_geodesics.models.attributes import AttributeNetwork
from recipes.clevr.training.attributes import confirms
from recipes.clevr.training.evaluation import confirmed_shares, draw_prompts
from recipes.clevr.training.model import sample, weights_size

DATA = Path(__file__).parents[1] / "data"
MODEL, NETWORK = DATA / "models" / "clevr-ldm", DATA / "models" / "clevr-attributes"


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32, local_files_only=True)


@pytest.fixture(scope="module")
def network():
    return AttributeNetwork.from_folder(NETWORK)


@pytest.fixture(scope="module")
def stated():
    return json.loads((MODEL / "metrics.json").read_text())


@pytest.fixture(scope="module")
def shipped_images():
    """The first image of every shipped pair and the objects in it."""
    from recipes.clevr.rendering.scene import ClevrScene

    records = [json.loads(line) for line in (DATA / "pairs" / "scenes.jsonl").read_text().splitlines()]
    files = [DATA / "pairs" / "images" / f"{record['id']}-a.png" for record in records]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    scenes = [ClevrScene.from_dict(record["a"]) for record in records]
    objects = [
        [
            {"shape": item.shape, "color": item.color, "size": item.size, "material": item.material}
            for item in scene.objects
        ]
        for scene in scenes
    ]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, objects


def test_the_weights_fit_the_limit():
    assert 0 < weights_size(DATA / "models") <= 60 * 2**20


def test_the_pipeline_makes_an_image_of_the_right_size(pipeline):
    image = sample(pipeline, ["a large red rubber cube"], seed=0, steps=2, guidance=2.0)
    assert image.shape == (1, 3, 128, 128)
    assert bool(torch.isfinite(image).all())


def test_the_card_states_the_measured_figures(stated):
    card = (MODEL / "README.md").read_text()
    assert f"{stated['psnr']:.1f} dB" in card
    assert f"{stated['confirmed']:.1%}" in card
    assert (MODEL / "samples.png").stat().st_size > 0


def test_reconstruction_is_good_enough(stated):
    assert stated["psnr"] >= 38.0


def test_the_latents_are_white(pipeline, shipped_images):
    images, _ = shipped_images
    with torch.no_grad():
        places = pipeline.vae.encode(2 * images[::3] - 1).latent_dist.mean.transpose(0, 1).flatten(1)
    assert pipeline.vae.config.scaling_factor == 1.0
    assert bool(((places.std(1) > 0.5) & (places.std(1) < 2.0)).all())


def test_the_network_reads_the_shipped_images(network, shipped_images):
    images, objects = shipped_images
    right = [confirms(wanted, seen) for wanted, seen in zip(objects, network.detect(images), strict=True)]
    assert sum(right) / len(right) >= 0.9


def test_the_distance_orders_changes_by_their_size(network, shipped_images):
    images = shipped_images[0][::3]
    slight = network.perceptual_distance(images, (images + 0.01).clamp(0, 1)).mean()
    other = network.perceptual_distance(images, images.roll(1, dims=0)).mean()
    assert float(slight) < 0.2 * float(other)


@pytest.mark.slow
def test_fresh_prompts_are_confirmed_about_as_often_as_stated(pipeline, network, stated):
    prompts = draw_prompts(count=48, seed=2000, most=2)
    texts = [item.prompt for item in prompts]
    images = sample(pipeline, texts, seed=2000, steps=int(stated["steps"]), guidance=stated["guidance"])
    # three standard deviations of a share of 48
    assert confirmed_shares(images, prompts, network)["confirmed"] >= stated["confirmed"] - 0.2
