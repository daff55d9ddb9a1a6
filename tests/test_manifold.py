import math

import pytest
import torch

import latent_geodesics as lg

SPHERES = [lg.Sphere(3.0), lg.Sphere(torch.tensor([0.5, 2.0, 128.0, 7.0], dtype=torch.float64))]
ALL = [lg.Euclidean(), *SPHERES]


def points(manifold, seed, *, d=6):
    generator = torch.Generator().manual_seed(seed)
    return manifold.project(torch.randn(4, d, generator=generator, dtype=torch.float64))


def tangents(manifold, x, seed):
    generator = torch.Generator().manual_seed(seed)
    return manifold.tangent(x, torch.randn(x.shape, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("manifold", ALL, ids=repr)
def test_exp_is_the_inverse_of_log(manifold):
    x, y = points(manifold, 1), points(manifold, 2)
    torch.testing.assert_close(manifold.exp(x, manifold.log(x, y)), y)
    torch.testing.assert_close(manifold.log(x, y).norm(dim=-1), manifold.distance(x, y))


@pytest.mark.parametrize("manifold", ALL, ids=repr)
def test_transport_keeps_lengths_and_carries_the_geodesic_into_itself(manifold):
    x, y = points(manifold, 1), points(manifold, 2)
    v = tangents(manifold, x, 3)
    carried = manifold.transport(x, y, v)
    torch.testing.assert_close(carried, manifold.tangent(y, carried))
    torch.testing.assert_close(carried.norm(dim=-1), v.norm(dim=-1))
    torch.testing.assert_close(manifold.transport(x, y, manifold.log(x, y)), -manifold.log(y, x))


@pytest.mark.parametrize("manifold", ALL, ids=repr)
def test_projections_are_idempotent(manifold):
    x = points(manifold, 1)
    v = tangents(manifold, x, 2)
    torch.testing.assert_close(manifold.project(x), x)
    torch.testing.assert_close(manifold.tangent(x, v), v)
    assert bool(manifold.contains(x, 1e-9).all())


@pytest.mark.parametrize("manifold", ALL, ids=repr)
def test_project_curve_is_the_chain_rule(manifold):
    y, dy, ddy = (points(lg.Euclidean(), seed) for seed in (1, 2, 3))

    def along(w):
        return manifold.project(y + w * dy + w**2 / 2 * ddy)

    h = 1e-4
    x, v, a = manifold.project_curve(y, dy, ddy)
    scale = x.norm(dim=-1).max()
    torch.testing.assert_close(x, along(0))
    torch.testing.assert_close(v, (along(h) - along(-h)) / (2 * h), atol=1e-6 * scale, rtol=1e-6)
    torch.testing.assert_close(a, (along(h) + along(-h) - 2 * x) / h**2, atol=1e-5 * scale, rtol=1e-4)
    normal = a - manifold.tangent(x, a)
    expected = manifold.normal_acceleration(x, v)
    torch.testing.assert_close(normal if isinstance(manifold, lg.Sphere) else 0 * a, expected)


def test_restrict_picks_the_radii_of_the_pairs():
    sphere = SPHERES[1]
    x, y = points(sphere, 1), points(sphere, 2)
    pairs = torch.tensor([2, 0])
    torch.testing.assert_close(sphere.restrict(pairs).log(x[pairs], y[pairs]), sphere.log(x, y)[pairs])


def test_antipodal_points_have_no_logarithm():
    sphere = lg.Sphere(2.0)
    x = sphere.project(torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]]))
    y = torch.stack([-x[0], sphere.project(torch.tensor([0.0, 1.0, 0.0]))])
    assert sphere.antipodal(x, y).tolist() == [True, False]
    assert torch.isnan(sphere.log(x, y)[0]).all()
    assert torch.isfinite(sphere.log(x, y)[1]).all()


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_ends_that_are_all_but_antipodal_have_the_arc_on_their_side(dtype, off):
    """As far from opposite as the precision can tell, in many dimensions: the arc ends where it should, to its side."""
    generator = torch.Generator().manual_seed(1)
    sphere = lg.Sphere(32.0)
    x, side = torch.randn(2, 3, 1024, generator=generator, dtype=torch.float64)
    x = sphere.project(x)
    side = torch.nn.functional.normalize(sphere.tangent(x, side), dim=-1)
    y = math.cos(math.pi - off) * x + 32.0 * math.sin(math.pi - off) * side
    x, y, side = x.to(dtype), y.to(dtype), side.to(dtype)
    assert not bool(sphere.antipodal(x, y).any())
    assert bool(sphere.antipodal(x, -x).all())
    direction = torch.nn.functional.normalize(sphere.log(x, y), dim=-1)
    assert float((direction - side).norm(dim=-1).max()) < 2e-2
    assert float((sphere.exp(x, sphere.log(x, y)) - y).norm(dim=-1).max()) < 32 * 100 * torch.finfo(dtype).eps


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 1.0, math.pi - 1e-6])
def test_angles_are_accurate_at_both_ends_of_their_range(angle):
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    assert abs(float(lg.Sphere(1.0).angle(x, y)) - angle) < 1e-15 + 1e-9 * angle


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan, math.inf, torch.tensor([1.0, -2.0]), torch.ones(2, 2)])
def test_a_radius_that_is_not_positive_is_refused(radius):
    with pytest.raises(ValueError, match="radius must be a positive number"):
        lg.Sphere(radius)
