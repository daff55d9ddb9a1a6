"""The diffusion model's training on tiny networks: predictions, captions, what is kept, one device's loop, flows."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from synthetic_frames import write_discs

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.runner import Run
from latent_geodesics.run.sequences import Films
from latent_geodesics.run.tracking import RunLogger
from recipes.clevr.rendering.dataset import load_records
from recipes.clevr.rendering.scene import ClevrScene, caption
from recipes.clevr.training.autoencoder import AutoencoderSettings, build_autoencoder, given_autoencoder
from recipes.clevr.training.device_loop import DeviceStep, fit_on_device
from recipes.clevr.training.diffusion import AverageErrors, DiffusionSettings, DiffusionTraining
from recipes.clevr.training.fit import Budget, fit
from recipes.clevr.training.frames import CaptionedLatents, tokenise
from recipes.clevr.training.model import (
    Epsilon,
    Teacher,
    Velocity,
    assemble,
    build_networks,
    build_scheduler,
    export_pipeline,
    sample,
)
from recipes.clevr.training.tokenizer import build_tokenizer

SETTINGS = DiffusionSettings(
    budget=Budget(max_steps=4, warmup_steps=1),
    channels=(8, 16),
    attention=(False, True),
    heads=2,
    text_width=16,
    text_layers=1,
    batch=4,
    captions=2,
    dropout=0.25,
    precision="32-true",
    save_every=2,
)
CPU = torch.device("cpu")

FILMS = Films(fps=12, format="none")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return load_records(write_discs(tmp_path_factory.mktemp("frames"), seed=0, count=10))


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    settings = AutoencoderSettings(budget=Budget(max_steps=1), channels=(8, 8, 8), resolution=32)
    return build_autoencoder(settings).eval().requires_grad_(False)


@pytest.fixture
def training(tmp_path, records, tokenizer, autoencoder):
    """Makes a training with settings that differ from `SETTINGS`."""

    def make(folder=tmp_path, **changes):
        settings = replace(SETTINGS, **changes)
        tokens, empty = tokenise(records, tokenizer, variants=settings.captions, drop=0.2, seed=0)
        latents = torch.randn(20, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        return DiffusionTraining(
            settings=settings,
            data=CaptionedLatents(latents=torch.cat([latents[:7], latents[10:17]]), tokens=tokens[:7], empty=empty),
            held_out=CaptionedLatents(latents=latents[7:10], tokens=tokens[7:], empty=empty),
            autoencoder=autoencoder,
            tokenizer=tokenizer,
            prompts=["a red cube"],
            seed=0,
            folder=folder,
        )

    return make


def run_in(folder):
    options = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    return Run(folder=folder, seed=0, logger=RunLogger(), trainer_options=options, config={}, films=FILMS)


def test_the_noise_is_predicted_on_the_schedule_that_ships():
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noised = Epsilon(gamma=5.0).noised(latents, noise, torch.tensor([0.0, 0.25, 0.9999]))
    assert noised.times.tolist() == [0, 250, 999]
    assert torch.equal(noised.targets, noise)
    expected = build_scheduler("epsilon").add_noise(latents, noise, noised.times)
    assert torch.allclose(noised.inputs, expected, atol=1e-6)
    signal = build_scheduler("epsilon").alphas_cumprod[noised.times]
    assert torch.allclose(
        noised.weights, torch.minimum(signal / (1 - signal), torch.tensor(5.0)) * (1 - signal) / signal
    )


def test_the_velocity_leads_from_noise_to_the_latent():
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([0.0, 0.3, 0.999])
    noised = Velocity().noised(latents, noise, places)
    assert torch.allclose(noised.inputs - places[:, None, None, None] * noised.targets, latents, atol=1e-6)
    # as the scheduler that ships mixes them, and as it tells the network the time
    scheduler = build_scheduler("velocity")
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    scheduler.set_timesteps(sigmas=[0.3], device="cpu")
    assert float(scheduler.timesteps[0]) == pytest.approx(float(noised.times[1]))
    assert torch.allclose(scheduler.scale_noise(latents[1:2], scheduler.timesteps, noise[1:2]), noised.inputs[1:2])
    assert noised.weights.tolist() == [1.0, 1.0, 1.0]


def test_a_teacher_of_the_noise_gives_the_expected_velocity(training, tmp_path, autoencoder, tokenizer, monkeypatch):
    """Of latents from N(0, 4): E[v | x] = (t - 4 (1 - t)) x / (4 (1 - t)^2 + t^2), whatever the caption."""
    networks = build_networks(SETTINGS, autoencoder, tokenizer).eval()
    pipeline = assemble(autoencoder, networks["unet"], networks["text_encoder"], tokenizer, build_scheduler())
    export_pipeline(pipeline, tmp_path / "model")
    teacher = Teacher(str(tmp_path / "model"))
    signal = build_scheduler().alphas_cumprod.double()

    def expected_noise(module, inputs, times, states):
        level = np.interp(times.numpy(), np.arange(1000), (signal / (1 - signal)).log().numpy())
        share = torch.from_numpy(level).sigmoid()[:, None, None, None]
        noise = (1 - share).sqrt() * inputs / (4 * share + 1 - share)
        return SimpleNamespace(sample=noise)

    monkeypatch.setattr(UNet2DConditionModel, "forward", expected_noise)
    latents, noise = torch.randn(2, 6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([0.01, 0.04, 0.3, 0.6, 0.89, 0.95])
    noised = Velocity().noised(2 * latents, noise, places)
    tokens = tokenizer(["a red cube"] * 6, padding="max_length", return_tensors="pt").input_ids
    found = teacher.targets(noised, tokens)
    t = places[:, None, None, None]
    expected = (t - 4 * (1 - t)) * noised.inputs / (4 * (1 - t) ** 2 + t**2)
    assert torch.allclose(found[1:5], expected[1:5], atol=1e-4)
    assert torch.equal(found[[0, 5]], noised.targets[[0, 5]])
    with pytest.raises(UserError, match="task.diffusion.teacher cannot be read from"):
        training(prediction="velocity", teacher=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="a teacher gives the targets of velocity alone"):
        training(teacher=str(tmp_path / "model"))


def test_captions_are_tokenised_once_and_are_true_of_frames_and_of_their_mirror_images(records, tokenizer):
    tokens, empty = tokenise(records, tokenizer, variants=3, drop=0.0, seed=0)
    data = CaptionedLatents(latents=torch.zeros(20, 4, 2, 2), tokens=tokens, empty=empty)
    chosen, variants = torch.tensor([3, 13, 4]), torch.tensor([1, 1, 0])
    found = data.captions(chosen, variants=variants, empty=torch.tensor([False, False, True]))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[2], empty)
    scene = ClevrScene.from_dict(records[3]["scene"])
    orders = [list(range(len(scene.objects))), list(range(len(scene.objects)))[::-1]]
    possible = tokenizer([caption(scene, order=order) for order in orders], padding="max_length").input_ids
    assert found[0].tolist() in possible
    # a frame's captions depend on its place and not on what else there is
    assert torch.equal(tokenise(records[:4], tokenizer, variants=3, drop=0.0, seed=0)[0], tokens[:4])
    with pytest.raises(ValueError, match="19 latents and captions of 10 frames"):
        CaptionedLatents(latents=torch.zeros(19, 4, 2, 2), tokens=tokens, empty=empty)


def test_dropout_is_in_the_residual_blocks_of_training_and_in_nothing_that_is_measured_or_ships(training):
    module = training()
    shares = {part.p for part in module.trained["unet"].modules() if isinstance(part, torch.nn.Dropout)}
    assert 0.25 in shares
    assert {part.p for part in module.best["unet"].modules() if isinstance(part, torch.nn.Dropout)} == {0.0}
    assert module.trained["unet"].config.dropout == 0.0
    assert module.measure() == module.measure()


def test_the_measured_error_is_that_of_the_averaged_weights(training):
    module = training()
    for network in (module.averaged, module.trained):
        torch.nn.init.zeros_(network["unet"].conv_out.weight)
        torch.nn.init.zeros_(network["unet"].conv_out.bias)
    found = module.measure()
    # a network that answers 0 is wrong by the noise's own square, 1 on average, of 3 * 256 values here
    assert found.held_out_error == pytest.approx(1.0, abs=5 * math.sqrt(2 / 768))
    assert found.held_out_error == found.training_error, "the same noise for both"
    assert found.held_out_loss < found.held_out_error
    module.trained["unet"].conv_out.bias.data += 5.0
    assert module.measure() == found


def test_the_weights_with_the_least_loss_held_out_are_kept_and_training_ends_when_it_rises(training, tmp_path):
    class Rising(DiffusionTraining):
        seen: list = []

        def measure(self):
            self.seen.append({name: weight.clone() for name, weight in self.averaged.state_dict().items()})
            return AverageErrors([3.0, 2.0, 2.5, 2.5, 1.0][len(self.seen) - 1], 0.4, 0.3, 0.2)

    budget = Budget(max_steps=5, warmup_steps=1)
    module = training(budget=budget, measure_every=1, patience=2, show_every=100, save_every=100)
    module.__class__ = Rising
    fit(module, run=run_in(tmp_path))
    assert len(Rising.seen) == 4, "it ended after two measurements that were no better"
    lines = [json.loads(line) for line in (tmp_path / "figures.jsonl").read_text().splitlines()]
    assert [(line["step"], line["diffusion/held_out_loss"]) for line in lines] == [
        (1, 3.0),
        (2, 2.0),
        (3, 2.5),
        (4, 2.5),
    ]
    assert all(torch.equal(Rising.seen[1][name], weight) for name, weight in module.best.state_dict().items())
    assert module.kept() == pytest.approx(
        {"step": 2, "held_out_loss": 2.0, "held_out_error": 0.4, "training_loss": 0.3, "training_error": 0.2}
    )


def trained_on_device(module):
    minutes = fit_on_device(module, device=CPU)
    assert minutes > 0
    return module.state_dict()


def test_one_devices_loop_goes_on_where_it_was_killed(training, tmp_path, monkeypatch):
    plain = {"show_every": 100, "measure_every": 3}
    whole = trained_on_device(training(tmp_path / "whole", **plain))
    steps = DeviceStep.run

    def killed(self, *, factor, step):
        if step == 3:
            raise RuntimeError("killed")
        steps(self, factor=factor, step=step)

    monkeypatch.setattr(DeviceStep, "run", killed)
    with pytest.raises(RuntimeError, match="killed"):
        trained_on_device(training(tmp_path / "parts", **plain))
    monkeypatch.setattr(DeviceStep, "run", steps)
    resumed = trained_on_device(training(tmp_path / "parts", **plain))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert int(whole["best_step"]) in (3, 4)
    before = training(**plain).trained.state_dict()
    assert not torch.equal(whole["trained.unet.conv_in.weight"], before["unet.conv_in.weight"])


def test_one_devices_step_is_lightnings_step_on_the_same_samples(training, tmp_path, monkeypatch):
    plain = {"show_every": 100, "measure_every": 100, "dropout": 0.0, "budget": Budget(max_steps=2, warmup_steps=1)}
    drawn, lightning = [], training(tmp_path / "fit", **plain, save_every=100)
    draw = DiffusionTraining.draw
    monkeypatch.setattr(DiffusionTraining, "draw", lambda self: drawn.append(draw(self)) or drawn[-1])
    fit(lightning, run=run_in(tmp_path))
    queue = iter(drawn)
    monkeypatch.setattr(DeviceStep, "_draw", lambda self: next(queue))
    other = training(tmp_path / "device", **plain)
    fit_on_device(other, device=CPU)
    for name, weight in lightning.averaged.state_dict().items():
        assert torch.allclose(other.averaged.state_dict()[name], weight, atol=1e-6), name


def test_training_starts_from_a_model_and_measures_it_first(training, tmp_path, autoencoder, tokenizer):
    networks = build_networks(SETTINGS, autoencoder, tokenizer).eval()
    pipeline = assemble(autoencoder, networks["unet"], networks["text_encoder"], tokenizer, build_scheduler("velocity"))
    export_pipeline(pipeline, tmp_path / "model")
    module = training(start_from=str(tmp_path / "model"), prediction="velocity", measure_every=100, show_every=100)
    for name, weight in networks.state_dict().items():
        assert torch.allclose(module.averaged.state_dict()[name].float(), weight.float(), atol=2e-3), name
    trained_on_device(module)
    assert int(module.best_step) in (0, 4)
    with pytest.raises(UserError, match="Training cannot start from.*task.diffusion.start_from"):
        training(start_from=str(tmp_path / "model"), channels=(8, 32))
    with pytest.raises(UserError, match="Training cannot start from"):
        training(start_from=str(tmp_path / "nothing"))


def test_the_folder_of_a_flow_holds_the_parts_and_the_flows_scheduler(tmp_path, autoencoder, tokenizer):
    networks = build_networks(SETTINGS, autoencoder, tokenizer).eval()
    export_pipeline(
        assemble(autoencoder, networks["unet"], networks["text_encoder"], tokenizer, build_scheduler("velocity")),
        tmp_path / "flow",
    )
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "flow", dtype=torch.float32, local_files_only=True)
    assert isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler)
    assert pipeline.scheduler.config.shift == 1.0
    settings = json.loads((tmp_path / "flow" / "scheduler" / "scheduler_config.json").read_text())
    assert settings["prediction_type"] == "flow_prediction"
    images = sample(pipeline, ["a red cube", "a blue sphere"], seed=0, steps=2, guidance=2.0)
    assert images.shape == (2, 3, 32, 32)
    # an image is that of its number, whatever else is in the batch
    second = sample(pipeline, ["a blue sphere"], seed=0, steps=2, guidance=2.0, first=1)
    assert torch.allclose(images[1], second[0], atol=1e-5)


def test_a_folder_does_not_say_where_its_given_autoencoder_was_read(tmp_path, autoencoder, tokenizer):
    networks = build_networks(SETTINGS, autoencoder, tokenizer).eval()
    for folder in (tmp_path / "first", tmp_path / "second"):
        pipeline = assemble(
            autoencoder, networks["unet"], networks["text_encoder"], tokenizer, build_scheduler("velocity")
        )
        export_pipeline(pipeline, folder)
        autoencoder = given_autoencoder(folder)
    for file in (tmp_path / "second").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(), file


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_flow_is_followed_from_noise_to_none(guidance):
    """With the velocity c + t d, Euler steps add up exactly: x_0 = x_1 - sum over steps of h (c + t d)."""
    steps, asked = 4, []

    def velocity(latents, time, states):
        asked.append(float(time))
        slope = torch.where(states[:, 0, 0] > 0, 1.0, 0.25)[:, None, None, None]
        return SimpleNamespace(sample=(slope * float(time) / 1000).expand_as(latents))

    velocity.config = SimpleNamespace(sample_size=2, in_channels=4)
    decode = SimpleNamespace(
        config=SimpleNamespace(scaling_factor=1.0), decode=lambda latents: SimpleNamespace(sample=latents / 100)
    )
    pipeline = SimpleNamespace(
        unet=velocity,
        vae=decode,
        scheduler=build_scheduler("velocity"),
        device=CPU,
        set_progress_bar_config=lambda disable: None,
        encode_prompt=lambda prompts, device, count, guided: (
            torch.ones(len(prompts), 1, 1),
            -torch.ones(len(prompts), 1, 1) if guided else None,
        ),
    )
    images = sample(pipeline, ["a"], seed=0, steps=steps, guidance=guidance)
    times = [1 - step / steps for step in range(steps)]
    assert asked == pytest.approx([1000 * time for time in times])
    slope = 1.0 if guidance == 1 else 0.25 + guidance * 0.75
    from recipes.clevr.training.frames import step_generator

    noise = torch.randn(1, 4, 2, 2, generator=step_generator(seed=0, step=0))
    expected = noise - slope * sum(times) / steps
    assert torch.allclose(images, expected / 200 + 0.5, atol=1e-6)
