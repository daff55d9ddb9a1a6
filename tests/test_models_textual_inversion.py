"""Textual inversion: it lowers its loss, does not depend on the batch, and its cache cannot lie."""

import os
import threading

import pytest
import torch
from tiny_model import pictures

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import load_model
from latent_geodesics.models.store import TensorCache, content_key

PROMPTS = ["a red cube", "a blue sphere"]
SETTINGS = {"steps": 6, "learning_rate": 0.05, "seed": 1, "progress": False}


@pytest.fixture(scope="module")
def folder(tiny_model_folder):
    return tiny_model_folder


@pytest.fixture
def model(folder, tmp_path):
    return load_model(folder, device="cpu", steps=5, cache_dir=tmp_path / "cache")


def denoising_error(model, images, condition):
    latents = model.encode(images)
    rng = torch.Generator().manual_seed(9)
    total = 0.0
    for t in range(50, 1000, 100):
        noise, time = torch.randn(latents.shape, generator=rng), torch.full((len(latents),), t)
        noisy = model.schedule.diffuse(latents, noise, time)
        total += (model.network.noise(noisy, time, condition) - noise).square().mean().item()
    return total


def test_the_inverted_embedding_denoises_its_image_better(model):
    images = pictures(2)
    inverted = model.invert_text(images, PROMPTS, steps=40, learning_rate=0.1, seed=0, progress=False)
    assert inverted.shape == model.condition(PROMPTS).shape
    assert denoising_error(model, images, inverted) < 0.995 * denoising_error(model, images, model.condition(PROMPTS))


def test_an_image_alone_gives_what_it_gives_in_a_batch(folder):
    model = load_model(folder, device="cpu", steps=5)
    images = pictures(2)
    together = model.invert_text(images, PROMPTS, **SETTINGS)
    alone = model.invert_text(images[1:], PROMPTS[1:], **SETTINGS)
    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-4)
    chunked = load_model(folder, device="cpu", steps=5, batch_size=2).invert_text(images, PROMPTS, **SETTINGS)
    torch.testing.assert_close(together, chunked, rtol=1e-3, atol=1e-4)


def test_the_seed_decides_the_result(folder):
    model = load_model(folder, device="cpu", steps=5)
    first, again = (model.invert_text(pictures(1), PROMPTS[:1], **SETTINGS) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, model.invert_text(pictures(1), PROMPTS[:1], **{**SETTINGS, "seed": 2}))


def test_it_also_runs_where_gradients_are_switched_off(folder):
    model = load_model(folder, device="cpu", steps=5)
    with torch.inference_mode():
        inside = model.invert_text(pictures(1), PROMPTS[:1], **SETTINGS)
    torch.testing.assert_close(inside.clone(), model.invert_text(pictures(1), PROMPTS[:1], **SETTINGS))


def test_a_shared_embedding_is_one_for_all_images(model):
    shared = model.invert_text(pictures(3), ["a red cube", "a red cube", "a sphere"], shared=True, **SETTINGS)
    assert torch.equal(shared[0], shared[2])
    assert not torch.equal(shared[0], model.condition(["a red cube a sphere"])[0])


def test_what_was_inverted_once_costs_nothing_again(model, folder, tmp_path):
    first = model.invert_text(pictures(2), PROMPTS, **SETTINGS)
    again = load_model(folder, device="cpu", steps=5, cache_dir=tmp_path / "cache")
    assert torch.equal(again.invert_text(pictures(2), PROMPTS, **SETTINGS), first)
    assert again.network_evaluations == 0
    again.invert_text(pictures(2), PROMPTS, **{**SETTINGS, "steps": 5})
    assert again.network_evaluations == 2 * 2 * 5
    again.invert_text(pictures(2, seed=1), PROMPTS, **SETTINGS)
    assert again.network_evaluations == 2 * 2 * 11


@pytest.mark.parametrize(
    "damage", [lambda data: data[:40], lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda _: b""]
)
def test_a_damaged_file_is_computed_again(model, tmp_path, damage):
    first = model.invert_text(pictures(1), PROMPTS[:1], **SETTINGS)
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    file.write_bytes(damage(file.read_bytes()))
    assert torch.equal(model.invert_text(pictures(1), PROMPTS[:1], **SETTINGS), first)
    assert torch.equal(TensorCache(folder=tmp_path / "cache").load(file.stem), first[0])


def test_concurrent_writers_leave_one_whole_file(tmp_path):
    cache = TensorCache(folder=tmp_path / "cache")
    key, embedding = content_key("x"), torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    seen = []

    def write_and_read():
        for _ in range(10):
            cache.store({key: embedding})
            seen.append(torch.equal(cache.load(key), embedding))

    threads = [threading.Thread(target=write_and_read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 40
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{key}.safetensors"]


def test_keys_tell_contents_and_shapes_apart():
    tensors = [torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6), torch.ones(6)]
    keys = {content_key(tensor, "a") for tensor in tensors} | {content_key("a", tensors[0]), content_key()}
    assert len(keys) == 6


def test_every_image_needs_a_prompt(model):
    with pytest.raises(UserError, match="one prompt per image"):
        model.invert_text(pictures(2), PROMPTS[:1])


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}]
)
def test_senseless_settings_are_refused(model, wrong):
    with pytest.raises(UserError, match="text inversion needs"):
        model.invert_text(pictures(1), PROMPTS[:1], **wrong)


def test_a_key_is_that_of_the_content_whatever_its_memory_layout():
    weights = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert content_key(weights) == content_key(weights.to(memory_format=torch.channels_last))
    assert content_key(weights) != content_key(weights.reshape(2, 3, 4, 1))


def test_what_was_unused_for_longest_makes_room(tmp_path):
    size = 4 * 1000
    cache = TensorCache(folder=tmp_path, limit_mb=3.9 * size / 1e6)
    for age, key in enumerate("abc"):
        cache.store({key: torch.zeros(1000)})
        os.utime(tmp_path / f"{key}.safetensors", (age, age))
    assert cache.load("a") is not None
    cache.store({"d": torch.zeros(1000)})
    assert {path.stem for path in tmp_path.iterdir()} == {"a", "c", "d"}
    assert cache.load("b") is None
