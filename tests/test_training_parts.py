"""The parts of the recipe that have a closed form or a property: order of samples, budget, weights, times,
whitening, judging."""

import dataclasses
import json

import pytest
import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.images import psnr
from latent_geodesics.models.attributes import DetectedObject
from recipes.clevr.training.attributes import confirms
from recipes.clevr.training.autoencoder import (
    AutoencoderSettings,
    build_autoencoder,
    encode_means,
    foreground_weight,
    latent_moments,
    reconstruct,
    whiten,
)
from recipes.clevr.training.diffusion import even_places
from recipes.clevr.training.evaluation import (
    EvaluationSettings,
    captioned_grid,
    confirmed_shares,
    draw_prompts,
    judge_figures,
    write_model_card,
)
from recipes.clevr.training.fit import Budget, image_grid
from recipes.clevr.training.frames import Frames, sample_places, step_generator


def test_an_epoch_visits_every_item_once():
    steps = [(step, rank) for step in range(3) for rank in range(2)]
    drawn = [sample_places(24, seed=3, step=step, batch=4, rank=rank, world=2) for step, rank in steps]
    assert sorted(torch.cat(drawn).tolist()) == list(range(24))


def test_order_depends_on_seed_and_step_alone():
    first = sample_places(50, seed=0, step=7, batch=8)
    sample_places(50, seed=0, step=0, batch=8)
    assert torch.equal(first, sample_places(50, seed=0, step=7, batch=8))
    assert not torch.equal(first, sample_places(50, seed=1, step=7, batch=8))


def test_processes_draw_different_noise_and_repeat_it():
    draws = {rank: torch.randn(4, generator=step_generator(seed=0, step=5, rank=rank)) for rank in (0, 1)}
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], torch.randn(4, generator=step_generator(seed=0, step=5, rank=0)))


def test_frames_split_keeps_the_last_ones_out():
    frames = Frames(images=torch.zeros(5, 3, 8, 8, dtype=torch.uint8), records=[{"index": i} for i in range(5)])
    training, held_out = frames.split(2)
    assert [record["index"] for record in training.records] == [0, 1, 2]
    assert [record["index"] for record in held_out.records] == [3, 4]
    with pytest.raises(UserError, match="held_out is 5"):
        frames.split(5)


def test_the_rate_warms_up_stays_and_decays_to_the_floor():
    budget = Budget(max_steps=100, warmup_steps=9, decay_from=0.5, floor=0.1)
    rates = [budget.factor(step=step, progress=budget.progress(step=step, minutes=0)) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:51] == pytest.approx([1.0] * 41)
    assert all(later < earlier for earlier, later in zip(rates[51:], rates[52:], strict=False))
    assert rates[-1] == pytest.approx(0.1)


def test_with_a_time_limit_the_decay_ends_with_the_time():
    budget = Budget(max_steps=10**6, max_minutes=10, warmup_steps=0)
    assert budget.progress(step=50, minutes=10) == 1.0
    assert budget.progress(step=50, minutes=5) == pytest.approx(0.5)
    assert Budget(max_steps=100).progress(step=50, minutes=1e9) == pytest.approx(0.5)


@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"max_minutes": 0.0}, {"decay_from": 1.0}, {"floor": -0.1}])
def test_a_wrong_budget_is_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        Budget(**({"max_steps": 10} | wrong))


def test_times_cover_all_noise_levels():
    places = even_places(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal((50 * places).floor(), torch.arange(50.0))
    assert float(places.max()) < 1


def test_the_foreground_weighs_more():
    images = torch.full((1, 3, 16, 16), 0.5)
    assert torch.allclose(foreground_weight(images, chroma=5, edge=5), torch.ones(1, 1, 16, 16))
    images[:, 0, 8, 8] = 1.0
    weight = foreground_weight(images, chroma=5, edge=5)
    assert float(weight[0, 0, 8, 8]) >= 3.5
    assert float(weight[0, 0, 0, 0]) == 1.0


def test_psnr_of_a_constant_error():
    a = torch.zeros(2, 3, 4, 4)
    assert torch.allclose(psnr(a, a + 0.1), torch.full((2,), 20.0, dtype=torch.float64))


def test_whitening_changes_the_latents_and_not_the_images():
    torch.manual_seed(0)
    settings = AutoencoderSettings(budget=Budget(max_steps=1), channels=(8, 8, 8), resolution=16)
    autoencoder = build_autoencoder(settings).eval()
    images = torch.randint(0, 256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    before = reconstruct(autoencoder, images / 255)
    whiten(autoencoder, latent_moments(autoencoder, images))
    assert float((reconstruct(autoencoder, images / 255) - before).abs().max()) < 1e-5
    places = encode_means(autoencoder, images).transpose(0, 1).flatten(1)
    assert torch.allclose(places.mean(1), torch.zeros(4), atol=1e-4)
    assert torch.allclose(torch.cov(places), torch.eye(4), atol=1e-3)
    assert autoencoder.config.scaling_factor == 1.0


def test_a_constant_channel_cannot_be_whitened():
    settings = AutoencoderSettings(budget=Budget(max_steps=1), channels=(8, 8), resolution=16)
    autoencoder = build_autoencoder(settings)
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    moments = latent_moments(autoencoder, images)
    with pytest.raises(ValueError, match="constant"):
        whiten(autoencoder, dataclasses.replace(moments, covariance=torch.zeros(4, 4)))


def test_prompts_name_one_to_three_objects_in_turn():
    prompts = draw_prompts(count=7, seed=5)
    assert [len(item["objects"]) for item in prompts] == [1, 2, 3, 1, 2, 3, 1]
    for item in prompts:
        for thing in item["objects"]:
            assert f"a {thing['size']} {thing['color']} {thing['material']} {thing['shape']}" in item["caption"]
    assert [item["caption"] for item in draw_prompts(count=2, seed=5, most=2)] == [
        item["caption"] for item in prompts[:2]
    ]


def test_confirmed_shares_are_those_of_each_number_of_objects():
    prompts = draw_prompts(count=6, seed=5)

    class Judge:
        """Sees all that was asked for, but in picture 3 one thing less and in picture 1 one of another size."""

        def detect(self, images):
            seen_objects = [[seen(**thing) for thing in item["objects"]] for item in prompts]
            del seen_objects[2][0]
            first = prompts[0]["objects"][0]
            seen_objects[0][0] = seen(**{**first, "size": "small" if first["size"] == "large" else "large"})
            return seen_objects

    shares = confirmed_shares(torch.zeros(6, 3, 8, 8), prompts, Judge())
    assert shares == pytest.approx(
        {
            "confirmed": 5 / 6,
            "confirmed_one": 1.0,
            "confirmed_two": 1.0,
            "confirmed_three": 0.5,
            "confirmed_all_attributes": 4 / 6,
            "right_count": 5 / 6,
        }
    )


@pytest.mark.parametrize("wrong", [{"prompts": 0}, {"most_objects": 4}, {"sweep": (), "guidance": None}])
def test_a_wrong_evaluation_is_refused(wrong):
    with pytest.raises(ValueError, match="must be|give a guidance"):
        EvaluationSettings(**wrong)


@pytest.mark.parametrize(("width", "shown"), [(64, 128), (128, 128)])
def test_pictures_are_shown_at_least_128_wide(width, shown):
    page = captioned_grid(torch.rand(3, 3, width, width), ["a, b and c"] * 3, columns=2)
    assert page.size == (2 * (shown + 4), 2 * (shown + 36 + 4))


@pytest.mark.parametrize("prediction", ["epsilon", "velocity"])
def test_the_card_says_what_was_measured_and_how_it_was_trained(tmp_path, prediction):
    figures = {
        "psnr": 40.6, "perceptual_clevr": 0.05, "read_right_frames": 0.99, "read_right_reconstructions": 0.98,
        "held_out": 500.0, "confirmed": 0.9, "confirmed_one": 0.96, "confirmed_two": 0.88, "confirmed_three": 0.75,
        "confirmed_all_attributes": 0.85, "right_count": 0.95, "confirmed_guidance_3": 0.91, "guidance": 3.0,
        "prompts": 256.0, "samples": 768.0, "sweep_prompts": 64.0, "steps": 50.0, "side": 128.0,
        "weights_bytes": 31e6, "diffusion/minutes": 77.0, "diffusion/step": 3000.0, "diffusion/held_out_loss": 0.03,
        "diffusion/held_out_error": 0.2345, "diffusion/training_loss": 0.03, "diffusion/training_error": 0.2222,
        "attributes/accuracy_color_shape": 0.992, "attributes/accuracy_all": 0.99, "attributes/held_out": 500.0,
    }  # fmt: skip
    write_model_card(tmp_path / "m", figures, seed=0, prediction=prediction, notes="Made on a Tuesday.")
    card = (tmp_path / "m" / "README.md").read_text()
    assert json.loads((tmp_path / "m" / "metrics.json").read_text()) == figures
    for line in (
        "# m\n", "one to three objects, 128 x 128 pixels", "| ... of 256 prompts with one object | 96.0% |",
        "| ... of 256 prompts with three objects | 75.0% |", "| 0.2345 / 0.2222 |", "Made on a Tuesday.",
        "an autoencoder that was there before, U-Net and text encoder 77 min.", "that of step 3000",
    ):  # fmt: skip
        assert line in card, line
    assert ("Euler steps" in card) == (prediction == "velocity")
    assert ("sample(pipeline" in card) == (prediction == "velocity")


def test_a_judge_without_figures_is_told(tmp_path):
    with pytest.raises(UserError, match="run stage 'attributes' first"):
        judge_figures(tmp_path)


def test_a_grid_is_bytes_in_rows():
    grid = image_grid(torch.rand(5, 3, 4, 6), columns=3)
    assert grid.dtype.name == "uint8"
    assert grid.shape == (4 + 2 + 4, 6 + 2 + 6 + 2 + 6, 3)
    assert (grid[6:, 16:] == 255).all()


def seen(color, shape, size="large", material="metal", pixel=(0.5, 0.5)):
    return DetectedObject(
        color=color, shape=shape, size=size, material=material, position=(0, 0), pixel=pixel, confidence=0.9
    )


def test_a_picture_is_confirmed_by_exactly_the_objects_asked_for():
    wanted = [{"color": "red", "shape": "cube", "size": "small"}, {"color": "blue", "shape": "sphere", "size": "large"}]
    found = [seen("blue", "sphere"), seen("red", "cube")]
    assert confirms(wanted, found)
    assert not confirms(wanted, found[:1])
    assert not confirms(wanted, [*found, seen("red", "cube")])
    assert not confirms(wanted, [seen("red", "sphere"), seen("blue", "cube")])
    assert not confirms(wanted, found, ("color", "shape", "size"))
