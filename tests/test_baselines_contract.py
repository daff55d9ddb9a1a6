"""Every method of `conf/method`, found by its yaml: what all must keep to."""

import pytest
import torch
from baselines import FRAMES, NAMES, configured_methods, encoded_pairs, gentle_model, positions, probe, save_adapter
from hydra.utils import instantiate

from latent_geodesics.methods import status_sentence

# The published settings make the same objects with greater numbers.
METHODS = [pytest.param(name, marks=pytest.mark.slow) if name.endswith("_published") else name for name in NAMES]


@pytest.fixture(scope="module")
def gentle(tiny_model_folder):
    return gentle_model(tiny_model_folder, refinements=2)


@pytest.fixture(scope="module")
def pairs(gentle):
    return encoded_pairs(gentle)


@pytest.fixture(scope="module")
def configured(gentle, tmp_path_factory):
    return configured_methods(save_adapter(gentle, tmp_path_factory.mktemp("adapter")))


@pytest.fixture(scope="module")
def made(configured, gentle, pairs):
    """What each method made of two pairs, and what it left in the model."""
    results = {}

    def make(name):
        if name not in results:
            method, before, calls = instantiate(configured[name]), probe(gentle), gentle.network_evaluations
            morph = method.morph(pairs, positions())
            spent = gentle.network_evaluations - calls
            results[name] = (method, morph, spent, torch.equal(probe(gentle), before))
        return results[name]

    return make


def test_the_methods_of_the_field_are_all_there():
    plain = {"lerp", "slerp", "adain_slerp", "lol", "nao", "noise_diffusion", "wang_golland"}
    steered = {"aid", "diffmorpher", "impus", "freemorph", "smooth_diffusion"}
    assert plain | steered <= set(NAMES)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_sequences_of_images_and_their_cost(made, name):
    _, morph, spent, _ = made(name)
    assert morph.frames.shape == (2, FRAMES, 3, 16, 16)
    assert bool(((morph.frames >= 0) & (morph.frames <= 1)).all())
    assert len(morph.statuses) == len(morph.evaluations) == 2
    assert all(status_sentence(status).endswith(".") for status in morph.statuses)
    assert morph.seconds > 0
    assert min(morph.seconds_solving, morph.seconds_decoding) >= 0
    if morph.unet_calls == morph.unet_calls:
        assert morph.unet_calls * 2 == spent
        assert morph.peak_memory_mb > 0


@pytest.mark.parametrize("name", METHODS)
def test_a_method_leaves_the_model_as_it_was(made, gentle, name):
    assert made(name)[3]
    assert not any(parameter.requires_grad for parameter in gentle.network.module.parameters())
    assert not any("lora" in key for key in gentle.network.module.state_dict())


@pytest.mark.parametrize("name", METHODS)
def test_a_pair_has_the_same_sequence_in_any_batch_and_again(made, pairs, name):
    method, morph, *_ = made(name)
    alone = method.morph(pairs.restrict([1]), positions())
    torch.testing.assert_close(alone.frames[0], morph.frames[1], rtol=0, atol=2e-3)
