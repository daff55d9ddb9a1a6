"""Re-timing: equal perceptual steps, for every method that can be drawn anywhere."""

import pytest
import torch
from baselines import FRAMES, encoded_pairs, gentle_model, positions

from latent_geodesics.core.errors import UserError
from latent_geodesics.methods import CrossFade, LinearCombination, PerceptualTiming, Retimed, Slerp


@pytest.fixture(scope="module")
def pairs(tiny_model_folder):
    return encoded_pairs(gentle_model(tiny_model_folder, refinements=0))


def brightness(a, b):
    return (a - b).abs().mean(dim=(1, 2, 3))


def squared(a, b):
    return (a - b).square().mean(dim=(1, 2, 3))


def drawing(curve):
    return lambda u: curve(u)[:, None, None, None].expand(-1, 3, 4, 4)


def steps(draw, u):
    frames = draw(u)
    return brightness(frames[:-1], frames[1:])


@pytest.mark.parametrize("curve", [torch.square, torch.sqrt, lambda u: torch.sin(torch.pi / 2 * u) ** 4])
def test_the_steps_become_even(curve):
    u, draw = positions(17), drawing(curve)
    before = steps(draw, u).std()
    once = PerceptualTiming(distance=brightness).positions(draw, u)
    often = PerceptualTiming(distance=brightness, passes=4).positions(draw, u)
    assert steps(draw, once).std() < 0.4 * before
    assert steps(draw, often).std() < 0.05 * before
    for found in (once, often):
        assert found[0] == 0
        assert found[-1] == 1
        assert bool((found.diff() >= 0).all())


def test_a_squared_distance_wants_the_power_one_half():
    u, draw = positions(17), drawing(torch.square)
    half = PerceptualTiming(distance=squared, power=0.5).positions(draw, u)
    torch.testing.assert_close(half, PerceptualTiming(distance=brightness).positions(draw, u))
    whole = PerceptualTiming(distance=squared).positions(draw, u)
    assert steps(draw, half).std() < steps(draw, whole).std()


def test_an_even_or_constant_sequence_is_left_as_it_is():
    u = positions(9)
    timing = PerceptualTiming(distance=brightness)
    torch.testing.assert_close(timing.positions(drawing(lambda u: u), u), u)
    assert torch.equal(timing.positions(drawing(torch.zeros_like), u), u)


@pytest.mark.parametrize("options", [{"power": 0}, {"power": float("nan")}, {"passes": 0}])
def test_senseless_settings_are_refused(options):
    with pytest.raises(UserError, match="perceptual timing"):
        PerceptualTiming(distance=brightness, **options)


def test_a_method_that_cannot_be_drawn_anywhere_is_refused():
    with pytest.raises(UserError, match="CrossFade cannot be drawn at positions"):
        Retimed(method=CrossFade(), timing=PerceptualTiming(distance=brightness))


@pytest.mark.parametrize("method", [Slerp(), LinearCombination()])
def test_a_retimed_path_is_the_same_path_at_other_positions(pairs, method):
    u = positions()
    plain = method.morph(pairs, u)
    retimed = Retimed(method=method, timing=PerceptualTiming(distance=brightness)).morph(pairs, u)
    torch.testing.assert_close(retimed.frames[:, [0, -1]], plain.frames[:, [0, -1]], rtol=0, atol=1e-4)
    middle = torch.tensor([0.5], dtype=torch.float64)
    assert torch.equal(retimed.solution.path.point(middle), plain.solution.path.point(middle))
    # The trial sequence is drawn as well as the final one.
    assert retimed.unet_calls == 2 * plain.unet_calls == 2 * FRAMES * 3
