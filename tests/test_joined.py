"""Paths through several keys: they meet every key, and turn smoothly there where that is asked for."""

import pytest
import torch

from latent_geodesics.core.joined import JoinedPath
from latent_geodesics.core.manifold import Euclidean, Sphere
from latent_geodesics.core.path import GreatCircle, KnotPath, StraightLine

WIDE = 1e-7


def on_sphere(count, size=24, seed=0):
    points = torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return points / points.norm(dim=-1, keepdim=True)


def curved_legs(keys):
    """Legs that leave the great circle, as geodesics of a density do."""
    line = GreatCircle(x0=keys[:-1], x1=keys[1:], sphere=Sphere(1.0))
    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    side = on_sphere(1, keys.shape[1], seed=5) * (u * (1 - u))[:, None]
    return KnotPath.through(knots=Sphere(1.0).project(line.point(u) + side), manifold=Sphere(1.0))


def legs_of(kind, keys):
    if kind == "straight":
        return StraightLine(x0=keys[:-1], x1=keys[1:]), Euclidean()
    if kind == "great circles":
        return GreatCircle(x0=keys[:-1], x1=keys[1:], sphere=Sphere(1.0)), Sphere(1.0)
    return curved_legs(keys), Sphere(1.0)


POSITIONS = torch.tensor([0.0, 0.25, 0.35, 1.0], dtype=torch.float64)


def joined(kind, keys, **options):
    legs, manifold = legs_of(kind, keys)
    return JoinedPath(legs=legs, manifold=manifold, positions=POSITIONS, **options)


@pytest.mark.parametrize("kind", ["straight", "great circles", "curved"])
@pytest.mark.parametrize("smooth", [False, True])
def test_it_goes_through_every_key_and_stays_on_its_manifold(kind, smooth):
    keys = on_sphere(4)
    path = joined(kind, keys, smooth=smooth)
    torch.testing.assert_close(path.point(POSITIONS)[0], keys, atol=1e-12, rtol=0)
    torch.testing.assert_close(path.point(POSITIONS[1:] - 1e-12)[0], keys[1:], atol=1e-9, rtol=0)
    assert bool(path.manifold.contains(path.point(torch.linspace(0, 1, 41)), 1e-6).all())


@pytest.mark.parametrize("kind", ["straight", "great circles", "curved"])
@pytest.mark.parametrize("loop", [False, True])
def test_the_velocity_at_inner_keys_is_continuous_where_asked_for(kind, loop):
    keys = on_sphere(4)
    keys[-1] = keys[0] if loop else keys[-1]
    inner = POSITIONS[1:-1]
    sharp, smooth = (joined(kind, keys, smooth=each, loop=loop) for each in (False, True))
    for path, least, most in ((sharp, 0.1, 10.0), (smooth, 0.0, 1e-5)):
        jump = (path.velocity(inner + WIDE) - path.velocity(inner - WIDE)).norm(dim=-1)
        size = path.velocity(inner).norm(dim=-1)
        assert bool((least * size <= jump).all())
        assert bool((jump <= most * size).all())
    ends = smooth.velocity(torch.tensor([0.0, 1.0]))[0]
    assert torch.allclose(ends[0], ends[1]) is loop
    torch.testing.assert_close(smooth.arrivals()[:-1], smooth.velocity(inner)[0])
    torch.testing.assert_close(smooth.departures()[1:], smooth.velocity(inner)[0])


@pytest.mark.parametrize("kind", ["straight", "great circles", "curved"])
@pytest.mark.parametrize("smooth", [False, True])
def test_derivatives_are_those_of_the_points(kind, smooth):
    path, u, h = joined(kind, on_sphere(4), smooth=smooth), torch.tensor([0.1, 0.31, 0.6], dtype=torch.float64), 1e-5
    before, at, after = path.point(u - h), path.point(u), path.point(u + h)
    torch.testing.assert_close(path.velocity(u), (after - before) / (2 * h), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(path.acceleration(u), (after - 2 * at + before) / h**2, rtol=1e-3, atol=1e-3)


def test_between_straight_legs_it_is_the_cubic_hermite_spline():
    keys = torch.tensor([[0.0], [1.0], [4.0], [9.0]], dtype=torch.float64)
    path = JoinedPath(
        legs=StraightLine(x0=keys[:-1], x1=keys[1:]),
        manifold=Euclidean(),
        positions=torch.tensor([0, 1, 2, 3], dtype=torch.float64) / 3,
        smooth=True,
    )
    middle = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)  # between the inner keys a parabola is met exactly
    torch.testing.assert_close(path.point(middle)[0, :, 0], (3 * middle) ** 2)


def test_keys_on_one_geodesic_are_not_bent():
    angle = torch.tensor([0.0, 0.25, 0.35, 1.0], dtype=torch.float64)
    keys = torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)
    path, u = joined("great circles", keys, smooth=True), torch.linspace(0, 1, 31, dtype=torch.float64)
    torch.testing.assert_close(path.point(u)[0], torch.stack([u.cos(), u.sin(), 0 * u], -1), atol=1e-9, rtol=0)


@pytest.mark.parametrize("smooth", [False, True])
def test_it_runs_backwards_and_scales_its_legs(smooth):
    keys, u = on_sphere(4), torch.linspace(0, 1, 23, dtype=torch.float64)
    path = joined("great circles", keys, smooth=smooth)
    torch.testing.assert_close(path.reversed().point(u), path.point(1 - u), atol=1e-12, rtol=0)
    radius = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)
    wide = GreatCircle(
        x0=keys[:-1] * radius[:, None], x1=keys[1:] * radius[:, None], sphere=Sphere(radius)
    )  # fmt: skip
    scaled = JoinedPath(legs=wide, manifold=Sphere(1.0), positions=POSITIONS, scales=1 / radius, smooth=smooth)
    torch.testing.assert_close(scaled.point(u), path.point(u), atol=1e-12, rtol=0)


@pytest.mark.parametrize("positions", [[0.0, 1.0], [0.0, 0.5, 0.5, 1.0], [0.0, 0.2, 0.4, 0.9]])
def test_positions_that_do_not_fit_are_refused(positions):
    legs, manifold = legs_of("straight", on_sphere(4))
    with pytest.raises(ValueError, match="positions"):
        JoinedPath(legs=legs, manifold=manifold, positions=torch.tensor(positions))
