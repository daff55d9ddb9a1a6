"""The whole recipe on discs, a few steps a stage: every stage, resuming, skipping, and what is written."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from synthetic_frames import write_discs

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.attributes import AttributeNetwork
from latent_geodesics.run.runner import Run
from latent_geodesics.run.sequences import Films
from latent_geodesics.run.tracking import RunLogger
from recipes.clevr.training.attributes import AttributeSettings, AttributeTraining
from recipes.clevr.training.autoencoder import AutoencoderSettings
from recipes.clevr.training.diffusion import DiffusionSettings
from recipes.clevr.training.evaluation import EvaluationSettings
from recipes.clevr.training.fit import Budget, fit
from recipes.clevr.training.frames import Frames
from recipes.clevr.training.stages import load
from recipes.clevr.training.task import STAGES, TrainClevrLdm

FEW = Budget(max_steps=3, warmup_steps=1)

FILMS = Films(fps=12, format="none")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    return [write_discs(folder / str(seed), seed=seed, count=30) for seed in (0, 1)]


@pytest.fixture
def run(tmp_path):
    options = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    return Run(folder=tmp_path, seed=0, logger=RunLogger(), trainer_options=options, config={}, films=FILMS)


def task(folder, shards, **options):
    chosen = {
        "frames": shards[0],
        "attribute_frames": shards[1],
        "work_dir": folder / "work",
        "model_dir": folder / "ldm",
        "attributes_dir": folder / "attributes",
        "held_out": 5,
        "autoencoder": AutoencoderSettings(budget=FEW, channels=(8, 8, 8), resolution=32, batch=4, show_every=2),
        "decoder": AutoencoderSettings(budget=FEW, channels=(8, 8, 8), resolution=32, batch=4),
        "diffusion": DiffusionSettings(
            budget=FEW, channels=(8, 16), attention=(False, True), heads=2, text_width=16, batch=4, show_every=3
        ),
        "attributes": AttributeSettings(budget=FEW, widths=(4, 8, 8), blocks=1, batch=4, save_every=2),
        "evaluation": EvaluationSettings(prompts=2, most_objects=2, steps=2, sweep=(1.0,), sweep_prompts=2, frames=3),
    }
    return TrainClevrLdm(**(chosen | options))


@pytest.mark.slow
def test_every_stage_writes_what_it_should_and_is_not_run_twice(tmp_path, shards, run):
    figures = task(tmp_path, shards).run(run)
    assert figures["samples"] == 4.0
    assert figures["psnr"] > 0
    assert {"README.md", "metrics.json", "samples.png", "model_index.json"} <= {
        file.name for file in (tmp_path / "ldm").iterdir()
    }
    assert json.loads((tmp_path / "ldm" / "metrics.json").read_text()) == figures
    assert AttributeNetwork.from_folder(tmp_path / "attributes").config.widths == (4, 8, 8)
    assert list((tmp_path / "work" / "diffusion").glob("samples-*.png"))
    weights = tmp_path / "ldm" / "unet" / "diffusion_pytorch_model.safetensors"
    before = weights.stat().st_mtime_ns
    assert task(tmp_path, shards).run(run) == figures
    assert weights.stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_folder_loads_as_stable_diffusion_offline(tmp_path, shards, run, monkeypatch):
    from diffusers import StableDiffusionPipeline

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    task(tmp_path, shards, stages=("autoencoder", "whiten", "diffusion", "export")).run(run)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "ldm", dtype=torch.float32)
    image = pipeline("a red cube", num_inference_steps=2, output_type="pt").images
    assert image.shape == (1, 3, 32, 32)
    assert pipeline.vae.config.scaling_factor == 1.0
    assert pipeline.tokenizer.model_max_length == 32


@pytest.mark.slow
def test_the_flow_twin_is_trained_from_a_models_folder(tmp_path, shards, run):
    """The same recipe: the model's autoencoder as it is, its networks to start from, its judge."""
    task(tmp_path, shards).run(run)
    given = tmp_path / "ldm"
    before = load_file(given / "vae" / "diffusion_pytorch_model.safetensors")
    settings = replace(task(tmp_path, shards).diffusion, prediction="velocity", start_from=str(given), mirror=True)
    twin = task(
        tmp_path,
        shards,
        work_dir=tmp_path / "flow",
        model_dir=tmp_path / "clevr-flow",
        given_autoencoder=given,
        diffusion=settings,
        stages=("whiten", "diffusion", "export", "evaluation"),
    )
    figures = twin.run(run)
    assert not {"autoencoder", "decoder", "attributes"} & {file.name for file in (tmp_path / "flow").iterdir()}
    latents = [load(tmp_path / "flow" / "whiten" / name) for name in ("latents.pt", "mirrored.pt")]
    assert latents[0].shape == latents[1].shape == (30, 4, 8, 8)
    after = load_file(tmp_path / "clevr-flow" / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    index = json.loads((tmp_path / "clevr-flow" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert "rectified flow" in (tmp_path / "clevr-flow" / "README.md").read_text()
    assert {"diffusion/held_out_error", "diffusion/training_error"} <= set(figures)
    with pytest.raises(UserError, match=r"trained with other settings \(start_from\)"):
        weights_file = given / "unet" / "diffusion_pytorch_model.safetensors"
        weights_file.write_bytes((given / "vae" / "diffusion_pytorch_model.safetensors").read_bytes())
        twin.run(run)


def test_a_resumed_stage_ends_where_an_uninterrupted_one_does(tmp_path, shards, run):
    frames, held_out = Frames.from_folder(shards[1]).split(5)
    budget = Budget(max_steps=4, warmup_steps=1)
    settings = AttributeSettings(budget=budget, widths=(4, 8, 8), blocks=1, batch=4, precision="32-true", save_every=2)

    def train(folder, settings):
        module = AttributeTraining(settings=settings, frames=frames, held_out=held_out, seed=0, folder=folder)
        fit(module, run=run)
        return module.network.state_dict()

    whole = train(tmp_path / "whole", settings)

    class Interrupted(AttributeTraining):
        def on_train_batch_start(self, batch, batch_idx):
            if self.global_step == 2:
                raise RuntimeError("killed")
            super().on_train_batch_start(batch, batch_idx)

    broken = Interrupted(settings=settings, frames=frames, held_out=held_out, seed=0, folder=tmp_path / "parts")
    with pytest.raises(RuntimeError, match="killed"):
        fit(broken, run=run)
    resumed = train(tmp_path / "parts", settings)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_damaged_result_is_made_again_and_other_settings_are_refused(tmp_path, shards, run, caplog):
    stages = ("autoencoder", "whiten")
    task(tmp_path, shards, stages=stages).run(run)
    result = tmp_path / "work" / "autoencoder" / "raw.pt"
    trained, latents = weights(result), (tmp_path / "work" / "whiten" / "latents.pt").stat().st_mtime_ns
    flipped = bytearray(result.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    result.write_bytes(flipped)
    task(tmp_path, shards, stages=stages).run(run)
    assert "raw.pt' is lost or damaged, done again" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(weights(result), trained, strict=True))
    assert (tmp_path / "work" / "whiten" / "latents.pt").stat().st_mtime_ns == latents, "it is made of the same weights"
    with pytest.raises(UserError, match=r"trained with other settings \(lr\)"):
        other = AutoencoderSettings(budget=FEW, channels=(8, 8, 8), resolution=32, batch=4, show_every=2, lr=0.5)
        task(tmp_path, shards, stages=stages, autoencoder=other).run(run)
    with pytest.raises(UserError, match=r"trained with other settings \(seed\)"):
        task(tmp_path, shards, stages=stages).run(replace(run, seed=7))


def weights(file):
    return list(load(file)["weights"].values())


def test_a_model_of_others_is_not_written_over(tmp_path, shards, run):
    (tmp_path / "ldm").mkdir()
    (tmp_path / "ldm" / "model_index.json").write_text("mine")
    with pytest.raises(UserError, match="choose another task.model_dir"):
        task(tmp_path, shards).run(run)
    assert not (tmp_path / "work" / "autoencoder").exists(), "it is refused before anything is trained"


def test_stages_need_those_before_them(tmp_path, shards, run):
    with pytest.raises(UserError, match="run stage 'autoencoder' first"):
        task(tmp_path, shards, stages=("whiten",)).run(run)


def test_unknown_stages_are_refused(tmp_path, shards):
    with pytest.raises(ValueError, match=r"autoencoder.*got paint"):
        task(tmp_path, shards, stages=("paint",))


def test_the_shipped_configuration_builds_the_task():
    from pathlib import Path

    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    file = Path(__file__).parents[1] / "conf" / "task" / "train_clevr_ldm.yaml"
    built = instantiate(OmegaConf.load(file), _convert_="all")
    assert built.stages == STAGES
    assert replace(built.diffusion.budget, max_steps=1).max_steps == 1
