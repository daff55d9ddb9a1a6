import math

import pytest
import torch

import latent_geodesics as lg

SPHERE = lg.Sphere(torch.tensor([2.0, 32.0, 128.0], dtype=torch.float64))
U = torch.tensor([0.0, 0.03, 0.31, 0.5, 0.77, 0.99, 1.0], dtype=torch.float64)


def wavy_knots(manifold, *, count=9, d=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x0, x1, bump = (torch.randn(3, d, generator=generator, dtype=torch.float64) for _ in range(3))
    u = torch.linspace(0, 1, count, dtype=torch.float64)
    base = lg.shortest_path(manifold, manifold.project(x0), manifold.project(x1)).point(u)
    size = base.norm(dim=-1, keepdim=True)
    knots = base + 0.1 * size * bump[:, None] * torch.sin(math.pi * u)[:, None]
    return torch.cat([base[:, :1], manifold.project(knots)[:, 1:-1], base[:, -1:]], 1).to(dtype)


def paths(manifold):
    knots = wavy_knots(manifold)
    smooth = lg.KnotPath.through(knots=knots, manifold=manifold)
    at = smooth.nodes
    return [
        lg.shortest_path(manifold, knots[:, 0], knots[:, -1]),
        smooth,
        lg.KnotPath.through(knots=knots[:, [0, 1, 4, 8]], manifold=manifold, nodes=at[[0, 1, 4, 8]]),
        lg.HermitePath(
            knots=knots, velocities=smooth.velocity(at), accelerations=smooth.acceleration(at), manifold=manifold
        ),
        lg.solvers.ControlPointPath(points=knots, manifold=manifold),
    ]


CASES = [(m, i) for m in (lg.Euclidean(), SPHERE) for i in range(5)]


@pytest.mark.parametrize(("manifold", "which"), CASES)
def test_end_points_are_exact_and_points_lie_on_the_manifold(manifold, which):
    path = paths(manifold)[which]
    knots = wavy_knots(manifold)
    assert torch.equal(path.point(U)[:, 0], knots[:, 0])
    assert torch.equal(path.point(U)[:, -1], knots[:, -1])
    assert bool(manifold.contains(path.point(U), 1e-12).all())
    assert path.point(U).shape == path.velocity(U).shape == path.acceleration(U).shape == (3, 7, 5)
    assert path.pairs == 3
    assert (float(path.breaks[0]), float(path.breaks[-1])) == (0.0, 1.0)


@pytest.mark.parametrize(("manifold", "which"), [case for case in CASES if case[1] < 4])
def test_velocity_and_acceleration_are_the_derivatives(manifold, which):
    path = paths(manifold)[which]
    u, h = torch.tensor([0.07, 0.4, 0.81], dtype=torch.float64), 1e-5
    scale = path.velocity(u).abs().max()
    velocity = (path.point(u + h) - path.point(u - h)) / (2 * h)
    acceleration = (path.velocity(u + h) - path.velocity(u - h)) / (2 * h)
    torch.testing.assert_close(path.velocity(u), velocity, atol=1e-7 * scale, rtol=1e-7)
    torch.testing.assert_close(path.acceleration(u), acceleration, atol=1e-5 * scale, rtol=1e-6)


@pytest.mark.parametrize(("manifold", "which"), CASES)
def test_reversed_runs_backwards(manifold, which):
    path = paths(manifold)[which]
    back = path.reversed()
    scale = float(path.acceleration(U).abs().max())
    for value, mirrored, sign in (
        (path.point(U), back.point(1 - U), 1),
        (path.velocity(U), back.velocity(1 - U), -1),
        (path.acceleration(U), back.acceleration(1 - U), 1),
    ):
        torch.testing.assert_close(value, sign * mirrored, atol=1e-9 * scale, rtol=1e-9)


@pytest.mark.parametrize(("manifold", "which"), CASES)
def test_restrict_picks_pairs(manifold, which):
    path = paths(manifold)[which]
    pairs = torch.tensor([2, 0])
    part = path.restrict(pairs)
    for whole, some in (
        (path.point(U), part.point(U)),
        (path.velocity(U), part.velocity(U)),
        (path.acceleration(U), part.acceleration(U)),
    ):
        torch.testing.assert_close(whole[pairs], some, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("manifold", [lg.Euclidean(), SPHERE], ids=["flat", "sphere"])
def test_knot_paths_pass_through_their_knots(manifold):
    knots = wavy_knots(manifold)
    for path in paths(manifold)[1:]:
        if len(path.breaks) == 9:
            torch.testing.assert_close(path.point(path.breaks), knots, rtol=1e-12, atol=1e-12)


def test_the_spline_converges_at_order_six():
    manifold = lg.Sphere(1.0)
    u = torch.linspace(0, 1, 200, dtype=torch.float64)

    def curve(w):
        angle = 1.5 * w + 0.3 * torch.sin(3 * w)
        points = torch.stack([angle.cos(), angle.sin(), 0.4 * torch.sin(5 * w)], -1)[None]
        return manifold.project(points)

    errors = []
    for count in (9, 17, 33):
        at = torch.linspace(0, 1, count, dtype=torch.float64)
        path = lg.KnotPath.through(knots=curve(at), manifold=manifold)
        errors.append(float((path.point(u) - curve(u)).norm(dim=-1).max()))
    assert errors[0] / errors[1] > 2**5
    assert errors[1] / errors[2] > 2**5


def test_great_circles_are_closed_forms():
    x0, x1 = torch.eye(3, dtype=torch.float64)[:2].unsqueeze(1) * 2
    path = lg.GreatCircle(x0=x0, x1=x1, sphere=lg.Sphere(2.0))
    at = torch.tensor([1 / 3], dtype=torch.float64)
    expected = 2 * torch.tensor([[[math.cos(math.pi / 6), math.sin(math.pi / 6), 0]]], dtype=torch.float64)
    torch.testing.assert_close(path.point(at), expected)
    assert abs(float(path.velocity(at).norm()) - math.pi) < 1e-14


def test_equal_ends_give_a_constant_path_and_antipodal_ones_an_arc():
    sphere = lg.Sphere(1.0)
    x0 = torch.eye(3, dtype=torch.float64)[:2]
    x1 = torch.stack([x0[0], -x0[1]])
    path = lg.GreatCircle(x0=x0, x1=x1, sphere=sphere)
    assert torch.equal(path.point(U)[0], x0[0].expand(7, 3))
    assert float(path.velocity(U)[0].norm()) == 0
    assert bool(sphere.contains(path.point(U), 1e-12).all())
    torch.testing.assert_close(path.velocity(U)[1].norm(dim=-1), torch.full((7,), math.pi, dtype=torch.float64))


def test_derivatives_keep_their_accuracy_in_float32():
    manifold = lg.Sphere(128.0)
    knots = wavy_knots(manifold, count=17, d=4096)[:1]
    single = lg.KnotPath.through(knots=knots.float(), manifold=manifold)
    double = lg.KnotPath.through(knots=knots, manifold=manifold)
    relative = (single.acceleration(U) - double.acceleration(U)).norm() / double.acceleration(U).norm()
    assert single.point(U).dtype == torch.float32
    assert relative < 1e-4


@pytest.mark.parametrize("nodes", [[0.0, 0.5, 0.5, 1.0], [0.1, 0.5, 0.7, 1.0], [0.0, 0.2, 0.5, 0.9]])
def test_nodes_must_increase_from_zero_to_one(nodes):
    with pytest.raises(ValueError, match="nodes must"):
        lg.KnotPath.through(knots=torch.rand(1, 4, 2), manifold=lg.Euclidean(), nodes=torch.tensor(nodes))
