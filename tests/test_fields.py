import math

import pytest
import torch

import latent_geodesics as lg

DIRECTION = torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64)
DENSITIES = [
    lg.UniformDensity(),
    lg.HalfSpace(),
    lg.PoincareBall(),
    lg.StereographicSphere(),
    lg.Exponential(direction=DIRECTION),
    lg.IsotropicGaussian(mean=DIRECTION, scale=1.7),
    lg.GaussianMixture(
        means=torch.eye(3, dtype=torch.float64),
        scales=torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64),
        weights=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64),
    ),
]


def inside(*shape):
    generator = torch.Generator().manual_seed(0)
    return 0.1 + 0.45 * torch.rand(*shape, 3, generator=generator, dtype=torch.float64)


class Laplace(lg.Density):
    def log_prob(self, x, u):
        return -x.abs().sum(-1)


class Linear(lg.ScoreField):
    def score(self, x, u):
        return -x * u[..., None]


class Doubled(Linear):
    def score(self, x, u):
        return 2 * super().score(x, u)


class OfPairs(lg.ScoreField):
    def __init__(self, factors):
        self.factors = factors

    def score(self, x, u):
        return x * self.factors.reshape(-1, *[1] * (x.ndim - 1))

    def restrict(self, pairs):
        return OfPairs(self.factors[pairs]).share_evaluations(self)


@pytest.mark.parametrize("density", DENSITIES, ids=lambda density: type(density).__name__)
def test_the_score_is_the_gradient_of_the_log_density(density):
    x = inside(4, 5)
    u = torch.zeros(4, 5, dtype=torch.float64)
    expected = lg.Density.score(density, x, u)
    torch.testing.assert_close(density.score(x, u), expected)
    assert density.score(x[0, 0], u[0, 0]).shape == (3,)


def test_the_mixture_is_normalised():
    mixture = lg.GaussianMixture(
        means=torch.tensor([[0.0, 0.5], [1.0, -1.0]]), scales=torch.tensor([0.5, 0.8]), weights=torch.tensor([3.0, 1.0])
    )
    axis = torch.linspace(-6, 6, 400)
    grid = torch.cartesian_prod(axis, axis)
    total = mixture.log_prob(grid, grid[:, 0]).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(float(total) - 1) < 1e-3


def test_a_density_needs_only_its_logarithm_also_without_gradients():
    field = Laplace()
    with torch.no_grad():
        score = field.score(inside(4), torch.zeros(4))
    assert torch.equal(score, -torch.ones(4, 3, dtype=torch.float64))
    with torch.inference_mode():
        assert field.score(inside(2), torch.zeros(2)).shape == (2, 3)
    assert field.evaluations == 6


def test_evaluations_are_counted_once_without_any_help_of_the_subclass():
    field = Doubled()
    assert field.evaluations == 0
    field.score(inside(4, 5), torch.ones(4, 5))
    field.score(inside(2), torch.ones(2))
    assert field.evaluations == 22
    assert Doubled().evaluations == 0


def test_a_score_that_fails_is_not_counted_and_does_not_stop_the_count():
    field = OfPairs(torch.ones(2))
    with pytest.raises(RuntimeError):
        field.score(inside(3, 4), torch.ones(3, 4))
    field.score(inside(2, 4), torch.ones(2, 4))
    assert field.evaluations == 8


def test_a_view_answers_for_its_pairs_and_shares_the_count():
    field = OfPairs(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    x, u = inside(3, 4), torch.ones(3, 4)
    whole = field.score(x, u)
    pairs = torch.tensor([2, 0])
    view = field.restrict(pairs)
    assert torch.equal(view.score(x[pairs], u[pairs]), whole[pairs])
    assert field.evaluations == view.evaluations == 20
    assert Linear().restrict(pairs).score(x, u).shape == x.shape


@pytest.mark.parametrize("field", [lg.HalfSpace(), lg.PoincareBall()])
def test_outside_its_domain_a_score_is_nan(field):
    x = torch.tensor([[0.9, -0.9], [0.1, 0.2]])
    assert torch.isfinite(field.score(x, torch.zeros(2))).all(-1).tolist() == [False, True]


def test_distances_agree_with_known_values():
    origin, x = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.6, 0.0]], dtype=torch.float64)
    assert math.isclose(float(lg.PoincareBall().distance(origin, x)), 2 * math.atanh(0.6))
    assert math.isclose(float(lg.StereographicSphere().distance(origin, x)), 2 * math.atan(0.6))
    up = torch.tensor([[0.0, 1.0], [0.0, math.e]], dtype=torch.float64)
    assert math.isclose(float(lg.HalfSpace().distance(up[:1], up[1:])), 1.0)
    along = DIRECTION / DIRECTION.norm()
    exponential = lg.Exponential(direction=DIRECTION)
    expected = (1 - math.exp(-float(DIRECTION.norm()))) / float(DIRECTION.norm())
    assert math.isclose(float(exponential.distance(0 * along[None], along[None])), expected)


def test_arguments_are_validated():
    ok = torch.ones(2, 3)
    with pytest.raises(ValueError, match="shapes"):
        lg.GaussianMixture(means=ok, scales=torch.ones(3))
    with pytest.raises(ValueError, match="scales must be positive"):
        lg.GaussianMixture(means=ok, scales=torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="scale must be positive"):
        lg.IsotropicGaussian(mean=ok[0], scale=-1.0)
    with pytest.raises(ValueError, match="direction"):
        lg.Exponential(direction=torch.zeros(3))
