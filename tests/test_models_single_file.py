"""Models in one file: which they are is told by their weights; what cannot be is said in a sentence."""

import diffusers
import original_layout
import pytest
import tiny_families
import torch
from safetensors.torch import load_file, save_file

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import load_model
from latent_geodesics.models.preflight import inspect

# What diffusers tells Stable Diffusion 2 by: the width of the texts that its U-Net reads.
V2 = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture
def file(tmp_path):
    save_file({V2: torch.zeros(4, 1024)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_file_is_unpacked_once_and_read_as_the_folder_that_comes_of_it(
    file, tiny_model_folder, tmp_path, monkeypatch
):
    made = []

    def from_single_file(path, **options):
        made.append((path, options))
        return diffusers.StableDiffusionPipeline.from_pretrained(tiny_model_folder, local_files_only=True)

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_single_file", from_single_file)
    options = {"device": "cpu", "dtype": "float32", "cache_dir": tmp_path / "cache", "settings_of": tiny_model_folder}
    first, second = (load_model(file, **options) for _ in range(2))
    assert made == [(str(file), {"config": str(tiny_model_folder)})]
    assert first.fingerprint == second.fingerprint == load_model(tiny_model_folder, device="cpu").fingerprint


def test_settings_that_cannot_be_had_are_asked_for(file, tmp_path, monkeypatch):
    def from_single_file(path, **options):
        raise OSError("couldn't connect")

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_single_file", from_single_file)
    with pytest.raises(UserError, match=r"looks like a StableDiffusionPipeline.*give model.settings_of="):
        load_model(file, device="cpu", cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("model-*"))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"damaged.safetensors' cannot be read"):
        load_model(damaged, device="cpu", cache_dir=tmp_path)
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")
    with pytest.raises(UserError, match=r"is no file of weights"):
        load_model(picture, device="cpu", cache_dir=tmp_path)


ADAPTER = {"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(2, 2)}
OTHER_SD3 = {
    "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": torch.zeros(9216),
    "model.diffusion_model.pos_embed": torch.zeros(1, 5, 5),
}


@pytest.mark.parametrize("tensors", [ADAPTER, OTHER_SD3, {}], ids=["adapter", "other shapes", "empty"])
@pytest.mark.parametrize("look", [inspect, load_model])
def test_a_file_of_something_else_is_not_taken_for_stable_diffusion(tmp_path, tensors, look):
    save_file(tensors, tmp_path / "some.safetensors")
    with pytest.raises(UserError, match="does not hold the weights of a whole model"):
        look(tmp_path / "some.safetensors", device="cpu")


def test_a_folder_that_holds_a_file_of_weights_is_answered_with_its_name(file):
    with pytest.raises(UserError, match=f"give its file, {file}"):
        load_model(file.parent, device="cpu")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A small Stable Diffusion 1, as a folder, and as what writes its weights into one file in the first layout."""
    folder = tiny_families.build("stable_diffusion_1", tmp_path_factory.mktemp("one"))
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    return folder, lambda file, **options: original_layout.write(pipeline, file, **options)


def test_a_file_in_the_first_layout_has_the_weights_of_its_folder(original, tmp_path):
    folder, write = original
    options = {"device": "cpu", "dtype": "float32", "image_size": 64}
    file = write(tmp_path / "model.safetensors")
    found = load_model(file, settings_of=folder, cache_dir=tmp_path / "cache", **options)
    expected = load_model(folder, **options)
    assert found.fingerprint == expected.fingerprint
    assert torch.equal(found.condition(["a red cube"]), expected.condition(["a red cube"]))


@pytest.mark.parametrize(
    "without",
    [
        "model.diffusion_model.out.2",
        "first_stage_model.decoder.conv_out",
        "cond_stage_model.transformer.text_model.final_layer_norm",
    ],
)
def test_a_file_that_lacks_weights_is_refused(original, tmp_path, without):
    folder, write = original
    file = write(tmp_path / "model.safetensors", without=without)
    with pytest.raises(UserError, match="lacks some of the weights of a"):
        load_model(file, device="cpu", settings_of=folder, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("model-*"))


def test_a_file_that_lacks_a_component_is_refused_by_its_name(original, tmp_path):
    folder, write = original
    file = write(tmp_path / "model.safetensors", without="first_stage_model")
    with pytest.raises(UserError, match="is a StableDiffusionPipeline without its vae"):
        inspect(file, device="cpu")
    with pytest.raises(UserError, match="Failed to load AutoencoderKL. Weights for this component appear"):
        load_model(file, device="cpu", settings_of=folder, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_file_is_weighed_without_its_settings(original, tmp_path, suffix):
    folder, write = original
    file = write(tmp_path / "model.safetensors")
    if suffix == "ckpt":
        torch.save({"state_dict": load_file(file)}, tmp_path / "model.ckpt")
    found, expected = inspect(tmp_path / f"model.{suffix}", device="cpu"), inspect(folder, device="cpu")
    count = {part.name: part.numbers for part in expected.parts}
    assert {part.name: part.numbers for part in found.parts} == count
    assert (found.family, found.network, found.precision) == ("StableDiffusionPipeline", "unet", "float32")
    assert found.memory == 4 * sum(count.values())
    assert found.bytes == pytest.approx((tmp_path / f"model.{suffix}").stat().st_size, abs=3)
