"""Encoding and decoding: agreement with Stable Diffusion's own pipeline, exact round trips, chunks, clear refusals."""

import threading
import warnings
from pathlib import Path

import pytest
import torch
from tiny_model import pictures

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import LatentModel, accelerator, load_model
from latent_geodesics.models.accelerator import Chunker
from latent_geodesics.models.store import remember

TAU = 0.6


@pytest.fixture(scope="module")
def gentle(tiny_model_folder):
    """The parts of a model whose prediction varies slowly enough for five coarse DDIM steps to have an inverse."""
    components = load_model(tiny_model_folder, device="cpu")._components
    with torch.no_grad():
        components.network.conv_out.weight *= 0.3
    return components


def model_of(components, **options):
    return LatentModel(components=components, image_size=(16, 16), steps=5, **options)


@pytest.fixture(scope="module")
def condition(model):
    return model.condition(["a red cube", "a blue sphere", "a"])


@pytest.fixture
def noise(model):
    return torch.randn(3, model.dimension, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_decoding_noise_is_what_stable_diffusions_pipeline_does(tiny_model_folder, model, condition, noise, guidance):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_folder)
    pipeline.set_progress_bar_config(disable=True)
    latents = noise[:1].reshape(1, *model.latent_shape)
    expected = pipeline(
        "a red cube", latents=latents, num_inference_steps=5, guidance_scale=guidance, output_type="pt"
    ).images
    images = model.decode(noise[:1], condition=condition[:1], tau=0.99, guidance=guidance)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


def test_a_clean_latent_is_the_scaled_mean_of_the_autoencoder(tiny_model_folder, model):
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(tiny_model_folder / "vae")
    images = pictures(2)
    with torch.no_grad():
        mean = vae.encode(2 * images - 1).latent_dist.mean
    torch.testing.assert_close(model.encode(images), 0.5 * mean.flatten(1))
    torch.testing.assert_close(
        model.decode(0.5 * mean.flatten(1)), (vae.decode(mean).sample / 2 + 0.5).clamp(0, 1).detach()
    )


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_round_trip_through_noise_is_exact(gentle, condition, guidance):
    model, images = model_of(gentle), pictures(3)
    options = {"condition": condition, "tau": TAU, "guidance": guidance}
    back = model.decode(model.encode(images, **options), **options)
    torch.testing.assert_close(back, model.decode(model.encode(images)), rtol=0, atol=5e-4)


def test_every_refinement_brings_the_inversion_closer(gentle, condition):
    options = {"condition": condition, "tau": TAU}
    exact = model_of(gentle).encode(pictures(3), **options)
    rough = [model_of(gentle, refinements=count).encode(pictures(3), **options) for count in (0, 1, 2, 4)]
    errors = [(latents - exact).norm().item() for latents in rough]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


def test_the_published_inversion_costs_one_evaluation_a_step(tiny_model_folder, condition):
    model = load_model(tiny_model_folder, device="cpu", steps=5, refinements=0)
    model.encode(pictures(3), condition=condition, tau=TAU)
    assert model.network_evaluations == 3 * 3


def test_images_that_were_inverted_before_cost_nothing(tiny_model_folder, condition, tmp_path):
    options = {"condition": condition, "tau": TAU, "remember": True}
    first = load_model(tiny_model_folder, device="cpu", steps=5, cache_dir=tmp_path)
    latents = first.encode(pictures(3), **options)
    again = load_model(tiny_model_folder, device="cpu", steps=5, cache_dir=tmp_path)
    assert torch.equal(again.encode(pictures(3), **options), latents)
    assert again.network_evaluations == 0
    for changed in ({"tau": 0.4}, {"condition": condition.flip(0)}, {"guidance": 2.0}):
        before = again.network_evaluations
        again.encode(pictures(3), **(options | changed))
        assert again.network_evaluations > before


def test_latents_are_the_same_whatever_was_inverted_before(tiny_model_folder, condition, tmp_path):
    options = {"condition": condition, "tau": TAU, "remember": True}
    batch, other = pictures(3), torch.cat([pictures(1), pictures(2, seed=1)])
    models = [load_model(tiny_model_folder, device="cpu", steps=5, cache_dir=tmp_path) for _ in range(2)]
    first = models[0].encode(batch, **options)
    models[0].encode(other, **options)  # the first image again, beside others
    evaluations = models[1].network_evaluations
    assert torch.equal(models[1].encode(batch, **options), first)
    assert models[1].network_evaluations == evaluations
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_cache_that_cannot_be_used_stops_nothing(tiny_model_folder, condition, tmp_path, caplog, monkeypatch):
    options = {"condition": condition, "tau": TAU, "remember": True}
    model = load_model(tiny_model_folder, device="cpu", steps=5, cache_dir=tmp_path)
    latents = model.encode(pictures(3), **options)

    def refuse(*arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)  # another user's file may be read, and no more
    evaluations = model.network_evaluations
    assert torch.equal(model.encode(pictures(3), **options), latents)
    assert model.network_evaluations == evaluations
    monkeypatch.setattr(Path, "write_bytes", refuse)
    for seed in (1, 2):
        model.encode(pictures(3, seed=seed), **options)
    assert caplog.text.count("cannot be written to") == 1
    monkeypatch.setattr(Path, "is_file", refuse)
    torch.testing.assert_close(model.encode(pictures(3), **options), latents)


def test_the_layout_is_measured_once_and_changes_no_number(tiny_model_folder, condition, tmp_path):
    first = load_model(tiny_model_folder, device="cpu", steps=5, cache_dir=tmp_path)
    (file,) = tmp_path.glob("layout-*.json")
    rates = first.machinery["evaluations_per_second"]
    assert set(rates) == {"channels_first", "channels_last"}
    assert first.machinery["layout"] == max(rates, key=rates.get)
    assert first.network_evaluations == 0
    other = {"channels_last": first.machinery["layout"] == "channels_first", "rates": rates}
    remember(file, other)
    second = load_model(tiny_model_folder, device="cpu", steps=5, cache_dir=tmp_path)
    assert second.machinery["layout"] != first.machinery["layout"]
    assert second.fingerprint == first.fingerprint
    x, t = torch.randn(3, first.dimension, generator=torch.Generator().manual_seed(1)), torch.full((3,), 300)
    torch.testing.assert_close(second.network.noise(x, t, condition), first.network.noise(x, t, condition))


def test_decoding_without_guidance_costs_one_evaluation_a_step_and_with_it_two(model, condition, noise):
    counts = []
    for guidance in (1.0, 2.0, 0.0):
        before = model.network_evaluations
        model.decode(noise, condition=condition, tau=TAU, guidance=guidance)
        counts.append(model.network_evaluations - before)
    assert counts == [9, 18, 9]


def test_guidance_zero_is_the_negative_condition(model, condition, noise):
    images = model.decode(noise, condition=condition, negative=condition[:1], tau=TAU, guidance=0.0)
    expected = model.decode(noise, condition=condition[:1], tau=TAU)
    torch.testing.assert_close(images, expected)


def test_no_condition_is_the_empty_prompt(model, noise):
    expected = model.decode(noise, condition=model.condition([""]), tau=TAU)
    torch.testing.assert_close(model.decode(noise, tau=TAU), expected)


def test_neither_the_batch_nor_the_chunks_matter(gentle, condition):
    model, small, images = model_of(gentle), model_of(gentle, batch_size=2), pictures(3)
    together = model.encode(images, condition=condition, tau=TAU)
    alone = model.encode(images[1:2], condition=condition[1:2], tau=TAU)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(small.encode(images, condition=condition, tau=TAU), together, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        small.decode(together, condition=condition, tau=TAU, guidance=2.0),
        model.decode(together, condition=condition, tau=TAU, guidance=2.0),
        rtol=1e-4,
        atol=1e-4,
    )


def test_images_need_not_be_square(tiny_model_folder):
    model = load_model(tiny_model_folder, device="cpu", steps=4, image_size=(32, 16))
    images = torch.rand(2, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    latents = model.encode(images, tau=0.5)
    assert latents.shape == (2, 4 * 16 * 8)
    assert model.decode(latents, tau=0.5).shape == images.shape


def test_a_network_in_half_precision_is_float32_outside(tiny_model_folder, model, condition, noise):
    half = load_model(tiny_model_folder, device="cpu", dtype="bfloat16", steps=5)
    assert half.network.module.dtype == torch.bfloat16
    latents = half.encode(pictures(3), condition=condition, tau=TAU)
    images = half.decode(noise, condition=condition, tau=TAU)
    assert latents.dtype == images.dtype == torch.float32
    torch.testing.assert_close(images, model.decode(noise, condition=condition, tau=TAU), rtol=0, atol=0.1)


def test_out_of_memory_halves_the_chunk_and_goes_on():
    sizes = []

    def double(rows):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("no room")
        return 2 * rows

    chunker = Chunker(size=8)
    rows = torch.arange(7.0)
    torch.testing.assert_close(chunker.map(double, rows), 2 * rows)
    assert sizes == [7, 4, 2, 2, 2, 1]
    assert chunker.size == 2


@pytest.fixture(params=[1, 2])
def two_cores(request, monkeypatch):
    """On a machine of two cores, a process that may use one or both."""
    monkeypatch.setattr(accelerator, "machine_cores", lambda: 2)
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("count", "size", "dealt"), [(1, 8, [1]), (5, 8, [2, 3]), (9, 2, [1, 1, 1, 2, 2, 2]), (4, 1, [1] * 4)]
)
def test_rows_are_dealt_out_by_the_cores_whatever_the_threads(two_cores, count, size, dealt):
    seen, rows = [], torch.arange(float(count))

    def double(part):
        seen.append((len(part), threading.get_ident()))
        assert not torch.is_grad_enabled()
        return 2 * part

    with torch.no_grad():
        torch.testing.assert_close(Chunker(size=size).map(double, rows), 2 * rows)
    assert sorted(length for length, _ in seen) == dealt
    threads = {thread for _, thread in seen}
    assert threading.get_ident() not in threads
    assert len(threads) <= two_cores


def test_gradients_are_recorded_in_the_callers_thread(two_cores):
    rows = torch.arange(4.0, requires_grad=True)
    Chunker(size=8).map(lambda part: part.square(), rows).sum().backward()
    torch.testing.assert_close(rows.grad, 2 * rows.detach())


def test_memory_that_runs_out_in_a_thread_halves_the_chunk(two_cores):
    def greedy(part):
        if len(part) > 2:
            raise torch.OutOfMemoryError("no room")
        return part

    chunker, rows = Chunker(size=8), torch.arange(11.0)
    with torch.no_grad():
        torch.testing.assert_close(chunker.map(greedy, rows), rows)
    assert chunker.size == 2


def test_out_of_memory_with_a_single_row_is_an_error_for_the_user():
    def greedy(rows):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(UserError, match="ran out of memory with a single image"):
        Chunker(size=4).map(greedy, torch.zeros(4))


def test_prompts_too_long_are_cut_and_the_words_are_named(model):
    with pytest.warns(UserWarning, match=r"dropped: 'blue sphere'"):
        cut = model.condition(["a red cube a a a blue sphere"])
    torch.testing.assert_close(cut, model.condition(["a red cube a a a"]))


def test_a_prompt_is_embedded_once_and_by_itself(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair = model.condition(["a cube", "red", "a cube"])
    assert torch.equal(pair[0], pair[2])
    assert torch.equal(pair[1:2], model.condition(["red"]))
    assert not torch.equal(pair[0], pair[1])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (2 * pictures(1), r"must lie in \[0, 1\]; received values from"),
        (pictures(1) - 0.5, r"must lie in \[0, 1\]"),
        (torch.full((1, 3, 16, 16), float("nan")), r"must lie in \[0, 1\]"),
        (torch.zeros(1, 3, 20, 16), r"\[p, 3, 16, 16\]; received \[1, 3, 20, 16\]"),
        (torch.zeros(3, 16, 16), r"received \[3, 16, 16\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "divide by 255"),
    ],
)
def test_images_that_cannot_be_encoded_are_refused(model, images, message):
    with pytest.raises(UserError, match=message):
        model.encode(images)


@pytest.mark.parametrize("guidance", [-1.0, float("nan"), float("inf")])
def test_a_senseless_guidance_is_refused(model, noise, guidance):
    with pytest.raises(UserError, match="guidance must be a finite number of at least 0"):
        model.decode(noise, guidance=guidance)


def test_conditions_must_fit_the_rows(model, condition, noise):
    with pytest.raises(UserError, match=r"one embedding per row, \[3, tokens, channels\]; received \[2, 8, 16\]"):
        model.decode(noise, condition=condition[:2], tau=TAU)


def test_latents_must_fit_the_model(model, noise):
    with pytest.raises(UserError, match=r"\[n, 256\]; received \[3, 255\]"):
        model.decode(noise[:, 1:])


@pytest.mark.parametrize("prompts", ["a cube", [], [3]])
def test_prompts_must_be_a_sequence_of_texts(model, prompts):
    with pytest.raises(UserError, match="prompts must be a non-empty sequence of texts"):
        model.condition(prompts)
