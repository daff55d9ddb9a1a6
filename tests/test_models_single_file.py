"""Models in one file: which they are is told by their weights; what cannot be is said in a sentence."""

import functools
import json
import shutil
import tempfile

import diffusers
import original_layout
import pytest
import tiny_families
import torch
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers as convert_flux
from safetensors.torch import load_file, save_file

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import load_model
from latent_geodesics.models.preflight import inspect
from latent_geodesics.models.single_file import shapes

# What diffusers tells Stable Diffusion 2 by: the width of the texts that its U-Net reads.
V2 = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture
def file(tmp_path):
    others = {f"{part}.some": torch.zeros(1) for part in ("cond_stage_model", "first_stage_model")}
    save_file({V2: torch.zeros(4, 1024)} | others, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_file_is_unpacked_once_and_read_as_the_folder_that_comes_of_it(
    file, tiny_model_folder, tmp_path, monkeypatch
):
    made = []
    settings = shutil.copytree(tiny_model_folder, tmp_path / "settings")

    def from_single_file(path, **options):
        made.append((path, options))
        return diffusers.StableDiffusionPipeline.from_pretrained(tiny_model_folder, local_files_only=True)

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_single_file", from_single_file)
    options = {"device": "cpu", "dtype": "float32", "cache_dir": tmp_path / "cache", "settings_of": settings}
    first, second = (load_model(file, **options) for _ in range(2))
    assert made == [(str(file), {"config": str(settings)})]
    assert first.fingerprint == second.fingerprint == load_model(tiny_model_folder, device="cpu").fingerprint
    (settings / "unet" / "config.json").touch()
    load_model(file, **options)
    assert len(made) == 2


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
    torch.save({"code": functools.partial(print)}, tmp_path / "trusted.ckpt")
    words = "it is damaged, or holds other things than tensors"
    with pytest.raises(UserError, match=rf"trusted.ckpt' cannot be read \({words}\); copy it again, or give the same"):
        load_model(tmp_path / "trusted.ckpt", device="cpu", cache_dir=tmp_path)
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


# By what diffusers tells XL (ten layers of its second text encoder) and 3.5 Large (38 of the network), at any width but
# that by which it tells text encoders apart. Of 3.5 Medium there is the second attention.
THREE = {"hidden": 24, "layers": 38, "qk_norm": "rms_norm", "dual_attention_layers": (0,)}
MADE = {
    "stable_diffusion_1": {},
    "stable_diffusion_2": {},
    "stable_diffusion_xl": {"hidden": 24, "layers": 10},
    "stable_diffusion_3": THREE,
    "stable_diffusion_3_without_t5": THREE,
    "flux": {},
}
OPTIONS = {"device": "cpu", "dtype": "float32", "image_size": 64, "batch_size": 1}
WIDTH, HEADS, HEAD = 3072, 24, 128
"""Of FLUX.1, which diffusers takes for granted."""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """By a family's name: a small model's folder, and what writes its weights into one file in the first layout."""

    @functools.cache
    def made(name):
        folder = tiny_families.build(name, tmp_path_factory.mktemp(name), **MADE[name])
        absent = dict.fromkeys(("text_encoder_3", "tokenizer_3")) if name.endswith("without_t5") else {}
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, **absent)
        if name.startswith("stable_diffusion_3"):  # whose first text encoder has a projection that changes nothing
            torch.nn.init.eye_(pipeline.text_encoder.text_projection.weight)
            pipeline.text_encoder.save_pretrained(folder / "text_encoder")
        return folder, lambda file, **options: original_layout.write(pipeline, file, **options)

    return made


@pytest.fixture
def narrow_flux(monkeypatch):
    """Lets diffusers read FLUX at the width of the small one: its own is a constant in the middle of a function."""
    code = convert_flux.__code__
    constants = tuple(32 if each == WIDTH else each for each in code.co_consts)
    monkeypatch.setattr(convert_flux, "__code__", code.replace(co_consts=constants))


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Unpacks beside the files of a test: with a folder for caches, it would also be measured how fast networks are."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def without_weights(folder, place):
    return shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.safetensors"))


def assert_same(found, expected):
    assert found.fingerprint == expected.fingerprint
    assert torch.equal(found.condition(["a red cube"]), expected.condition(["a red cube"]))


@pytest.mark.usefixtures("narrow_flux", "beside")
@pytest.mark.parametrize("name", MADE)
def test_a_file_in_the_first_layout_has_the_weights_of_its_folder(original, tmp_path, name):
    folder, write = original(name)
    file, settings = write(tmp_path / "model.safetensors"), without_weights(folder, tmp_path / "settings")
    found = load_model(file, settings_of=settings, **OPTIONS)
    assert_same(found, load_model(folder, **OPTIONS))


@pytest.mark.slow
@pytest.mark.usefixtures("beside")
def test_a_file_of_flux_at_its_own_width_has_the_weights_of_its_folder(tmp_path):
    precision = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        folder = tiny_families.build("flux", tmp_path, heads=HEADS, head=HEAD, axes=(16, 56, 56))
    finally:
        torch.set_default_dtype(precision)
    pipeline = diffusers.FluxPipeline.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
    file = original_layout.write(pipeline, tmp_path / "model.safetensors")
    options = OPTIONS | {"dtype": "bfloat16"}
    found = load_model(file, settings_of=folder, **options)
    assert_same(found, load_model(folder, **options))
    shutil.rmtree(tmp_path)  # three gigabytes


@pytest.mark.usefixtures("beside")
def test_a_file_is_unpacked_in_its_own_precision(original, tmp_path):
    folder, write = original("stable_diffusion_1")
    halves = {name: value.half() for name, value in load_file(write(tmp_path / "whole.safetensors")).items()}
    save_file(halves, tmp_path / "model.safetensors")
    load_model(tmp_path / "model.safetensors", settings_of=folder, **OPTIONS)
    unpacked = list(tmp_path.glob("model-*/*/*.safetensors"))
    assert len(unpacked) == 3
    assert {value.dtype for part in unpacked for value in shapes(part).values()} == {torch.float16}


@pytest.mark.usefixtures("narrow_flux")
@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("stable_diffusion_1", "model.diffusion_model.out.2"),
        ("stable_diffusion_1", "first_stage_model.decoder.conv_out"),
        ("stable_diffusion_1", "cond_stage_model.transformer.text_model.final_layer_norm"),
        ("stable_diffusion_2", "cond_stage_model.model.transformer.resblocks.2.attn.in_proj_weight"),
        ("stable_diffusion_xl", "model.diffusion_model.label_emb.0.2.bias"),
        ("stable_diffusion_xl", "conditioner.embedders.0.transformer.text_model.final_layer_norm"),
        ("stable_diffusion_xl", "conditioner.embedders.1.model.text_projection"),
        ("stable_diffusion_3", "model.diffusion_model.joint_blocks.0.x_block.attn2.proj.bias"),
        ("stable_diffusion_3", "text_encoders.clip_g.transformer.text_projection"),
        ("stable_diffusion_3", "text_encoders.t5xxl.transformer.encoder.final_layer_norm"),
        ("flux", "model.diffusion_model.double_blocks.0.txt_mlp.2.bias"),
        ("flux", "vae.decoder.conv_out"),
        ("flux", "text_encoders.t5xxl.transformer.shared"),
    ],
)
def test_a_file_that_lacks_weights_is_refused(original, tmp_path, name, without):
    folder, write = original(name)
    file = write(tmp_path / "model.safetensors", without=without)
    with pytest.raises(UserError, match="lacks some of the weights of a"):
        load_model(file, device="cpu", settings_of=folder, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("model-*"))


TEXTS = ("cond_stage_model.", "conditioner.", "text_encoders.")
VAE = ("first_stage_model.", "vae.")


@pytest.mark.parametrize(
    ("name", "without", "lacking"),
    [
        ("stable_diffusion_1", VAE, "StableDiffusionPipeline without its vae"),
        ("stable_diffusion_2", TEXTS, "StableDiffusionPipeline without its text_encoder"),
        ("stable_diffusion_xl", "conditioner.embedders.0", "StableDiffusionXLPipeline without its text_encoder"),
        ("stable_diffusion_xl", "conditioner.embedders.1", "StableDiffusionXLPipeline without its text_encoder_2"),
        ("stable_diffusion_3", "text_encoders.t5xxl", "StableDiffusion3Pipeline without its text_encoder_3"),
        ("flux", VAE + TEXTS, "FluxPipeline without its text_encoder and text_encoder_2 and vae"),
    ],
)
def test_a_file_that_lacks_a_component_is_refused_by_its_name(original, tmp_path, name, without, lacking):
    folder, write = original(name)
    file, settings = write(tmp_path / "model.safetensors", without=without), without_weights(folder, tmp_path / "bare")
    for options, looked in (({}, ""), ({"settings_of": settings}, f", and no weights of that are in {settings}")):
        for look in (inspect, load_model):
            with pytest.raises(
                UserError, match=f"is a {lacking}{looked}: choose .*, or give model.settings_of=<a folder"
            ):
                look(file, device="cpu", **options)


@pytest.mark.usefixtures("narrow_flux", "beside")
@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("stable_diffusion_1", VAE),
        ("stable_diffusion_xl", TEXTS),
        ("stable_diffusion_3", "text_encoders.t5xxl"),
        ("flux", VAE + TEXTS),
    ],
)
def test_what_a_file_lacks_comes_from_the_folder_of_its_settings(original, tmp_path, name, without):
    folder, write = original(name)
    file = write(tmp_path / "model.safetensors", without=without)
    if name == "flux":  # a file of the network alone has its names without a beginning
        bare = {key.removeprefix("model.diffusion_model."): value for key, value in load_file(file).items()}
        save_file(bare, file)
    found = load_model(file, settings_of=folder, **OPTIONS)
    assert_same(found, load_model(folder, **OPTIONS))
    parts = [{part.name: part.numbers for part in inspect(each, settings_of=folder).parts} for each in (file, folder)]
    assert parts[0] == parts[1]


def test_a_file_without_its_network_takes_none_from_elsewhere(original, tmp_path):
    folder, write = original("stable_diffusion_xl")
    file = write(tmp_path / "model.safetensors", without="model.diffusion_model")
    with pytest.raises(UserError, match="is a StableDiffusionXLPipeline without its unet: choose a file that has it"):
        load_model(file, device="cpu", settings_of=folder, cache_dir=tmp_path / "cache")


def test_settings_of_another_family_are_refused(original, tmp_path):
    _, write = original("stable_diffusion_1")
    file, (other, _) = write(tmp_path / "model.safetensors"), original("stable_diffusion_xl")
    with pytest.raises(UserError, match="is a StableDiffusionPipeline, and model.settings_of=.* of another family"):
        load_model(file, device="cpu", settings_of=other, cache_dir=tmp_path / "cache")


@pytest.mark.usefixtures("narrow_flux")
@pytest.mark.parametrize("more", ["layers", "scales"])
def test_weights_that_diffusers_would_drop_are_refused(original, tmp_path, more):
    folder, write = original("flux")
    file, settings = write(tmp_path / "model.safetensors"), without_weights(folder, tmp_path / "settings")
    if more == "layers":
        told = settings / "transformer" / "config.json"
        told.write_text(json.dumps(json.loads(told.read_text()) | {"num_single_layers": 0}))
    else:  # of weights in eight bits
        save_file(load_file(file) | {"model.diffusion_model.img_in.scale_weight": torch.ones(1)}, file)
    with pytest.raises(UserError, match="has more weights of a FluxTransformer2DModel than its settings tell of"):
        load_model(file, device="cpu", settings_of=settings, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_file_is_weighed_without_its_settings(original, tmp_path, suffix):
    folder, write = original("stable_diffusion_1")
    file = write(tmp_path / "model.safetensors")
    if suffix == "ckpt":
        torch.save({"state_dict": load_file(file)}, tmp_path / "model.ckpt")
    found, expected = inspect(tmp_path / f"model.{suffix}", device="cpu"), inspect(folder, device="cpu")
    count = {part.name: part.numbers for part in expected.parts}
    assert {part.name: part.numbers for part in found.parts} == count
    assert (found.family, found.network, found.precision) == ("StableDiffusionPipeline", "unet", "float32")
    assert found.memory == 4 * sum(count.values())
    assert found.bytes == pytest.approx((tmp_path / f"model.{suffix}").stat().st_size, abs=3)
