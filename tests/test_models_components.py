"""A folder is what it says it is: nothing is guessed, and no random numbers stand in for weights that are not there."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import load_model

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


@pytest.mark.parametrize("options", [{"image_size": 16.0}, {"image_size": "16"}, {"steps": 2.0}, {"steps": 1001}])
def test_numbers_of_another_kind_are_refused_by_name(folder, options):
    refused(folder, f"{next(iter(options))} must be", **options)


@pytest.mark.parametrize("steps", [999, 1000])
def test_as_many_steps_as_training_times(folder, steps):
    assert load_model(folder, device="cpu", dtype="float32", steps=steps).schedule.steps == steps
