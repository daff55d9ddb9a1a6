"""The density along a path and the error that its quadrature states, against exact log-densities."""

import math

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.core.geometry import DensityProfile, density_profile
from latent_geodesics.core.path import gauss_kronrod
from latent_geodesics.experiments.distances.exactness import check_line_integrals

MIXTURE = lg.GaussianMixture(
    means=torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.5, 0.0]], dtype=torch.float64),
    scales=torch.tensor([0.6, 0.9], dtype=torch.float64),
)


def wavy(manifold, *, dtype=torch.float64, seed=3):
    generator = torch.Generator().manual_seed(seed)
    x0, x1, bend = (torch.randn(2, 1, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    u = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    knots = torch.lerp(x0, x1, u) + 0.3 * bend * torch.sin(math.pi * u)
    return lg.KnotPath.through(knots=manifold.project(knots.to(dtype)), manifold=manifold)


def test_the_rules_are_exact_to_their_degrees_and_no_further():
    nodes, weights, lower = gauss_kronrod()
    for degree in range(9):
        exact = 1 / (degree + 1)
        assert abs(float(weights @ nodes**degree) - exact) < 1e-14 or degree > 7
        assert (abs(float(lower @ nodes**degree) - exact) < 1e-14) == (degree <= 3)
    assert abs(float(weights @ nodes**8) - 1 / 9) > 1e-6


@pytest.mark.parametrize("manifold", [lg.Euclidean(), lg.Sphere(1.5)], ids=["flat", "sphere"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_profile_is_the_log_density_within_its_stated_error(manifold, dtype):
    path = wavy(manifold, dtype=dtype)
    before = MIXTURE.evaluations
    profile = density_profile(path, MIXTURE, pieces=16)
    assert MIXTURE.evaluations - before == 2 * 5 * 16
    x = path.point(profile.u)
    exact = MIXTURE.log_prob(x.double(), x.double()[..., 0])
    exact = exact - exact[:, :1]
    # In float32 the points themselves are rounded, which moves the exact density as well.
    slack = 0 if dtype == torch.float64 else 4e-6
    assert bool(((profile.log_density - exact).abs() <= profile.error + slack + 1e-13).all())
    assert float(profile.error.max()) < 0.02
    assert float(exact.abs().max()) > 0.5
    torch.testing.assert_close(profile.change.value, profile.log_density[:, -1])


def test_the_stated_error_falls_with_the_resolution():
    path = wavy(lg.Euclidean())
    errors = [float(density_profile(path, MIXTURE, pieces=pieces).error.max()) for pieces in (8, 16, 32)]
    assert errors[0] > 8 * errors[1] > 64 * errors[2]


def test_the_length_of_a_profile_is_the_length_of_the_path():
    path = wavy(lg.Euclidean())
    for alpha in (0.0, 0.4):
        found = density_profile(path, MIXTURE, pieces=32).length(alpha)
        x0 = path.point(torch.zeros(1))[:, 0]
        start = MIXTURE.log_prob(x0, x0[:, 0])
        exact = lg.geometry.length(path, MIXTURE, alpha) * (alpha * start).exp()
        assert bool(((found.value - exact).abs() <= found.error + 1e-12).all())
        torch.testing.assert_close(found.value, exact, rtol=1e-7, atol=0)


def test_closing_gives_the_ends_their_levels_and_one_length_both_ways():
    class Turning(lg.ScoreField):
        """A score that is no gradient: what it adds up to depends on the way."""

        def score(self, x, u):
            return torch.stack([-x[..., 1], x[..., 0], 0.3 * x[..., 2]], dim=-1)

    path, start, end = wavy(lg.Euclidean()), torch.tensor([0.4, -1.0]), torch.tensor([1.1, 0.2])
    forth = density_profile(path, Turning(), pieces=16).closed(start, end)
    back = density_profile(path.reversed(), Turning(), pieces=16).closed(end, start)
    torch.testing.assert_close(forth.log_density[:, 0], start.double())
    torch.testing.assert_close(forth.log_density[:, -1], end.double())
    torch.testing.assert_close(forth.length(0.7).value, back.length(0.7).value, rtol=1e-9, atol=0)
    own = DensityProfile(**(vars(forth) | {"log_density": density_profile(path, Turning(), pieces=16).log_density}))
    assert abs(float((own.length(0.7).value / forth.length(0.7).value - 1).abs().max())) > 0.01


def test_the_line_integral_holds_against_every_exact_density():
    table = check_line_integrals(seed=0)
    assert set(table["pieces"]) == {8, 16, 32}
    assert table["density"].nunique() == 7
    assert (table["range"] > 0.1).all()
    assert (table["covered"] == 1).all()
    finest = table[table["pieces"] == 32]
    assert finest["true_error"].max() < 1e-6
