"""Plausible latents: levels, shell and misclosure, on densities that are known."""

import math

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics.plausibility import PlausibilityCurves, RealLatents

SIZE = 64


class Swirl(lg.ScoreField):
    """The score of a Gaussian, and a rotation that is the gradient of nothing."""

    def __init__(self, strength):
        self.strength = strength

    def score(self, x, u):
        rotated = torch.cat([-x[..., SIZE // 2 :], x[..., : SIZE // 2]], -1)
        return -x + self.strength * rotated


class Known:
    """As much of a model as the reference asks for."""

    def __init__(self, strength=0.0):
        self.strength = strength

    def sigma(self, tau):
        return 0.5

    def condition(self, prompts):
        return torch.zeros(len(prompts), 1, 1)

    def field(self, **options):
        return Swirl(self.strength)


def real(strength=0.0):
    latents = torch.randn(8, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return latents, RealLatents(model=Known(strength), latents=latents, tau=0.6)


def test_levels_are_log_densities_above_the_median():
    latents, reference = real()
    exact = -latents.square().sum(-1) / 2
    torch.testing.assert_close(reference.levels, exact - exact.median(), rtol=1e-9, atol=1e-9)
    assert reference.misclosure == pytest.approx(0, abs=1e-9)
    assert reference.least_level == pytest.approx(float(reference.levels.min()), abs=1e-9)
    torch.testing.assert_close(reference.norms, latents.norm(dim=-1) / math.sqrt(SIZE))
    torch.testing.assert_close(reference.noises, 0.5 * reference.norms)


def test_a_score_that_is_no_gradient_is_allowed_for():
    reference = real(0.2)[1]
    assert reference.misclosure > 1
    assert reference.least_level == pytest.approx(float(reference.levels.min()) - reference.misclosure)


def test_a_path_is_followed_from_real_latents_to_where_none_is():
    latents, reference = real()
    start = latents[int(reference.levels.argmax())][None]
    curves = reference.follow(lg.StraightLine(x0=start, x1=2 * start))
    median = (-latents.square().sum(-1) / 2).median()
    exact = -((1 + curves.u) ** 2) * start.square().sum() / 2 - median
    torch.testing.assert_close(curves.level[0], exact, rtol=1e-6, atol=1e-6)
    lost = (curves.level[0] < reference.least_level) | (curves.norm[0] > reference.shell[1])
    assert torch.equal(curves.plausible[0], ~lost)
    assert 0 < float(curves.until[0]) < 0.5


def test_the_shell_alone_can_be_left():
    latents, reference = real()
    inward = reference.follow(lg.StraightLine(x0=latents[:1], x1=0.1 * latents[:1]))
    assert bool((inward.level[0] >= reference.levels.min()).all())
    assert float(inward.until[0]) < 1


def test_until_is_the_last_position_before_the_first_loss():
    u = torch.linspace(0, 1, 5, dtype=torch.float64)
    plausible = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0], [0, 1, 1, 1, 1]], dtype=torch.bool)
    blank = torch.zeros(3, 5, dtype=torch.float64)
    until = PlausibilityCurves(u=u, level=blank, norm=blank, noise=blank, plausible=plausible).until
    assert until[:2].tolist() == [1.0, 0.25]
    assert math.isnan(until[2])


def test_too_few_reference_images_are_refused():
    with pytest.raises(UserError, match="at least 4 reference images"):
        RealLatents(model=Known(), latents=torch.randn(3, SIZE), tau=0.6)
