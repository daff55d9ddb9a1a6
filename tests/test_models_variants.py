"""Folders as libraries and people write them: variants, shards, tokenizers without a length, other schedulers."""

import json
import re
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file

import latent_geodesics as lg
from latent_geodesics.models import load_model

CARD = Path("data/models/clevr-ldm/README.md")


@pytest.fixture
def folder(tiny_model_folder, tmp_path):
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def weights(folder):
    return load_model(folder, device="cpu", dtype="float32").network.module.state_dict()


@pytest.mark.parametrize("options", [{"variant": "bf16"}, {"variant": "fp16", "max_shard_size": "20KB"}], ids=str)
def test_every_variant_that_is_written_is_read(tiny_model_folder, tmp_path, options):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_folder, safety_checker=None, local_files_only=True)
    pipeline.save_pretrained(tmp_path / "saved", **options)
    found, true = weights(tmp_path / "saved"), weights(tiny_model_folder)
    assert all(torch.equal(found[name], true[name]) for name in true)


def test_of_several_variants_the_one_without_a_name_and_then_the_most_precise_is_read(folder):
    unet = folder / "unet"
    true = weights(folder)
    plain = unet / "diffusion_pytorch_model.safetensors"
    shutil.copy(plain, unet / "diffusion_pytorch_model.fp16.safetensors")
    (unet / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"not read")
    assert all(torch.equal(value, true[name]) for name, value in weights(folder).items())
    plain.unlink()
    assert all(torch.equal(value, true[name]) for name, value in weights(folder).items())


def test_a_tokenizer_without_a_length_has_that_of_the_text_encoder(folder):
    text = ["a red cube"]
    true = load_model(folder, device="cpu").condition(text)
    file = folder / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["model_max_length"]
    file.write_text(json.dumps(settings))
    assert torch.equal(load_model(folder, device="cpu").condition(text), true)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "Mine"])
def test_a_scheduler_of_another_noise_is_refused_by_name(folder, name):
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": name}))
    with pytest.raises(lg.UserError, match=f"has the scheduler {name}"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
        {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "prediction_type": "flow_prediction", "invert_sigmas": True},
    ],
    ids=str,
)
def test_settings_by_which_a_known_scheduler_means_another_noise_are_refused(folder, settings):
    told(folder, settings)
    with pytest.raises(lg.UserError, match=f"noise of the model .* is not that of .*{list(settings)[-1]}"):
        load_model(folder, device="cpu")


def test_a_shift_that_is_not_known_for_a_u_net_is_refused(folder):
    dynamic = {"prediction_type": "flow_prediction", "use_dynamic_shifting": True}
    told(folder, {"_class_name": "FlowMatchEulerDiscreteScheduler", **dynamic})
    with pytest.raises(lg.UserError, match="shifts its noise by the size of images"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"_class_name": "HeunDiscreteScheduler"},
        {"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"},
        {"_class_name": "DDPMScheduler", "beta_schedule": "laplace"},
        {"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True},
    ],
    ids=str,
)
def test_what_a_scheduler_leaves_out_is_as_its_own_class_has_it(folder, settings):
    told(folder, settings)
    true = getattr(diffusers, settings["_class_name"]).from_pretrained(folder / "scheduler").alphas_cumprod
    found = load_model(folder, device="cpu", dtype="float32").schedule.signal
    torch.testing.assert_close(found, true.double(), rtol=0, atol=1e-7)  # diffusers keeps 6e-8 of no signal at all


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"])
def test_settings_that_the_pipeline_corrects_are_corrected(folder, name):
    told(folder, {"_class_name": name, "steps_offset": 0, "timestep_spacing": "leading", "skip_prk_steps": True})
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipeline.scheduler.set_timesteps(5)
    visited = load_model(folder, device="cpu", dtype="float32", steps=5).schedule.times
    assert list(visited) == sorted({int(time) for time in pipeline.scheduler.timesteps})


def told(folder, settings):
    """Writes the settings of a scheduler, and none beside them."""
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"scheduler": ["diffusers", settings["_class_name"]]}))


def test_files_that_are_no_weights_are_not_read(folder, capfd):
    unet = folder / "unet"
    true = weights(folder)
    plain = unet / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(plain), unet / "diffusion_pytorch_model.fp16.bin")
    plain.unlink()
    (unet / "optimizer.bin").write_bytes(b"no weights")
    capfd.readouterr()
    assert all(torch.equal(value, true[name]) for name, value in weights(folder).items())
    assert capfd.readouterr().err == ""
    (unet / "diffusion_pytorch_model.fp16.bin").unlink()
    with pytest.raises(lg.UserError, match="lacks the component unet"):
        load_model(folder, device="cpu")


def test_the_model_card_s_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", CARD.read_text(), re.S)
    variables = {}
    exec(example.replace("guidance_scale=", "num_inference_steps=2, guidance_scale="), variables)
    assert variables["image"].size == (128, 128)
