"""What a run needs is said before it: what is there, how large, whether it fits."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import tiny_families
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import Score, load_model, preflight
from latent_geodesics.models import sources as model_sources
from latent_geodesics.models.preflight import inspect, usual_strength

CONF = Path(__file__).parents[1] / "conf"


def numbers(network):
    return sum(value.numel() for value in network.state_dict().values())


@pytest.mark.parametrize("name", ["stable_diffusion_xl", "flux2_klein"])
def test_the_parts_of_a_folder_are_weighed_without_loading_them(name, tmp_path):
    folder = tiny_families.build(name, tmp_path)
    found = inspect(folder, device="cpu", dtype="bfloat16")
    components = load_model(folder, device="cpu", dtype="float32", image_size=32)._components
    true = {"vae": components.vae, components.family.network: components.network, **components.text_encoders}
    assert {part.name: part.numbers for part in found.parts} == {part: numbers(each) for part, each in true.items()}
    assert found.memory == sum(
        numbers(each) * (2 if part == components.family.network else 4) for part, each in true.items()
    )
    assert found.bytes == sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def test_one_variant_is_weighed_the_one_that_is_read(tiny_model_folder, tmp_path):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_folder, safety_checker=None, local_files_only=True)
    pipeline.save_pretrained(tmp_path)
    plain = inspect(tmp_path, device="cpu")
    pipeline.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert inspect(tmp_path, device="cpu") == plain


def rewritten(file, change):
    """Writes a file of weights anew, with some of its tensors changed."""
    tensors = load_file(file)
    save_file(change(tensors, sorted(tensors)[len(tensors) // 2]), file, metadata={"format": "pt"})


CHANGES = {
    "they lack 1 of its tensors": lambda tensors, key: {each: tensors[each] for each in tensors if each != key},
    "they have besides 1 of its tensors": lambda tensors, key: tensors | {"what.else": torch.zeros(1)},
    "they have in another shape 1 of its tensors": lambda tensors, key: tensors | {key: torch.zeros(3, 1, 2)},
}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("stable_diffusion_1", "unet"),
        ("stable_diffusion_1", "vae"),
        ("stable_diffusion_xl", "text_encoder_2"),
        ("stable_diffusion_3", "text_encoder_3"),
        ("flux2_klein", "text_encoder"),
        ("flux2_klein", "transformer"),
    ],
)
def test_tensors_that_are_not_those_of_the_network_are_told_without_reading_them(monkeypatch, tmp_path, name, part):
    folder = tiny_families.build(name, tmp_path)
    (file,) = (folder / part).glob("*.safetensors")
    whole = file.read_bytes()
    inspect(folder, device="cpu")
    monkeypatch.setattr(safetensors.torch, "load_file", None)  # what reads numbers
    for words, change in CHANGES.items():
        rewritten(file, change)
        with pytest.raises(UserError, match=f"not those of the component {part}: {words}"):
            inspect(folder, device="cpu")
        file.write_bytes(whole)


@pytest.fixture
def sharded(tiny_model_folder, tmp_path):
    """A model whose U-Net lies in several files, and of one of them its path and the name of a tensor."""
    import diffusers

    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    network = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    network.save_pretrained(folder / "unet", max_shard_size="20KB")
    file = sorted((folder / "unet").glob("*.safetensors"))[1]
    return folder, file, (keys := sorted(load_file(file)))[len(keys) // 2]


@pytest.mark.parametrize("look", [inspect, load_model])
def test_files_that_do_not_hold_what_their_index_tells_are_refused(sharded, look):
    folder, file, key = sharded
    (index,) = (folder / "unet").glob("*.index.json")
    told, whole = index.read_text(), file.read_bytes()
    assert look(folder, device="cpu")
    rewritten(file, CHANGES["they lack 1 of its tensors"])
    with pytest.raises(UserError, match=rf"not those of their index: {file.name} lacks {key}, which it tells of"):
        look(folder, device="cpu")
    content = json.loads(told)
    del content["weight_map"][key]
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"not those of the component unet: they lack 1 of its tensors \({key}\)"):
        look(folder, device="cpu")
    file.write_bytes(whole)
    with pytest.raises(UserError, match=rf"not those of their index: it lacks {key} of {file.name}"):
        look(folder, device="cpu")
    index.write_text(told)
    file.unlink()
    with pytest.raises(UserError, match=f"lack the file {file.name}; copy"):
        look(folder, device="cpu")
    index.unlink()
    with pytest.raises(UserError, match=r"are \d+ files without an index; copy"):
        look(folder, device="cpu")


def test_a_whole_file_beside_shards_is_not_weighed_twice(sharded, tiny_model_folder):
    folder, _, _ = sharded
    shutil.copy(next((tiny_model_folder / "unet").glob("*.safetensors")), folder / "unet")
    assert inspect(folder, device="cpu").numbers == inspect(tiny_model_folder, device="cpu").numbers


def test_parts_that_do_not_fit_together_are_told(tmp_path):
    folder = tiny_families.build("flux2_klein", tmp_path)
    for file in (folder / "tokenizer").glob("chat_template*"):
        file.unlink()
    with pytest.raises(UserError, match="its tokenizer has no chat template"):
        inspect(folder, device="cpu")


def test_the_command_says_what_it_found(command_line, tiny_model_folder, tmp_path):
    outcome = command_line(
        "--preflight",
        f"model.path_or_name={tiny_model_folder}",
        f"output_dir={tmp_path / 'run'}",
        "logger.mode=disabled",
        "trainer.devices=2",
    )
    assert outcome.code == 0
    assert "trainer.devices=2 has no effect" in outcome.stdout  # of a task that works in one process
    log = (tmp_path / "run" / "run.log").read_text()
    assert "unet: 0.000 GB" in log
    assert "items, whose files are all there" in log
    assert "Strength: alpha mean|P s| L is at most about" in log


def test_the_strength_is_that_of_the_scores_along_the_great_circle(model):
    """What points off the sphere, as all of a standard Gaussian's score does, bends nothing."""
    along = torch.linspace(-2, 3, model.dimension)

    class Shifted(Score):
        density = "N(m, I)"

        def __init__(self, mean):
            self.mean = mean

        def estimate(self, network, embed, query):
            return self.mean - query.x

    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found, none = (
        usual_strength(model, images, ["a", "a"], score=Shifted(mean), tau=0.6, alpha=0.5)
        for mean in (along, torch.zeros(model.dimension))
    )
    noise = torch.randn(2, model.dimension, generator=torch.Generator().manual_seed(0))
    x = model.abar(0.6) ** 0.5 * model.encode(images) + model.sigma(0.6) * noise
    radius = x.norm(dim=-1).mean()
    x /= x.norm(dim=-1, keepdim=True)
    angle = torch.acos(x[0] @ x[1])
    u = torch.linspace(0, 1, 5)[:, None]
    circle = (((1 - u) * angle).sin() * x[0] + (u * angle).sin() * x[1]) / angle.sin()
    pulls = (along - (circle @ along)[:, None] * circle).norm(dim=-1)
    assert found == pytest.approx(0.5 * float(pulls.mean() * radius * angle), rel=1e-4)
    assert none == pytest.approx(0, abs=1e-3 * found)


def test_a_large_network_is_not_asked_on_a_cpu(command_line, tiny_model_folder, tmp_path, monkeypatch):
    from latent_geodesics.run import preflight as task

    monkeypatch.setattr(task, "SMALL", 1)
    options = (f"model.path_or_name={tiny_model_folder}", f"output_dir={tmp_path / 'run'}", "logger.mode=disabled")
    assert command_line("--preflight", "model.device=cpu", *options).code == 0
    assert "Strength: not measured" in (tmp_path / "run" / "run.log").read_text()


def test_what_does_not_fit_is_refused(command_line, tiny_model_folder, tmp_path, monkeypatch):
    from latent_geodesics.run import preflight as task

    monkeypatch.setattr(task, "free_memory", lambda device: 1)
    options = (f"model.path_or_name={tiny_model_folder}", f"output_dir={tmp_path / 'run'}", "logger.mode=disabled")
    assert "GB is free: choose a smaller model" in command_line("task=preflight", *options).sentence


@pytest.mark.parametrize("name", ["sd15", "sd21_base", "sd21", "sdxl", "sd35_medium", "flux1_dev", "flux2_klein"])
def test_how_large_a_model_is_that_is_not_here_is_told(monkeypatch, name):
    monkeypatch.setattr(preflight, "on_disk", lambda place: None)
    sources = OmegaConf.load(CONF / "model" / f"{name}.yaml").path_or_name
    monkeypatch.setattr(preflight, "check_source", lambda sources: None)  # the hub answers that it has it
    with pytest.raises(UserError, match=r"its weights are about \d+ GB.*of which cpu has \d+ GB free"):
        inspect(list(sources), device="cpu")
    monkeypatch.setattr(model_sources, "_problem", lambda place: "the hub cannot be reached")
    with pytest.raises(UserError, match=r"cannot be reached; its weights are about \d+ GB"):
        model_sources.check_source(list(sources))


def test_a_model_that_is_only_on_the_hub_is_told_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr(preflight, "check_source", lambda sources: None)  # the hub answers that it has it
    with pytest.raises(UserError, match="not on this machine.*hf download someone/model"):
        inspect("someone/model", device="cpu")
