"""What a run needs is said before it: what is there, how large, whether it fits."""

from pathlib import Path

import pytest
import tiny_families
import torch
from omegaconf import OmegaConf

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
    assert "Strength: alpha mean|s| L is at most about" in log


def test_the_strength_is_that_of_the_scores_along_the_great_circle(model):
    """A score that is that of a standard Gaussian has the norm of its point, which is the radius all along."""

    class Gaussian(Score):
        density = "N(0, I)"

        def estimate(self, network, embed, query):
            return -query.x

    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = usual_strength(model, images, ["a", "a"], score=Gaussian(), tau=0.6, alpha=0.5)
    noise = torch.randn(2, model.dimension, generator=torch.Generator().manual_seed(0))
    x = model.abar(0.6) ** 0.5 * model.encode(images) + model.sigma(0.6) * noise
    radius = x.norm(dim=-1).mean()
    angle = torch.acos(torch.cosine_similarity(x[0], x[1], dim=0))
    assert found == pytest.approx(0.5 * float(radius * radius * angle), rel=1e-4)


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
