import math

import pytest
import torch

import latent_geodesics as lg

MIXTURE = lg.GaussianMixture(
    means=torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.5, 0.0]], dtype=torch.float64),
    scales=torch.tensor([0.6, 0.9], dtype=torch.float64),
)


def knots(count=9, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0, x1, bump = (torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    u = torch.linspace(0, 1, count, dtype=torch.float64)[:, None]
    return torch.lerp(x0[:, None], x1[:, None], u) + 0.3 * bump[:, None] * torch.sin(math.pi * u)


def wavy(manifold, *, seed=0):
    return lg.KnotPath.through(knots=manifold.project(knots(seed=seed)), manifold=manifold)


class ToTheEnd(lg.ScoreField):
    """A score that varies along the path: `u` times a constant."""

    def score(self, x, u):
        return u[..., None] * torch.ones_like(x)


def test_length_of_a_straight_line_in_the_half_space():
    x0, x1 = torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([[0.0, 5.0]], dtype=torch.float64)
    path = lg.StraightLine(x0=x0, x1=x1)
    for alpha, expected in ((0.0, 4.0), (1.0, math.log(5)), (2.0, 0.8)):
        assert abs(float(lg.geometry.length(path, lg.HalfSpace(), alpha)) / expected - 1) < 1e-12


def test_relative_log_density_is_the_difference_of_log_densities():
    path = wavy(lg.Euclidean())
    u = torch.tensor([0.9, 0.0, 0.3, 1.0], dtype=torch.float64)
    x = path.point(u)
    log_p = MIXTURE.log_prob(x, x[..., 0])
    found = lg.geometry.relative_log_density(path, MIXTURE, u, order=8)
    torch.testing.assert_close(found, log_p - log_p[:, 1:2], atol=1e-6, rtol=1e-6)
    at_start = lg.geometry.relative_log_density(path, MIXTURE, torch.zeros(2))
    assert torch.equal(at_start, torch.zeros(2, 2, dtype=torch.float64))


def test_relative_log_density_of_a_score_that_varies_along_the_path():
    x0, x1 = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    path = lg.StraightLine(x0=x0, x1=x1)
    found = lg.geometry.relative_log_density(path, ToTheEnd(), torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(found, torch.tensor([[3 / 8, 3 / 2]], dtype=torch.float64))


def test_relative_length_is_the_length_in_units_of_the_start():
    path = wavy(lg.Euclidean())
    field_evaluations = MIXTURE.evaluations
    relative = lg.geometry.relative_length(path, MIXTURE, 0.5, order=6)
    assert MIXTURE.evaluations - field_evaluations == 2 * 6 * (len(path.breaks) - 1)
    x0 = path.point(torch.zeros(1))[:, 0]
    start = MIXTURE.log_prob(x0, x0[:, 0])
    expected = lg.geometry.length(path, MIXTURE, 0.5) * (0.5 * start).exp()
    torch.testing.assert_close(relative, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("manifold", [lg.Euclidean(), lg.Sphere(1.5)], ids=["flat", "sphere"])
def test_the_gradient_is_the_derivative_of_the_length(manifold):
    alpha, h = 0.7, 1e-5
    path = wavy(manifold)
    u = torch.linspace(0, 1, 2001, dtype=torch.float64)
    x, v, a = path.point(u), path.velocity(u), path.acceleration(u)
    score = manifold.tangent(x, lg.geometry.score_along(MIXTURE, x, u))
    speed = v.norm(dim=-1)
    inner = alpha * score + manifold.tangent(x, a) / speed.square().unsqueeze(-1)
    cost = (-alpha * MIXTURE.log_prob(x, x[..., 0])).exp() * speed
    gradient = -cost.unsqueeze(-1) * lg.geometry.normal_to(v, inner)
    direction = torch.sin(math.pi * u)[:, None] * torch.tensor([1.0, -0.4, 0.2], dtype=torch.float64)
    direction = manifold.tangent(x, direction.expand_as(x))
    predicted = torch.trapezoid((gradient * direction).sum(-1), u, dim=-1)

    def moved(sign):
        changed = path.knots + sign * h * direction[:, ::250]
        return lg.geometry.length(
            lg.KnotPath.through(knots=manifold.project(changed), manifold=manifold), MIXTURE, alpha
        )

    torch.testing.assert_close((moved(1) - moved(-1)) / (2 * h), predicted, rtol=2e-3, atol=1e-4)
    norms = lg.geometry.residual(path, MIXTURE, manifold, alpha, u)
    torch.testing.assert_close(norms * cost, gradient.norm(dim=-1))


def test_the_residual_vanishes_on_geodesics():
    angle = torch.linspace(0.3, 2.0, 33, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], -1)[None]
    path = lg.KnotPath.through(knots=circle, manifold=lg.Euclidean())
    u = torch.linspace(0, 1, 50, dtype=torch.float64)
    assert float(lg.geometry.residual(path, lg.HalfSpace(), lg.Euclidean(), 1.0, u).max()) < 1e-5
    bent = lg.geometry.residual(path, lg.HalfSpace(), lg.Euclidean(), 0.5, u)
    assert float(bent.min()) > 0.1
    each = lg.geometry.residual(path, lg.HalfSpace(), lg.Euclidean(), torch.tensor([0.5]), u)
    assert torch.equal(each, bent)


def test_a_zero_velocity_gives_no_nan():
    v = torch.zeros(2, 3)
    assert torch.equal(lg.geometry.unit(v), v)
    assert torch.equal(lg.geometry.normal_to(v, torch.ones(2, 3)), torch.ones(2, 3))
