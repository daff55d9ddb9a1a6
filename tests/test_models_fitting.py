"""Fitting through a network in half precision gives what it gives in float32, and says truly why it cannot."""

import pytest
import torch
from baselines import encoded_pairs, gentle_model, positions, probe
from tiny_model import SIDE, pictures

from latent_geodesics.core.errors import UserError
from latent_geodesics.methods import DiffMorpher, Impus
from latent_geodesics.models import load_model
from latent_geodesics.models.fitting import Masters
from latent_geodesics.models.lora import Loras, LoraTraining

HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
DTYPES = ["float32", *HALF]
# Distances from float32: of a gradient, relative; of what was fitted, since AdamW's first steps are the gradient's
# signs, which small elements have wrong; of frames, in [0, 1].
GRADIENT = {"float16": 5e-3, "bfloat16": 4e-2}
FITTED = {"float16": 0.1, "bfloat16": 0.25}
FRAME = {"float16": 3e-3, "bfloat16": 2e-2}


@pytest.fixture(scope="module")
def models(tiny_model_folder):
    return {dtype: gentle_model(tiny_model_folder, dtype=dtype, refinements=2) for dtype in DTYPES}


QUICK = LoraTraining(rank=4, steps=3, learning_rate=1e-3)


def distance(a, b):
    return float((a - b).norm() / b.norm())


def flat(parameters):
    return torch.cat([parameter.detach().flatten().clone() for parameter in parameters])


def fitted(model, images, *, learning_rate=1e-2, steps=10, batch_size=4):
    """What training made of an adapter's factors, less what they started from, and the last gradient."""
    latents, conditions = model.encode(images), model.condition(["a red cube"])
    with Loras(model.network.module) as loras:
        loras.add("start", rank=4, seed=0)
        LoraTraining(rank=4, steps=steps, learning_rate=learning_rate, batch_size=batch_size).run(
            model.network, loras, "fitted", latents=latents, conditions=conditions, seed=0
        )
        start, end = (loras.parameters(name) for name in ("start", "fitted"))
        assert {factor.dtype for factor in (*start, *end)} == {torch.float32}
        return flat(end) - flat(start), flat([factor.grad for factor in end])


@pytest.mark.parametrize("dtype", HALF)
def test_an_adapter_starts_from_the_same_numbers_in_any_precision(models, dtype):
    starts = []
    for name in ("float32", dtype):
        with Loras(models[name].network.module) as loras:
            loras.add("a", rank=4, seed=3)
            starts.append(flat(loras.parameters("a")))
    assert torch.equal(*starts)


@pytest.mark.parametrize("dtype", HALF)
def test_an_adapter_fitted_in_half_precision_is_that_of_float32(models, dtype):
    # The published step, whose change half-precision factors would not hold, and a long one.
    for learning_rate in (2e-4, 1e-2):
        ours, reference = (
            fitted(models[name], pictures(1), learning_rate=learning_rate)[0] for name in (dtype, "float32")
        )
        assert distance(ours, reference) < FITTED[dtype]


@pytest.mark.parametrize("dtype", HALF)
def test_the_gradient_of_an_adapter_has_the_precision_of_the_network(dtype):
    """On the shipped model, since the tiny one is too small to lose anything on the way."""
    gradients = []
    for name in (dtype, "float32"):
        model = load_model("data/models/clevr-ldm", device="cpu", steps=5, dtype=name)
        images = torch.rand(1, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
        gradients.append(fitted(model, images, learning_rate=2e-4, steps=1, batch_size=1)[1])
    assert distance(*gradients) < GRADIENT[dtype]


@pytest.mark.parametrize("dtype", HALF)
def test_a_layer_with_adapters_answers_in_its_own_precision_row_by_row(models, dtype):
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    outputs = []
    for name, precision in (("float32", torch.float32), (dtype, HALF[dtype])):
        with Loras(models[name].network.module) as loras:
            for seed, adapter in enumerate("ab"):
                loras.add(adapter, rank=4, seed=seed)
                with torch.no_grad():
                    for factor in loras.parameters(adapter):
                        factor.copy_(torch.randn(factor.shape, generator=torch.Generator().manual_seed(seed)) * 0.3)
            weights = torch.tensor([0.25, 1.0])
            loras.weigh({"a": 1 - weights, "b": weights})
            layer = next(layer for layer in loras._layers().values() if layer.in_features == 16)
            with torch.no_grad():
                outputs.append(layer(x.to(precision)))
        assert outputs[-1].dtype == precision
    torch.testing.assert_close(outputs[1].float(), outputs[0], rtol=0, atol=0.05 * float(outputs[0].abs().max()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_adapter_of_a_file_keeps_its_float32_numbers(models, dtype, tmp_path):
    """On layers of every kind: convolutions have four axes, the time's embedding has two."""
    from safetensors.torch import save_file

    model, rng = models[dtype], torch.Generator().manual_seed(0)
    sides = {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": (16, 16), "time_embedding.linear_1": (16, 64)}
    state = {}
    for name, (inner, outer) in sides.items():
        state[f"unet.{name}.lora_A.weight"] = torch.randn(2, inner, generator=rng)
        state[f"unet.{name}.lora_B.weight"] = torch.randn(outer, 2, generator=rng)
    state["unet.conv_out.lora_A.weight"] = torch.randn(2, 16, 3, 3, generator=rng) * 0.1
    state["unet.conv_out.lora_B.weight"] = torch.randn(4, 2, 1, 1, generator=rng)
    save_file(state, tmp_path / "adapter.safetensors")
    with Loras(model.network.module) as loras:
        loras.load("a", tmp_path)
        for name in (*sides, "conv_out"):
            layer = model.network.module.get_submodule(name)
            for letter, factor in (("A", layer.lora_A["a"]), ("B", layer.lora_B["a"])):
                assert torch.equal(factor.weight, state[f"unet.{name}.lora_{letter}.weight"])
        loras.weigh({"a": torch.tensor([0.0, 1.0])})
        blended = probe(model)
        for row, weight in enumerate((0.0, 1.0)):
            loras.weigh({"a": weight})
            torch.testing.assert_close(blended[row], probe(model)[row], rtol=1e-2, atol=1e-3)
        assert distance(blended[0], blended[1]) > 0.1


@pytest.mark.parametrize("dtype", HALF)
def test_an_embedding_inverted_in_half_precision_is_that_of_float32(models, dtype):
    images, prompts = pictures(2), ["a red cube", "a blue sphere"]
    settings = {"steps": 10, "learning_rate": 0.005, "progress": False}
    moved = [
        models[name].invert_text(images, prompts, **settings) - models[name].condition(prompts)
        for name in (dtype, "float32")
    ]
    assert moved[0].dtype == torch.float32
    assert distance(*moved) < FITTED[dtype]


METHODS = {
    "diffmorpher": lambda: DiffMorpher(lora=QUICK, tau=None),
    "impus": lambda: Impus(
        distance=lambda a, b: (a - b).square().mean((1, 2, 3)),
        embedding_steps=3,
        lora=QUICK,
        unconditional=QUICK,
        tau=None,
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_fit_adapters_give_the_frames_of_float32(models, name):
    frames = {
        dtype: METHODS[name]().morph(encoded_pairs(model, 1), positions(3)).frames for dtype, model in models.items()
    }
    for dtype in HALF:
        assert frames[dtype].shape == (1, 3, 3, SIDE, SIDE)
        assert float((frames[dtype] - frames["float32"]).abs().mean()) < FRAME[dtype]


class Through(torch.autograd.Function):
    """A value times a factor, with a gradient that is float16 on its way back."""

    @staticmethod
    def forward(ctx, value, factor):
        ctx.factor = factor
        return value * factor

    @staticmethod
    def backward(ctx, gradient):
        return (gradient * ctx.factor).half().float(), None


@pytest.mark.parametrize("factor", [1e6, 1e3, 1.0, 1e-9])
def test_the_scale_of_a_loss_adapts_to_gradients_that_float16_cannot_hold(factor):
    """The last one's gradients are below what float16 holds even with the first scale, and are found in time."""
    parameters = [torch.nn.Parameter(torch.tensor([1.0])) for _ in range(2)]
    masters = Masters([[one] for one in parameters], precision=torch.float16, learning_rate=0.0, weight_decay=0.0)
    for _ in range(1 if factor >= 1 else 1100):
        assert masters.step(torch.cat([Through.apply(parameters[0], factor), 3 * parameters[1]]))
    torch.testing.assert_close(parameters[0].grad, torch.tensor([factor]), rtol=0.1 if factor < 1 else 1e-3, atol=0)
    torch.testing.assert_close(parameters[1].grad, torch.tensor([3.0]))
    first, second = masters.scales
    assert (first < second) == (factor > 63)


def test_a_scale_is_for_float16_alone():
    masters = Masters([[torch.nn.Parameter(torch.ones(1))]], precision=torch.bfloat16, learning_rate=0.1)
    assert masters.scales == [1.0]


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_step_that_cannot_be_taken_changes_nothing(bad):
    for dtype in (torch.float16, torch.float32):
        parameter = torch.nn.Parameter(torch.ones(1))
        masters = Masters([[parameter]], precision=dtype, learning_rate=0.1)
        assert not masters.step(parameter * bad)
        assert torch.equal(parameter.detach(), torch.ones(1))


@pytest.fixture
def broken(tiny_model_folder):
    """A model one of whose weights was multiplied."""

    def build(dtype, factor):
        model = gentle_model(tiny_model_folder, dtype=dtype)
        with torch.no_grad():
            model.network.module.conv_out.weight *= factor
        return model

    return build


def train(model, learning_rate):
    with Loras(model.network.module) as loras:
        LoraTraining(rank=2, steps=3, learning_rate=learning_rate).run(
            model.network, loras, "a", latents=model.encode(pictures(1)), conditions=model.condition(["a"]), seed=0
        )


def invert(model, learning_rate):
    model.invert_text(pictures(1), ["a"], steps=3, learning_rate=learning_rate, progress=False)


@pytest.mark.parametrize("fit", [train, invert])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_learning_rate_that_diverges_is_named(models, fit, dtype):
    with pytest.raises(UserError, match=r"1e\+37 .*take a smaller learning_rate") as caught:
        fit(models[dtype], 1e37)
    assert ("bfloat16 or float32" in str(caught.value)) == (dtype == "float16")


@pytest.mark.parametrize("fit", [train, invert])
def test_an_overflow_of_the_network_is_not_blamed_on_the_learning_rate(broken, fit):
    with pytest.raises(UserError, match="leave the range of float16; load the model with dtype=bfloat16") as caught:
        fit(broken("float16", 1e5), 1e-3)
    assert "learning_rate" not in str(caught.value)
    fit(broken("bfloat16", 1e5), 1e-3)


@pytest.mark.parametrize("fit", [train, invert])
@pytest.mark.parametrize("dtype", DTYPES)
def test_broken_weights_are_named(broken, fit, dtype):
    with pytest.raises(UserError, match="weights of the model, or latents of the image, are not finite"):
        fit(broken(dtype, float("nan")), 1e-3)
