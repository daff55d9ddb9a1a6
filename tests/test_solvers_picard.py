"""The default boundary solver: closed forms, symmetries, and everything that may go wrong."""

import math

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.core.records import Status

U = torch.linspace(0, 1, 17, dtype=torch.float64)


def in_ball(pairs, d, radius, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(pairs, d, generator=generator, dtype=torch.float64)
    return radius * x / x.norm(dim=-1, keepdim=True)


def mixture(d=3, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    means = 1.5 * torch.randn(4, d, generator=generator, dtype=torch.float64)
    return lg.GaussianMixture(means=means.to(dtype), scales=torch.full((4,), 0.9, dtype=dtype))


def ring(scale=0.7):
    angle = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    means = 3 * torch.stack([angle.cos(), angle.sin()], -1)
    return lg.GaussianMixture(means=means, scales=torch.full((8,), scale, dtype=torch.float64))


def on_ring(*degrees):
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return 3 * torch.stack([angle.cos(), angle.sin()], -1)


def solve(field, x0, x1, *, manifold=None, alpha=1.0, **options):
    problem = lg.BoundaryProblem(field=field, manifold=manifold or lg.Euclidean(), x0=x0, x1=x1, alpha=alpha)
    return lg.solvers.PicardAnderson(**options).solve(problem)


class Broken(lg.ScoreField):
    """The score of a ball, NaN for some pairs."""

    def __init__(self, broken, after):
        self.broken, self.after, self.calls = broken, after, []

    def score(self, x, u):
        self.calls.append(x.shape)
        score = lg.PoincareBall().score(x, u)
        if len(self.calls) > self.after:
            score[self.broken] = torch.nan
        return score

    def restrict(self, pairs):
        view = Broken(self.broken[pairs], self.after).share_evaluations(self)
        view.calls = self.calls
        return view


@pytest.mark.parametrize("d", [2, 64])
def test_the_poincare_ball(d):
    x0, x1 = in_ball(4, d, 0.8, 1), in_ball(4, d, 0.8, 2)
    x1[0] = -x0[0]
    x1[1] = lg.Sphere(0.8).project(-x0[1] + 0.02 * x1[1])
    ball = lg.PoincareBall()
    solution = solve(ball, x0, x1)
    error = lg.geometry.length(solution.path, ball, 1.0) / ball.distance(x0, x1) - 1
    assert set(solution.status) == {Status.CONVERGED}
    assert float(error.abs().max()) < 1e-6
    assert int(solution.stats["evaluations"].max()) <= 200
    assert ball.evaluations == int(solution.stats["evaluations"].sum())


@pytest.mark.parametrize(
    "density",
    [lg.HalfSpace(), lg.StereographicSphere(), lg.Exponential(direction=torch.tensor([0.5, 1.0]))],
    ids=lambda density: type(density).__name__,
)
def test_other_closed_forms(density):
    x0 = torch.tensor([[0.1, 0.3], [-1.0, 1.0]], dtype=torch.float64)
    x1 = torch.tensor([[1.2, 0.5], [0.4, 2.0]], dtype=torch.float64)
    solution = solve(density, x0, x1, tolerance=3e-4)
    error = lg.geometry.length(solution.path, density, 1.0) / density.distance(x0, x1) - 1
    assert set(solution.status) == {Status.CONVERGED}
    assert float(error.abs().max()) < 1e-7


def test_clairauts_constant_on_a_gaussian():
    gaussian = lg.IsotropicGaussian(mean=torch.zeros(2, dtype=torch.float64), scale=1.5)
    x0, x1 = torch.tensor([[1.0, 0.2]]).double(), torch.tensor([[-0.6, 1.1]]).double()
    path = solve(gaussian, x0, x1, intervals=32, tolerance=3e-4).path
    x, v = path.point(U), lg.geometry.unit(path.velocity(U))
    wedge = (x[..., 0] * v[..., 1] - x[..., 1] * v[..., 0]) / gaussian.log_prob(x, x[..., 0]).exp()
    assert float((wedge / wedge.mean() - 1).abs().max()) < 1e-4


@pytest.mark.parametrize("alpha", [0.1, 0.3, 1.0])
def test_around_a_ring_of_gaussians_and_not_through_its_middle(alpha):
    field = ring()
    x0, x1 = on_ring(0, 20, 180), on_ring(170, 195, 45)
    solution = solve(field, x0, x1, alpha=alpha)
    assert set(solution.status) == {Status.CONVERGED}
    assert float(solution.path.point(U).norm(dim=-1).min()) > 1.0
    fine = solve(field, x0, x1, alpha=alpha, intervals=32, max_evaluations=3000)
    lengths = lg.geometry.length(solution.path, field, alpha) / lg.geometry.length(fine.path, field, alpha)
    assert float((lengths - 1).abs().max()) < 1e-4
    # With the starts that strong pairs are tried from.
    assert int(solution.stats["evaluations"].max()) <= (600 if alpha < 0.3 else 1500)


@pytest.mark.parametrize("radius", [3.0, torch.tensor([0.5, 32.0, 128.0], dtype=torch.float64)], ids=["one", "each"])
def test_a_uniform_density_on_the_sphere_gives_great_circles(radius):
    sphere = lg.Sphere(radius)
    x0, x1 = sphere.project(in_ball(3, 5, 1.0, 1)), sphere.project(in_ball(3, 5, 1.0, 2))
    solution = solve(lg.UniformDensity(), x0, x1, manifold=sphere)
    arc = lg.GreatCircle(x0=x0, x1=x1, sphere=sphere)
    torch.testing.assert_close(solution.path.point(U), arc.point(U), rtol=1e-12, atol=1e-12)
    assert set(solution.status) == {Status.CONVERGED}


def test_the_residual_is_the_one_that_geometry_measures_and_small_between_the_knots():
    sphere, field = lg.Sphere(2.0), mixture(6)
    x0, x1 = sphere.project(in_ball(3, 6, 1.0, 3)), sphere.project(in_ball(3, 6, 1.0, 4))
    solution = solve(field, x0, x1, manifold=sphere, alpha=0.5, tolerance=1e-7, refine=False)
    at_knots = lg.geometry.residual(solution.path, field, sphere, 0.5, U[1:-1]).mean(-1)
    # The solver has it from products that cancel: rounding leaves the root of the smallest difference from one.
    torch.testing.assert_close(solution.stats["residual"], at_knots, rtol=1e-3, atol=1e-8)
    solution = solve(field, x0, x1, manifold=sphere, alpha=0.5, tolerance=1e-3)
    u = torch.linspace(0, 1, 300, dtype=torch.float64)[1:-1]
    score = sphere.tangent(solution.path.point(u), field.score(solution.path.point(u), u.expand(3, -1)))
    everywhere = lg.geometry.residual(solution.path, field, sphere, 0.5, u).mean(-1)
    assert bool((everywhere < 1e-3 * 0.5 * score.norm(dim=-1).mean(-1)).all())
    assert bool((solution.stats["residual_between"] < 1e-3).all())
    assert bool(sphere.contains(solution.path.point(U), 1e-12).all())


def test_the_path_has_constant_speed():
    solution = solve(mixture(), in_ball(3, 3, 1.5, 1), in_ball(3, 3, 1.5, 2), alpha=0.5, tolerance=3e-4)
    speed = solution.path.velocity(U).norm(dim=-1)
    assert float((speed / speed.mean(-1, keepdim=True) - 1).abs().max()) < 1e-3


def test_swapped_ends_give_the_reversed_path():
    field, x0, x1 = mixture(), in_ball(3, 3, 1.5, 1), in_ball(3, 3, 1.5, 2)
    there = solve(field, x0, x1, alpha=0.5, tolerance=1e-9).path
    back = solve(field, x1, x0, alpha=0.5, tolerance=1e-9).path
    torch.testing.assert_close(there.point(U), back.point(1 - U), atol=1e-7, rtol=0)
    assert torch.equal(there.point(U)[:, 0], x0)
    assert torch.equal(there.point(U)[:, -1], x1)


@pytest.mark.parametrize("manifold", [lg.Euclidean(), lg.Sphere(1.5)], ids=["flat", "sphere"])
def test_a_rotated_problem_has_the_rotated_path(manifold):
    field, x0, x1 = mixture(), in_ball(3, 3, 1.5, 1), in_ball(3, 3, 1.5, 2)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    turned = lg.GaussianMixture(means=field.means @ rotation, scales=field.scales)
    plain = solve(field, x0, x1, manifold=manifold, alpha=0.5).path.point(U)
    found = solve(turned, x0 @ rotation, x1 @ rotation, manifold=manifold, alpha=0.5).path.point(U)
    torch.testing.assert_close(found, plain @ rotation, atol=1e-6, rtol=0)


def test_scaling_space_scales_the_path():
    field, x0, x1 = mixture(), in_ball(3, 3, 1.5, 1), in_ball(3, 3, 1.5, 2)
    large = lg.GaussianMixture(means=100 * field.means, scales=100 * field.scales)
    small = solve(field, x0, x1, alpha=0.5)
    found = solve(large, 100 * x0, 100 * x1, alpha=0.5)
    torch.testing.assert_close(found.path.point(U), 100 * small.path.point(U), atol=1e-4, rtol=0)
    assert torch.equal(found.stats["evaluations"], small.stats["evaluations"])


@pytest.mark.parametrize("manifold", [lg.Euclidean(), lg.Sphere(1.5)], ids=["flat", "sphere"])
def test_a_pair_does_not_depend_on_its_batch(manifold):
    field, x0, x1 = mixture(), in_ball(5, 3, 1.5, 1), in_ball(5, 3, 1.5, 2)
    together = solve(field, x0, x1, manifold=manifold, alpha=0.7)
    for pair in range(5):
        alone = solve(field, x0[pair : pair + 1], x1[pair : pair + 1], manifold=manifold, alpha=0.7)
        torch.testing.assert_close(alone.path.point(U)[0], together.path.point(U)[pair], atol=1e-9, rtol=0)
        assert alone.stats["evaluations"][0] == together.stats["evaluations"][pair]
        assert alone.status[0] == together.status[pair]


def test_inputs_are_not_changed():
    field, x0, x1 = mixture(), in_ball(3, 3, 1.5, 1), in_ball(3, 3, 1.5, 2)
    before = [t.clone() for t in (x0, x1, field.means, field.scales)]
    solve(field, x0, x1)
    assert all(torch.equal(a, b) for a, b in zip(before, (x0, x1, field.means, field.scales), strict=True))


def test_the_trace_draws_the_course_of_each_pair():
    field, x0, x1 = mixture(), in_ball(3, 3, 1.5, 1), in_ball(3, 3, 1.5, 2)
    solution = solve(field, x0, x1, alpha=0.5, coarse_start=False)
    trace = solution.trace
    assert trace.evaluations.shape == trace.residual.shape == trace.length.shape == trace.step.shape
    assert trace.evaluations.shape[1] == 3
    assert bool((trace.evaluations.diff(dim=0) >= 0).all())
    assert torch.equal(trace.evaluations[-1], solution.stats["evaluations"])
    assert torch.equal(trace.residual[-1], solution.stats["residual"])
    assert bool((trace.length[-1] <= trace.length[0]).all())
    final = lg.geometry.relative_length(solution.path, field, 0.5)
    torch.testing.assert_close(trace.length[-1], final, rtol=1e-3, atol=0)


def test_trivial_pairs_cost_nothing():
    sphere = lg.Sphere(1.0)
    x0 = torch.eye(4, dtype=torch.float64)[:3]
    x1 = torch.stack([x0[0], -x0[1], x0[3 - 3]])
    field = mixture(4)
    solution = solve(field, x0, x1, manifold=sphere, alpha=0.3)
    assert solution.status == (Status.COINCIDENT_ENDS, Status.CONVERGED, Status.CONVERGED)
    assert int(solution.stats["evaluations"][0]) == 0
    assert torch.equal(solution.path.point(U)[0], x0[0].expand(17, 4))
    assert torch.isfinite(solution.path.point(U)).all()
    straight = solve(field, x0, x1, manifold=sphere, alpha=0.0)
    assert straight.stats["evaluations"].tolist() == [0, 0, 0]
    assert straight.status == (Status.COINCIDENT_ENDS, Status.ANTIPODAL_ENDS, Status.CONVERGED)
    torch.testing.assert_close(straight.path.point(U), lg.GreatCircle(x0=x0, x1=x1, sphere=sphere).point(U))


@pytest.mark.parametrize("budget", [1, 16, 17, 40, 100])
def test_the_budget_is_kept(budget):
    field = lg.PoincareBall()
    x0, x1 = in_ball(3, 2, 0.8, 1), in_ball(3, 2, 0.8, 2)
    solution = solve(field, x0, x1, max_evaluations=budget, tolerance=1e-12)
    assert int(solution.stats["evaluations"].max()) <= budget
    assert set(solution.status) == {Status.BUDGET_EXHAUSTED}
    assert torch.isfinite(lg.geometry.length(solution.path, field, 1.0)).all()
    assert "max_evaluations" in solution.status[0].sentence


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_a_score_that_is_not_finite_ends_its_pair_alone(after):
    x0, x1 = in_ball(3, 2, 0.8, 1), in_ball(3, 2, 0.8, 2)
    broken = torch.tensor([False, True, False])
    solution = solve(Broken(broken, after), x0, x1)
    healthy = solve(lg.PoincareBall(), x0, x1)
    assert solution.status == (Status.CONVERGED, Status.NON_FINITE_SCORE, Status.CONVERGED)
    assert torch.isfinite(solution.path.point(U)).all()
    torch.testing.assert_close(solution.path.point(U)[~broken], healthy.path.point(U)[~broken], atol=1e-9, rtol=0)


def test_a_step_out_of_the_domain_is_taken_back():
    class Narrow(lg.ScoreField):
        """The half-space's score, defined on a strip only just wider than the geodesic."""

        def score(self, x, u):
            score = lg.HalfSpace().score(x, u)
            return torch.where(x[..., 1:] < 1.45, score, torch.nan)

    x0, x1 = torch.tensor([[-1.0, 1.0]], dtype=torch.float64), torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    solution = solve(Narrow(), x0, x1, trust=0.5, continuation=False, coarse_start=False, tolerance=3e-4)
    assert solution.status == (Status.CONVERGED,)
    error = lg.geometry.length(solution.path, lg.HalfSpace(), 1.0) / lg.HalfSpace().distance(x0, x1) - 1
    assert abs(float(error)) < 1e-8


def test_pairs_of_very_different_scale_are_solved_together():
    class Scaled(lg.ScoreField):
        def __init__(self, scale):
            self.scale = scale

        def score(self, x, u):
            scale = self.scale[:, None, None]
            return lg.PoincareBall().score(x / scale, u) / scale

        def restrict(self, pairs):
            return Scaled(self.scale[pairs]).share_evaluations(self)

    scale = torch.tensor([1e-4, 1.0, 1e4], dtype=torch.float64)
    x0, x1 = in_ball(3, 4, 0.7, 1) * scale[:, None], in_ball(3, 4, 0.7, 2) * scale[:, None]
    solution = solve(Scaled(scale), x0, x1)
    unscaled = solve(lg.PoincareBall(), x0 / scale[:, None], x1 / scale[:, None])
    assert set(solution.status) == {Status.CONVERGED}
    found = solution.path.point(U) / scale[:, None, None]
    torch.testing.assert_close(found, unscaled.path.point(U), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("radius", "d"), [(32.0, 1024), (128.0, 16384)])
def test_float32_in_high_dimension(radius, d):
    sphere = lg.Sphere(radius)
    x0, x1 = sphere.project(in_ball(1, d, 1.0, 1)).float(), sphere.project(in_ball(1, d, 1.0, 2)).float()
    mean = sphere.project(in_ball(2, d, 1.0, 3)).float()
    field = lg.GaussianMixture(means=mean, scales=torch.tensor([0.5, 0.6]) * radius)
    # A tolerance that float32 can still meet, so that what differs is rounding and not where the iteration stopped.
    solution = solve(field, x0, x1, manifold=sphere, alpha=0.4, tolerance=5e-4)
    double = solve(field, x0.double(), x1.double(), manifold=sphere, alpha=0.4, tolerance=5e-4)
    assert solution.status == double.status == (Status.CONVERGED,)
    assert solution.path.point(U).dtype == torch.float32
    difference = (solution.path.point(U) - double.path.point(U)).norm(dim=-1).max() / radius
    moved = (double.path.point(U) - double.path.base.point(U)).norm(dim=-1).max() / radius
    assert float(moved) > 0.01
    assert float(difference) < 1e-4


@pytest.mark.parametrize("intervals", [2, 3, 5, 8, 13, 40])
def test_any_number_of_intervals(intervals):
    ball = lg.PoincareBall()
    x0, x1 = in_ball(2, 2, 0.6, 1), in_ball(2, 2, 0.6, 2)
    solution = solve(ball, x0, x1, intervals=intervals, max_evaluations=2000)
    error = lg.geometry.length(solution.path, ball, 1.0) / ball.distance(x0, x1) - 1
    assert set(solution.status) == {Status.CONVERGED}
    assert float(error.abs().max()) < (1e-2 if intervals < 8 else 1e-6)


def test_without_its_aids_the_plain_fixed_point_still_solves_an_easy_problem():
    ball = lg.PoincareBall()
    x0, x1 = in_ball(2, 2, 0.3, 1), in_ball(2, 2, 0.3, 2)
    solution = solve(ball, x0, x1, memory=0, continuation=False, coarse_start=False)
    assert set(solution.status) == {Status.CONVERGED}


def test_a_score_with_a_noise_floor_stalls_rather_than_running_for_ever():
    class Rough(lg.ScoreField):
        def score(self, x, u):
            return lg.PoincareBall().score(x, u) + torch.sin(1e4 * x)

    x0, x1 = in_ball(1, 2, 0.5, 1), in_ball(1, 2, 0.5, 2)
    solution = solve(Rough(), x0, x1, max_evaluations=100_000)
    assert solution.status == (Status.STALLED,)
    assert int(solution.stats["evaluations"]) < 10_000


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("intervals", 1),
        ("tolerance", 0.0),
        ("max_evaluations", 0),
        ("memory", -1),
        ("trust", 0.0),
        ("patience", 0),
        ("starts", 0),
    ],
)
def test_options_are_validated(option, value):
    with pytest.raises(ValueError, match=option):
        lg.solvers.PicardAnderson(**{option: value})
