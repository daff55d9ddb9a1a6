"""Models in one file: which they are is told by their weights; what cannot be is said in a sentence."""

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import load_model

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
