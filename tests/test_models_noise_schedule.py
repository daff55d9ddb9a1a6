"""The noise schedule against the definition of the diffusion process and against diffusers' own DDIM scheduler."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.noise_schedule import NoiseSchedule

STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def schedule(prediction="epsilon", steps=50):
    return NoiseSchedule.from_scheduler(
        DDIMScheduler(**STABLE_DIFFUSION, clip_sample=False, prediction_type=prediction), steps
    )


def test_the_published_noise_levels_stand_for_the_published_times():
    levels = schedule()
    assert levels.time(levels.level(0.6)) == 581
    assert levels.time(levels.level(0.7)) == 681
    assert levels.sigma(torch.tensor([581])).item() == pytest.approx(0.9056, abs=1e-4)


def test_levels_are_rounded_and_start_at_the_clean_latent():
    levels = schedule()
    assert levels.level(0.58) == 29
    assert levels.level(0.0) == 0
    assert levels.time(0) == 0
    assert levels.signal_at_level(0) == pytest.approx(0.99915, abs=1e-5)
    assert levels.level(0.999) == levels.steps == 50


@pytest.mark.parametrize("tau", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_a_noise_level_outside_its_range_is_refused(tau):
    with pytest.raises(UserError, match=r"tau must lie in \[0, 1\)"):
        schedule().level(tau)


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_a_senseless_number_of_steps_is_refused(steps):
    with pytest.raises(UserError, match="steps must be a whole number from 1 to 1000"):
        schedule(steps=steps)


def test_signal_and_noise_make_one():
    levels = schedule()
    t = torch.arange(levels.training_times)
    torch.testing.assert_close(levels.abar(t) + levels.sigma(t).square(), torch.ones(1000))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_network_gives_back_the_noise_and_the_clean_latent(prediction):
    levels = schedule(prediction)
    rng = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, 6, 5, generator=rng)
    t = torch.tensor([0, 1, 200, 581, 900, 999])
    x, output = levels.diffuse(x0, noise, t), levels.target(x0, noise, t)
    torch.testing.assert_close(levels.noise(x, output, t), noise, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(levels.clean(x, output, t), x0, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_conversions_agree_with_a_step_of_the_library(prediction):
    scheduler = DDIMScheduler(**STABLE_DIFFUSION, clip_sample=False, prediction_type=prediction)
    scheduler.set_timesteps(50)
    levels = NoiseSchedule.from_scheduler(scheduler, 50)
    x, output = torch.randn(2, 1, 7, generator=torch.Generator().manual_seed(2))
    expected = scheduler.step(output, 581, x).prev_sample
    t, below = torch.tensor([581]), levels.signal_at_level(29)
    step = below**0.5 * levels.clean(x, output, t) + (1 - below) ** 0.5 * levels.noise(x, output, t)
    torch.testing.assert_close(step, expected, rtol=1e-5, atol=1e-6)


def test_the_scheduler_that_stable_diffusion_1_ships_with_gives_the_same_levels():
    shipped = PNDMScheduler(**STABLE_DIFFUSION, skip_prk_steps=True)
    assert NoiseSchedule.from_scheduler(shipped, 50).times == schedule().times


@pytest.mark.parametrize(("ending", "noise"), [({}, 0.0), ({"final_sigmas_type": "sigma_min"}, 0.00085)])
def test_the_last_step_leads_to_where_the_sampler_s_own_does(ending, noise):
    """SDXL's folder names a setting of DDIM's beside Euler's scheduler, which does not read it."""
    euler = EulerDiscreteScheduler.from_config(STABLE_DIFFUSION | {"timestep_spacing": "leading"} | ending)
    assert euler.config.set_alpha_to_one is False
    levels = NoiseSchedule.from_scheduler(euler, 5)
    assert levels.signal_at_level(0) == pytest.approx(1 - noise, abs=1e-7)
    euler.set_timesteps(5)
    torch.testing.assert_close(euler.timesteps.flip(0), torch.tensor(levels.times, dtype=torch.float32))
    amounts = [levels.amounts(level) for level in range(5, -1, -1)]
    torch.testing.assert_close(
        euler.sigmas.double(), torch.tensor([s / a for a, s in amounts]).double(), rtol=1e-5, atol=0
    )


def test_betas_that_are_no_noise_are_refused():
    with pytest.raises(UserError, match=r"betas outside \[0, 1\]: correct beta_start"):
        NoiseSchedule.from_scheduler(DDIMScheduler(num_train_timesteps=3, trained_betas=[0.1, 1.5, 0.3]), 2)


def test_an_unknown_kind_of_prediction_is_refused():
    with pytest.raises(UserError, match="predicts 'score', which is not supported"):
        NoiseSchedule(signal=torch.tensor([0.9]), clean_signal=0.9, times=(0,), prediction="score")


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize(("training", "steps"), [(1000, 1000), (1000, 999), (1000, 998), (1000, 501), (50, 31), (3, 1)])
def test_as_many_times_as_steps_all_of_them_trained(spacing, offset, training, steps):
    options = {"num_train_timesteps": training, "timestep_spacing": spacing, "steps_offset": min(offset, training - 1)}
    times = NoiseSchedule.from_scheduler(DDIMScheduler(**options), steps).times
    assert len(times) == steps
    assert list(times) == sorted(set(times))
    assert times[0] >= 0
    assert times[-1] < training


def test_all_training_times_are_visited_where_there_are_as_many_steps():
    assert schedule(steps=1000).times == tuple(range(1000))
