"""A folder is what it says it is: nothing is guessed, and no random numbers stand in for weights that are not there."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import tiny_families
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from safetensors.torch import load_file, save_file

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import load_model
from latent_geodesics.models.components import read_components
from latent_geodesics.models.families.base import beside_tokens
from latent_geodesics.models.preflight import inspect

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.fixture
def folder(tiny_model_folder, tmp_path):
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def settings(folder, name, **changes):
    """Changes a file of settings."""
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refused(folder, sentence, **options):
    with pytest.raises(UserError, match=sentence):
        load_model(folder, device="cpu", dtype="float32", **options)


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_weights_that_are_missing_or_left_over_are_counted_and_named(folder, name):
    file = folder / name / WEIGHTS[name]
    tensors = load_file(file)
    key = sorted(tensors)[-1]
    kept = {each: value for each, value in tensors.items() if each != key}
    save_file(kept, file, metadata={"format": "pt"})
    refused(folder, rf"component {name}: they lack 1 of its tensors \(.*{key.rpartition('.')[2]}")
    save_file(kept | {key: tensors[key], "what.else": torch.zeros(1)}, file, metadata={"format": "pt"})
    refused(folder, rf"component {name}: they have besides 1 of its tensors \(.*what.else")


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ("{}", "of the pipeline None"),
        ("[]", "not a file of settings"),
        ("no JSON", r"model_index.json cannot be read"),
        ('{"_class_name": "StableDiffusionXLPipeline"}', "lacks the component text_encoder_2"),
        ('{"_class_name": "StableCascadePipeline"}', "pipeline StableCascadePipeline"),
        ('{"_class_name": "LatentConsistencyModelPipeline"}', "pipeline LatentConsistencyModelPipeline"),
    ],
)
def test_an_index_of_another_pipeline_is_refused(folder, index, sentence):
    (folder / "model_index.json").write_text(index)
    refused(folder, sentence)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("vae", "AutoencoderTiny"), ("unet", "UNet3DConditionModel"), ("text_encoder", "XLMRobertaModel")],
)
def test_a_component_of_another_class_is_refused_wherever_that_is_said(folder, name, kind):
    index = folder / "model_index.json"
    before = index.read_text()
    settings(folder, "model_index.json", **{name: ["diffusers", kind]})
    refused(folder, rf"has the {name} {kind} \(model_index.json\)")
    index.write_text(before)
    key = {"text_encoder": {"architectures": [kind]}}.get(name, {"_class_name": kind})
    settings(folder, f"{name}/config.json", **key)
    refused(folder, rf"has the {name} {kind} \({name}/config.json\)")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_class_embeds": 4}, "num_class_embeds"),
        ({"time_cond_proj_dim": 8}, "time_cond_proj_dim"),
        ({"out_channels": 8}, "returns 8 channels"),
        ({"in_channels": 9}, "reads 9 channels"),
    ],
)
def test_a_u_net_that_needs_or_says_more_is_refused(folder, changes, sentence):
    from diffusers import UNet2DConditionModel

    config = {**UNet2DConditionModel.load_config(folder / "unet"), **changes}
    shutil.rmtree(folder / "unet")
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    refused(folder, sentence)


def test_a_size_that_is_not_told_has_to_be_given(folder):
    settings(folder, "unet/config.json", sample_size=None)
    refused(folder, "give image_size")
    assert load_model(folder, device="cpu", dtype="float32", image_size=16).image_size == (16, 16)


def test_settings_of_old_versions_do_not_halve_the_images(folder):
    settings(folder, "unet/config.json", sample_size=32, _diffusers_version="0.8.0")
    assert load_model(folder, device="cpu", dtype="float32").image_size == (128, 128)


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 16.0}, {"image_size": "16"}, {"image_size": [16, 16, 16]}, {"steps": 2.0}, {"steps": 1001},
        {"refinements": 1.5}, {"refinements": "x"}, {"batch_size": 2.5}, {"batch_size": True},
        {"inversion_tolerance": "x"}, {"cache_limit_mb": "x"}, {"cache_limit_mb": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_of_another_kind_are_refused_by_name(folder, options):
    refused(folder, f"{next(iter(options))} must", **options)


@pytest.mark.parametrize("steps", [999, 1000])
def test_as_many_steps_as_training_times(folder, steps):
    assert load_model(folder, device="cpu", dtype="float32", steps=steps).schedule.steps == steps


def test_a_tensor_of_another_shape_is_counted_and_named(folder):
    file = folder / "text_encoder" / WEIGHTS["text_encoder"]
    tensors = load_file(file)
    (name,) = (name for name in tensors if name.endswith("final_layer_norm.weight"))
    save_file(tensors | {name: torch.zeros(3)}, file, metadata={"format": "pt"})
    refused(folder, r"have in another shape 1 of its tensors \(.*final_layer_norm.weight\)")
    file = folder / "unet" / WEIGHTS["unet"]
    save_file(load_file(file) | {"conv_in.weight": torch.zeros(2, 2, 3, 3)}, file, metadata={"format": "pt"})
    refused(folder, r"component unet .* conv_in.weight expected shape .*, but got torch.Size\(\[2, 2, 3, 3\]\)\); copy")


def test_quantized_weights_are_refused(folder):
    settings(folder, "unet/config.json", quantization_config={"quant_method": "bitsandbytes"})
    refused(folder, "the unet of the model .* is quantized")


@pytest.mark.parametrize("changes", [{"model_max_length": None}, {"tokenizer_class": "BertTokenizer"}], ids=str)
def test_a_tokenizer_of_another_kind_is_refused_and_one_without_a_limit_is_not(folder, changes):
    settings(folder, "tokenizer/tokenizer_config.json", **changes)
    if "tokenizer_class" in changes:
        refused(folder, r"has the tokenizer BertTokenizer \(tokenizer/tokenizer_config.json\)")
    else:
        load_model(folder, device="cpu", dtype="float32")


def test_tokens_that_the_text_encoder_does_not_know_are_refused(folder):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.add_tokens(["<mine>"])
    tokenizer.save_pretrained(folder / "tokenizer")
    refused(folder, "the tokenizer of its text_encoder has 68 tokens, which itself knows 67 of")


@pytest.mark.parametrize("name", ["unet", "text_encoder"])
@pytest.mark.parametrize("content", [b"no weights", {"some": Path()}, None], ids=["bytes", "objects", "half"])
def test_a_pickled_file_that_cannot_be_read_is_told_in_our_words(folder, name, content):
    (safe,) = (folder / name).glob("*.safetensors")
    file = folder / name / {"unet": "diffusion_pytorch_model.bin", "text_encoder": "pytorch_model.bin"}[name]
    torch.save(load_file(safe) if content is None else content, file)
    if not isinstance(content, dict):
        file.write_bytes(content or file.read_bytes()[: file.stat().st_size // 2])
    safe.unlink()
    words = f"{file.name}: it is damaged, or holds other things than tensors"
    refused(folder, rf"component {name} of the model .* cannot be read \({words}\); copy")
    with pytest.raises(
        UserError, match=rf"{file.name}' cannot be read \(it is damaged.*\); copy it again, or give the"
    ):
        inspect(folder, device="cpu")


def test_code_that_a_folder_brings_along_is_not_taken_for_a_library_s(folder):
    settings(folder, "model_index.json", unet=["my_module", "UNet2DConditionModel"])
    refused(folder, r"has the unet my_module.UNet2DConditionModel \(model_index.json\)")


def test_a_part_that_may_be_absent_is_not_where_the_folder_has_it(tmp_path):
    folder = tiny_families.build("stable_diffusion_3", tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    del index["text_encoder_3"], index["tokenizer_3"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert read_components(folder, torch.float32).texts["text_encoder_3"] is not None
    for name in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / name)
    assert read_components(folder, torch.float32).texts["text_encoder_3"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"cross_attention_dim": (16, 16, 16, 16)},
        {
            "cross_attention_dim": (24, 16, 16, 16),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        },
    ],
    ids=["equal", "of blocks that read texts"],
)
def test_a_width_of_texts_may_be_told_for_each_block(components, changes):
    found = components("stable_diffusion_1")
    network = type(found.network).from_config({**found.network.config, **changes})
    assert found.family.problems(replace(found, network=network)) == []


@pytest.fixture(scope="module")
def components(tmp_path_factory):
    """Those of a family, read once."""
    known = {}

    def of(name):
        if name not in known:
            known[name] = read_components(tiny_families.build(name, tmp_path_factory.mktemp(name)), torch.float32)
        return known[name]

    return of


@pytest.mark.parametrize(
    ("name", "part", "changes", "sentence"),
    [
        ("stable_diffusion_xl", "network", {"cross_attention_dim": 48}, "reads texts of 48 channels, not the 32"),
        ("stable_diffusion_xl", "network", {"projection_class_embeddings_input_dim": 60}, "of 12 channels, not the 20"),
        ("stable_diffusion_xl", "network", {"class_embed_type": "timestep"}, "further embedding (class_embed_type"),
        ("stable_diffusion_xl", "network", {"addition_embed_type": None}, "another further embedding (None"),
        ("stable_diffusion_xl", "vae", {"latents_mean": [1.0] * 4}, "moved by more than a factor (latents_mean"),
        ("stable_diffusion_1", "vae", {"shift_factor": 0.1}, "moved by more than a factor (shift_factor"),
        ("stable_diffusion_1", "vae", {"scaling_factor": None}, "scales latents by None"),
        ("stable_diffusion_1", "vae", {"in_channels": 1}, "reads images of 1 channels"),
        ("stable_diffusion_3", "network", {"joint_attention_dim": 64}, "reads texts of 64 channels, not the 48"),
        ("stable_diffusion_3", "network", {"pooled_projection_dim": 56}, "text as a whole of 56 channels, not the 40"),
        ("stable_diffusion_3", "network", {"out_channels": 32}, "returns 32 channels and its latents have 16"),
        ("flux", "network", {"joint_attention_dim": 48}, "reads texts of 48 channels, not the 32"),
        ("flux", "network", {"pooled_projection_dim": 24}, "text as a whole of 24 channels, not the 16"),
        ("stable_diffusion_1", "network", {"cross_attention_dim": (16, 16, 16, 24)}, r"channels, not the 16"),
        ("stable_diffusion_1", "network", {"class_embeddings_concat": True}, "embedding (class_embeddings_concat"),
        ("stable_diffusion_1", "network", {"dual_cross_attention": True}, "embedding (dual_cross_attention"),
        ("stable_diffusion_1", "vae", {"scaling_factor": "x"}, "scales latents by x"),
        ("flux", "network", {"patch_size": 2}, "returns 256 channels and two by two latents have 64"),
        ("flux", "network", {"in_channels": 128}, "reads 128 channels and two by two latents have 64"),
        ("flux2_klein", "network", {"joint_attention_dim": 64}, "reads texts of 64 channels, not the 48"),
        ("flux2_klein", "network", {"guidance_embeds": True}, "is told a weight of guidance"),
        ("flux2_klein", "text_encoder", {"num_hidden_layers": 20}, "has 20 layers, and those up to 27 are read"),
    ],
)
def test_parts_that_do_not_fit_together_are_named(components, monkeypatch, name, part, changes, sentence):
    found = components(name)
    assert found.family.problems(found) == []
    if part == "text_encoder":
        for key, value in changes.items():
            monkeypatch.setattr(found.texts[part].config, key, value)
        other = found
    else:
        kind = getattr(found, part)
        other = replace(found, **{part: type(kind).from_config({**kind.config, **changes})})
    assert sentence in " and ".join(found.family.problems(other))


def test_no_text_is_to_sdxl_what_it_is_to_its_pipeline(components):
    found = components("stable_diffusion_xl")
    tokens, no_tokens, pooled, no_pooled = found.family.pipeline(found).encode_prompt("", device="cpu")
    embed = found.family.embedder(found)
    assert torch.equal(embed(""), beside_tokens(no_tokens[0], no_pooled[0]))
    assert not torch.equal(embed("a"), embed(""))
    other = replace(found, options={"force_zeros_for_empty_prompt": False})
    assert torch.equal(other.family.embedder(other)(""), beside_tokens(tokens[0], pooled[0]))


def test_images_are_no_larger_than_the_network_has_positions_for(components):
    found = components("stable_diffusion_3")
    assert found.family.largest(found) == 24 * 16
    assert components("flux").family.largest(components("flux")) is None


@pytest.mark.parametrize(
    ("name", "kind", "settings", "told"),
    [
        ("stable_diffusion_1", "DDIMScheduler", {"clip_sample": True}, None),  # which its pipeline takes back
        ("stable_diffusion_1", "DDIMScheduler", {"thresholding": True}, "has thresholding set"),
        ("stable_diffusion_xl", "DDIMScheduler", {"clip_sample": True}, "has clip_sample set"),
        ("stable_diffusion_xl", "EulerDiscreteScheduler", {"clip_sample": True}, None),  # it does not read it
        (
            "stable_diffusion_3",
            "FlowMatchEulerDiscreteScheduler",
            {"stochastic_sampling": True},
            "has stochastic_sampl",
        ),
    ],
)
def test_what_the_pipeline_does_besides_is_told(components, name, kind, settings, told):
    found = components(name)
    assert found.family.notes(found) == []
    scheduler = getattr(diffusers, kind).from_config(settings)
    notes = found.family.notes(replace(found, scheduler=scheduler))
    assert len(notes) == (told is not None)
    assert all(told in note for note in notes)


def test_a_model_of_few_steps_is_told(tmp_path, caplog):
    folder = tiny_families.build("flux2_klein", tmp_path)
    load_model(folder, device="cpu", dtype="float32", image_size=32)
    assert caplog.text == ""
    settings(folder, "model_index.json", is_distilled=True)
    load_model(folder, device="cpu", dtype="float32", image_size=32)
    assert f"Of the model {folder}: it was distilled to few steps" in caplog.text


def test_the_shift_of_sd3_is_that_of_its_tokens(components):
    found = components("stable_diffusion_3")
    network = type(found.network).from_config({**found.network.config, "patch_size": 4})
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    levels = found.family.schedule(replace(found, network=network, scheduler=scheduler), 5, (16, 64, 32))
    scheduler.set_timesteps(5, mu=calculate_shift(16 * 8))
    expected = (1 - scheduler.sigmas[:-1].double().flip(0)).square()
    torch.testing.assert_close(levels.signal[list(levels.times)], expected)
