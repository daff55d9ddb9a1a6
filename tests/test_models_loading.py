"""Loading: folders, hub ids, what is missing, and every yaml of the model and score groups."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from tiny_families import build

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import LatentModel, Score, accelerator, load_model, loading, precision
from latent_geodesics.models.store import recall, remember

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture(scope="module")
def shipped(tiny_model_folder):
    return tiny_model_folder


@pytest.fixture
def folder(shipped, tmp_path):
    return Path(shutil.copytree(shipped, tmp_path / "model"))


def test_sizes_are_read_from_the_folder(shipped):
    model = load_model(str(shipped), device="cpu")
    assert (model.latent_shape, model.dimension, model.image_size) == ((4, 8, 8), 256, (16, 16))
    assert model.device == torch.device("cpu")


def test_another_image_size_is_a_multiple_of_what_the_networks_halve(shipped):
    assert load_model(shipped, device="cpu", image_size=(32, 16)).latent_shape == (4, 16, 8)
    with pytest.raises(UserError, match=r"multiples of 4.*received 18"):
        load_model(shipped, device="cpu", image_size=18)


def test_weights_decide_the_fingerprint(shipped, folder):
    first, again = (load_model(shipped, device="cpu").fingerprint for _ in range(2))
    assert first == again
    build = load_model(folder, device="cpu").network.module
    with torch.no_grad():
        build.conv_out.bias += 1e-3
    build.save_pretrained(folder / "unet")
    assert load_model(folder, device="cpu").fingerprint != first


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("unet", "component unet"),
        ("unet/config.json", r"unet/config\.json"),
        ("vae/diffusion_pytorch_model.safetensors", r"component vae.*\*\.safetensors or \*\.bin"),
        ("text_encoder/config.json", r"component text_encoder.*config\.json"),
        ("tokenizer", "component tokenizer"),
        ("scheduler/scheduler_config.json", r"scheduler_config\.json"),
        ("model_index.json", r"no model_index\.json"),
    ],
)
def test_what_an_incomplete_folder_lacks_is_named(folder, path, named):
    target = folder / path
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(UserError, match=named):
        load_model(folder, device="cpu")


def test_a_truncated_weights_file_is_named(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="component unet .* cannot be read"):
        load_model(folder, device="cpu")


def test_weights_in_half_precision_files_only_are_found(folder, shipped):
    part = folder / "unet"
    (part / "diffusion_pytorch_model.safetensors").rename(part / "diffusion_pytorch_model.fp16.safetensors")
    assert load_model(folder, device="cpu").fingerprint == load_model(shipped, device="cpu").fingerprint


def test_candidates_are_tried_in_order(shipped, monkeypatch):
    asked = []

    def fetch(name):
        asked.append(name)
        if name == "second/home":
            return shipped
        raise OSError("gone")

    monkeypatch.setattr(loading, "fetch", fetch)
    model = load_model(["first/home", "second/home", "third/home"], device="cpu")
    assert asked == ["first/home", "second/home"]
    assert isinstance(model, LatentModel)


def test_when_nothing_can_be_had_every_candidate_is_named(monkeypatch):
    def fetch(name):
        raise OSError("some long story") from ConnectionError("no route")

    monkeypatch.setattr(loading, "fetch", fetch)
    with pytest.raises(UserError, match=r"no/such/folder .*first/home .*hub cannot be reached.*second/home") as error:
        load_model(["no/such/folder", "first/home", "second/home"], device="cpu")
    assert "some long story" not in str(error.value)


@pytest.mark.parametrize(
    "option",
    [{"device": "abacus"}, {"dtype": "int8"}, {"batch_size": 0}, {"refinements": -1}, {"inversion_tolerance": 0}],
)
def test_options_out_of_range_are_named(shipped, option):
    (name,) = option
    with pytest.raises(UserError, match=name):
        load_model(shipped, **{"device": "cpu", **option})


def test_a_missing_gpu_is_an_error_and_not_a_slow_run(shipped, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="'cuda:0' was asked for and there is none"):
        load_model(shipped, device="cuda:0")


# What has random weights is as large as what it stands for; the test of the benchmark makes a small one.
LOADED = [path for path in sorted(CONF.glob("model/*.yaml")) if "load_model" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", LOADED, ids=lambda path: path.stem)
def test_every_model_yaml_instantiates(path, shipped, monkeypatch):
    monkeypatch.setattr(loading, "_find", lambda candidates: shipped)
    model = instantiate(OmegaConf.load(path), device="cpu", cache_dir=None, _convert_="all")
    assert isinstance(model, LatentModel)


@pytest.mark.parametrize("path", sorted(CONF.glob("score/*.yaml")), ids=lambda path: path.stem)
def test_every_score_yaml_instantiates_and_names_its_density(path):
    config = OmegaConf.create({"seed": 3, "score": OmegaConf.load(path)})
    score = instantiate(config.score, _convert_="all")
    assert isinstance(score, Score)
    assert "p(x" in score.density


def test_a_precision_is_measured_where_the_network_does_not_say_its_size(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_candidates", lambda device: ["float32", "bfloat16"])
    monkeypatch.setattr(precision, "USUAL_SIDE", 8)
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": None}))
    rates = load_model(folder, device="cpu", image_size=16, cache_dir=tmp_path / "cache").machinery["precisions"][
        "rates"
    ]
    assert set(rates) == {"float32", "bfloat16"}


@pytest.mark.parametrize("largest", [precision.LARGEST_ERROR, 1.0])
def test_bfloat16_is_taken_on_a_cpu_where_it_is_faster_and_near_enough(shipped, tmp_path, monkeypatch, largest):
    monkeypatch.setattr(precision, "_candidates", lambda device: ["float32", "bfloat16"])
    monkeypatch.setattr(precision, "LARGEST_ERROR", largest)
    model = load_model(shipped, device="cpu", cache_dir=tmp_path)
    (file,) = tmp_path.glob("precision-*.json")
    found = recall(file)
    assert model.machinery["precisions"] == found
    assert found["errors"]["float32"] == 0
    assert 1e-3 < found["errors"]["bfloat16"] < 0.1  # eight bits
    taken = largest == 1.0 and found["rates"]["bfloat16"] > found["rates"]["float32"]
    assert model.machinery["dtype"] == found["dtype"] == ("bfloat16" if taken else "float32")
    remember(file, found | {"dtype": "bfloat16"})
    assert load_model(shipped, device="cpu", cache_dir=tmp_path).machinery["dtype"] == "bfloat16"
    assert load_model(shipped, device="cpu", cache_dir=tmp_path, dtype="float32").machinery["dtype"] == "float32"
    assert load_model(shipped, device="cpu").machinery["precisions"]["rates"] == {}


def test_compiling_without_a_compiler_is_refused_before_anything_runs(shipped, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler.*compile=false"):
        load_model(shipped, device="cpu", compile=True)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, accelerator.COMPILERS)), reason="there is no C++ compiler here")
def test_a_compiled_network_gives_the_same_numbers(shipped, tmp_path):
    plain = load_model(shipped, device="cpu", steps=5)
    compiled = load_model(shipped, device="cpu", steps=5, compile=True, cache_dir=tmp_path)
    assert compiled.machinery["compiled"] and not plain.machinery["compiled"]
    assert compiled.fingerprint == plain.fingerprint
    generator = torch.Generator().manual_seed(0)
    for rows in (3, 5):
        x, t = torch.randn(rows, plain.dimension, generator=generator), torch.full((rows,), 300)
        condition = plain.condition(["a red cube"]).expand(rows, -1, -1)
        torch.testing.assert_close(
            compiled.network.noise(x, t, condition), plain.network.noise(x, t, condition), atol=1e-4, rtol=1e-4
        )


def edited(folder, file, **changes):
    settings = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(settings | changes))


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1] * 10}, "10 betas for 1000 training times"),
        ("scheduler/scheduler_config.json", {"timestep_spacing": "other"}, "cannot space 5 steps.*timestep_spacing"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "8"}, "model_max_length is '8'"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": -5}, "model_max_length is -5"),
        ("tokenizer/tokenizer_config.json", {"pad_token": None}, "pad_token is not given"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_when_they_are_read(folder, file, changes, words):
    edited(folder, file, **changes)
    with pytest.raises(UserError, match=words):
        load_model(folder, device="cpu", steps=5)


@pytest.mark.parametrize(
    ("family", "file", "changes", "words"),
    [
        ("flux", "scheduler/scheduler_config.json", {"base_image_seq_len": None}, "does not say how it shifts"),
        ("stable_diffusion_3", "scheduler/scheduler_config.json", {"shift": 0}, "has the shift 0"),
    ],
)
def test_a_flow_that_does_not_say_its_levels_is_refused(tmp_path, family, file, changes, words):
    folder = build(family, tmp_path / family)
    edited(folder, file, **changes)
    with pytest.raises(UserError, match=words):
        load_model(folder, device="cpu", steps=5)


def test_a_tokenizer_without_the_chat_that_its_family_puts_texts_in_is_refused(tmp_path):
    folder = build("flux2_klein", tmp_path / "model")
    (folder / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        load_model(folder, device="cpu", steps=5)


@pytest.mark.parametrize(("part", "file"), [("unet", "diffusion_pytorch_model"), ("text_encoder", "model")])
def test_weights_that_are_whole_numbers_are_refused(folder, part, file):
    place = folder / part / f"{file}.safetensors"
    stored = {name: (100 * value).to(torch.int8) if value.is_floating_point() else value
              for name, value in load_file(place).items()}  # fmt: skip
    save_file(stored, place, metadata={"format": "pt"})
    with pytest.raises(UserError, match="stored as whole numbers"):
        load_model(folder, device="cpu", steps=5)
