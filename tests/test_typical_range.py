"""The typical range of a model, the bow of the log-density, and the methods made of geometries."""

from types import SimpleNamespace

import pytest
import torch
from baselines import encoded_pairs, gentle_model
from tiny_model import pictures

import latent_geodesics as lg
from latent_geodesics.core.geometry import relative_log_density
from latent_geodesics.methods import Geodesic
from latent_geodesics.methods.lines import Slerp
from latent_geodesics.metrics import DensityBow, path_curves
from latent_geodesics.models import measure_typical_range

TAU = 0.6


@pytest.fixture(scope="module")
def gentle(tiny_model_folder):
    return gentle_model(tiny_model_folder, refinements=2)


def test_the_range_is_that_of_line_integrals_from_inverted_to_noised_images(gentle):
    images, prompts = pictures(8), ["a red cube"] * 8
    found = measure_typical_range(gentle, images, prompts, tau=TAU, draws=2, seed=3)
    assert found.levels.shape == (8, 2)
    assert found.middle == pytest.approx(float(found.levels.mean()))
    assert found.width == pytest.approx(2 * float(found.levels.std()))
    assert found.width > 0
    assert found.error < 0.05 * found.width
    generator = torch.Generator().manual_seed(3)
    condition = gentle.condition(prompts)
    own, clean = gentle.encode(images, condition=condition, tau=TAU), gentle.encode(images, tau=0.0)
    noised = gentle.abar(TAU) ** 0.5 * clean + gentle.sigma(TAU) * torch.randn(clean.shape, generator=generator)
    sphere = lg.Sphere(own.norm(dim=-1))
    arc = lg.GreatCircle(x0=own, x1=sphere.project(noised), sphere=sphere)
    field = gentle.field(condition0=condition, tau=TAU)
    first = relative_log_density(arc, field, torch.ones(1, dtype=torch.float64), order=12)[:, 0]
    torch.testing.assert_close(found.levels[:, 0], first.double(), rtol=1e-2, atol=1e-2)
    again = measure_typical_range(gentle, images, prompts, tau=TAU, draws=2, seed=3)
    assert torch.equal(found.levels, again.levels)


@pytest.mark.parametrize(("count", "prompts", "draws"), [(4, 4, 1), (8, 7, 1), (8, 8, 0)])
def test_a_range_of_too_little_is_refused(gentle, count, prompts, draws):
    with pytest.raises(lg.UserError, match=f"{count} images, {prompts} prompts and {draws} draws"):
        measure_typical_range(gentle, pictures(count), ["a"] * prompts, tau=TAU, draws=draws)


def test_a_method_with_a_geometry_of_its_own_keeps_the_log_density_straight(gentle):
    pairs = encoded_pairs(gentle)
    problem = pairs.problem
    method = Geodesic(solver=lg.solvers.PicardAnderson(), geometry=lg.Graph(lam=1.0))
    bows = []
    for solution in (method.solve(problem), Slerp().solve(problem)):
        assert all(status.ok for status in solution.status)
        curves = path_curves(solution.path, problem.field, problem.manifold, problem.geometry)
        measured = SimpleNamespace(curves=curves, posed=pairs)
        found = DensityBow().measure(measured)
        u = torch.linspace(0, 1, 65, dtype=torch.float64)
        level = relative_log_density(solution.path, problem.field, u).double()
        bow = (level - level[:, -1:] * u).abs().amax(-1)
        torch.testing.assert_close(found["log_density_bow"], bow, rtol=2e-2, atol=1e-3)
        bows.append(found["log_density_bow"])
    assert bool((bows[0] < 0.6 * bows[1]).all())
