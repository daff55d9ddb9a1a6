"""Methods on every family of models: those of the noise alone run on all, those of a U-Net's layers say where not."""

from pathlib import Path

import pytest
import tiny_families
import torch
from baselines import configured_methods
from hydra.utils import instantiate

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import PairBatch
from latent_geodesics.data.pairs import ImagePair
from latent_geodesics.methods import PairEncoder
from latent_geodesics.models import Conditional, load_model

ANYWHERE = ("geodesic", "slerp", "lerp", "noise_diffusion", "nao")
STEERING = ("aid", "diffmorpher", "freemorph", "impus")
TRAINING = ("diffmorpher", "impus")


@pytest.fixture(scope="module", params=tiny_families.FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pairs(family, tmp_path_factory):
    folder = tiny_families.build(family, tmp_path_factory.mktemp(family))
    model = load_model(folder, device="cpu", dtype="float32", steps=5, image_size=tiny_families.sides(folder)[0])
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(images, size=model.image_size, mode="bilinear")
    pair = ImagePair(id="0", image_a=Path("a"), image_b=Path("b"), prompt_a="a red cube", prompt_b="a blue sphere")
    batch = PairBatch(pairs=(pair,), images_a=images[:1], images_b=images[1:], truth=(None,))
    return PairEncoder(model=model, score=Conditional(), tau=0.6, alpha=0.003).encode(batch)


@pytest.fixture(scope="module")
def methods(tmp_path_factory):
    return configured_methods(tmp_path_factory.mktemp("adapter") / "none")


def morph(methods, name, pairs):
    result = instantiate(methods[name], _convert_="all").morph(pairs, torch.linspace(0, 1, 3, dtype=torch.float64))
    assert result.frames.shape[-3:] == (3, *pairs.model.image_size)
    assert result.frames.isfinite().all()
    return result


@pytest.mark.parametrize("name", ANYWHERE)
def test_methods_of_the_noise_run_on_every_family(methods, pairs, name):
    result = morph(methods, name, pairs)
    if name == "geodesic":
        assert result.statuses[0] in ("converged", "converged_to_resolution")


@pytest.mark.parametrize("name", STEERING)
def test_methods_that_steer_a_u_net_run_on_one_and_say_so_elsewhere(methods, pairs, family, name):
    if name in TRAINING and family == "stable_diffusion_2_base":
        pytest.skip("its layers are those of Stable Diffusion 2, and its noise is that of 1: both are trained on")
    if pairs.model.network.family.controlled:
        x, t = torch.ones(1, pairs.model.dimension), torch.full((1,), 3)
        condition = pairs.model.condition(["a red cube"])
        before = pairs.model.network.noise(x, t, condition)
        morph(methods, name, pairs)
        assert torch.equal(pairs.model.network.noise(x, t, condition), before)
    else:
        with pytest.raises(UserError, match="known for U-Nets"):
            morph(methods, name, pairs)
