"""Adapters: fitted, blended row by row, read from a file, and gone when their context ends."""

import pytest
import torch
from baselines import gentle_model, probe
from tiny_model import build_tiny_model, pictures

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.lora import Loras, LoraTraining


@pytest.fixture(scope="module")
def gentle(tiny_model_folder):
    return gentle_model(tiny_model_folder)


@pytest.fixture(scope="module")
def before(gentle):
    return probe(gentle)


def randomise(loras, name, seed):
    """Adapters are born changing nothing; this one changes something."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for factor in loras.parameters(name):
            factor.copy_(torch.randn(factor.shape, generator=rng) * 0.3)


@pytest.fixture
def two(gentle):
    with Loras(gentle.network.module) as loras:
        for seed, name in enumerate("ab"):
            loras.add(name, rank=4, seed=seed)
            randomise(loras, name, seed)
        yield loras


def test_a_new_adapter_changes_nothing_and_its_seed_decides_it(gentle, before):
    factors = []
    for _ in range(2):
        with Loras(gentle.network.module) as loras:
            loras.add("a", rank=4, seed=3)
            loras.weigh({"a": 1.0})
            assert torch.equal(probe(gentle), before)
            factors.append([factor.detach().clone() for factor in loras.parameters("a")])
    assert all(torch.equal(one, other) for one, other in zip(*factors, strict=True))


def test_every_attention_layer_has_its_projections_adapted(gentle):
    with Loras(gentle.network.module) as loras:
        loras.add("a", rank=2, seed=0)
        assert len(loras.parameters("a")) == 2 * 3 * len(gentle.network.module.attn_processors)


@pytest.mark.parametrize(("weights", "alone"), [((1.0, 0.0), "a"), ((0.0, 1.0), "b")])
def test_a_blend_at_either_end_is_that_adapter(gentle, two, weights, alone):
    two.weigh({alone: 1.0})
    expected = probe(gentle)
    two.weigh(dict(zip("ab", weights, strict=True)))
    assert torch.equal(probe(gentle), expected)


def test_rows_have_weights_of_their_own(gentle, two):
    w = torch.tensor([0.25, 0.75])
    two.weigh({"a": 1 - w, "b": w})
    blended = probe(gentle)
    for row, weight in enumerate(w.tolist()):
        two.weigh({"a": 1 - weight, "b": weight})
        torch.testing.assert_close(blended[row], probe(gentle)[row])
    assert (blended[0] - blended[1]).abs().max() > 1e-3


def test_a_layers_change_is_linear_in_the_weight(gentle, two):
    layer = next(iter(two._layers().values()))
    x = torch.randn(1, 3, layer.in_features, generator=torch.Generator().manual_seed(0))
    outputs = []
    for weight in (0.0, 0.5, 1.0):
        two.weigh({"a": 1 - weight, "b": weight})
        with torch.no_grad():
            outputs.append(layer(x))
    torch.testing.assert_close(outputs[1], (outputs[0] + outputs[2]) / 2)


def test_nothing_stays_behind_even_after_an_error(gentle, before):
    modules = dict(gentle.network.module.named_modules())
    with pytest.raises(RuntimeError, match="on purpose"), Loras(gentle.network.module) as loras:
        for name in "ab":
            loras.add(name, rank=4, seed=1)
            randomise(loras, name, 5)
        loras.weigh({"a": 1.0, "b": 0.5})
        assert not torch.equal(probe(gentle), before)
        raise RuntimeError("on purpose")
    after = dict(gentle.network.module.named_modules())
    assert after.keys() == modules.keys()
    assert all(after[name] is module for name, module in modules.items())
    assert torch.equal(probe(gentle), before)
    assert not any(parameter.requires_grad for parameter in gentle.network.module.parameters())


def test_fitting_lowers_the_error_on_the_image_and_repeats_itself(gentle, before):
    latents, conditions = gentle.encode(pictures(1)), gentle.condition(["a red cube"])
    training = LoraTraining(rank=4, steps=20, learning_rate=1e-2, batch_size=4)
    schedule, rng = gentle.schedule, torch.Generator().manual_seed(99)
    t = torch.arange(20, 980, 60)
    noise = torch.randn(len(t), gentle.dimension, generator=rng)

    def error():
        x = schedule.diffuse(latents.expand_as(noise), noise, t)
        with torch.no_grad():
            output = gentle.network.output(x, t, conditions.expand(len(t), -1, -1))
        return float((output - schedule.target(latents.expand_as(noise), noise, t)).square().mean())

    plain, results = error(), []
    for _ in range(2):
        with Loras(gentle.network.module) as loras:
            training.run(gentle.network, loras, "a", latents=latents, conditions=conditions, seed=4)
            results.append((error(), probe(gentle)))
    # Attention is a small part of this network, so it can do little; the shipped model is held to more.
    assert results[0][0] < plain
    assert torch.equal(results[0][1], results[1][1])
    assert torch.equal(probe(gentle), before)


def test_training_counts_its_network_evaluations(gentle):
    calls = gentle.network_evaluations
    with Loras(gentle.network.module) as loras:
        LoraTraining(rank=1, steps=3, batch_size=2).run(
            gentle.network,
            loras,
            "a",
            latents=gentle.encode(pictures(2)),
            conditions=gentle.condition(["a", "red"]),
            seed=0,
        )
    assert gentle.network_evaluations - calls == 6


def test_a_file_of_an_adapter_is_read_in_its_folder_or_by_itself(gentle, two, tmp_path):
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    unet = gentle.network.module
    state = get_peft_model_state_dict(unet, adapter_name="a")
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=state)
    two.weigh({"a": 1.0})
    expected = probe(gentle)
    for source in (tmp_path, next(tmp_path.glob("*.safetensors"))):
        name = "folder" if source.is_dir() else "file"
        two.load(name, source)
        two.weigh({name: 1.0})
        torch.testing.assert_close(probe(gentle), expected)


def test_what_of_a_file_is_not_used_is_told_or_refused(gentle, two, tmp_path, caplog):
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import load_file, save_file

    state = get_peft_model_state_dict(gentle.network.module, adapter_name="a")
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=state)
    (file,) = tmp_path.glob("*.safetensors")
    whole = load_file(file)
    first = next(iter(whole))
    texts = {key.replace("unet.", "text_encoder.", 1): value.clone() for key, value in whole.items()}
    save_file(whole | texts, file)
    two.load("with texts", file)
    assert "only what is for the U-Net is used, not that for text_encoder" in caplog.text
    elsewhere = {key.replace("unet.", "unet.more.", 1): value.clone() for key, value in whole.items()}
    half = {key: value for key, value in whole.items() if key != first}
    for name, content, words in (
        ("elsewhere", whole | elsewhere, r"of \d+ tensors, such as more"),
        ("half", half, "does not fit the model"),
        ("texts", texts, "has no weights for the U-Net"),
        ("empty", {"some": torch.zeros(1)}, "does not fit the model"),
    ):
        save_file(content, file)
        with pytest.raises(UserError, match=words):
            two.load(name, file)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), (b"not tensors", "not a readable"), ("other", "does not fit|no weights")],
)
def test_a_file_that_is_no_adapter_of_the_model_is_refused(gentle, before, tmp_path, content, words):
    from safetensors.torch import save_file

    file = tmp_path / "adapter.safetensors"
    if content == "other":
        key = "unet.down_blocks.0.nothing.here.to_q.lora_{}.weight"
        save_file({key.format("A"): torch.zeros(2, 8), key.format("B"): torch.zeros(8, 2)}, file)
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=words), Loras(gentle.network.module) as loras:
        loras.load("a", file)
    assert torch.equal(probe(gentle), before)


@pytest.mark.parametrize("options", [{"rank": 0}, {"steps": 0}, {"learning_rate": 0.0}, {"batch_size": 0}])
def test_senseless_settings_are_refused(options):
    with pytest.raises(UserError, match="a LoRA needs"):
        LoraTraining(**options)


def test_a_network_that_predicts_v_in_half_precision_can_be_fitted(tmp_path):
    folder = build_tiny_model(tmp_path / "v", prediction="v_prediction")
    model = gentle_model(folder, dtype="bfloat16")
    before = probe(model)
    with Loras(model.network.module) as loras:
        LoraTraining(rank=2, steps=2).run(
            model.network, loras, "a", latents=model.encode(pictures(1)), conditions=model.condition(["a"]), seed=0
        )
        w = torch.tensor([0.0, 1.0])
        loras.weigh({"a": w})
        assert probe(model).isfinite().all()
    assert torch.equal(probe(model), before)
