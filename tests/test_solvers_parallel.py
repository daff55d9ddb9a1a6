"""The integrator that solves for all positions at once."""

import math

import pytest
import torch
from scipy.integrate._ivp import radau

import latent_geodesics as lg
from latent_geodesics.core.records import Status
from latent_geodesics.core.solvers.local_secants import LocalModel
from latent_geodesics.core.solvers.radau import radau_rule

U = torch.linspace(0, 1, 11, dtype=torch.float64)


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ball(d):
    x, y = (lg.Sphere(0.7).project(draw(3, d, seed=seed)) for seed in (1, 2))
    return lg.InitialProblem(field=lg.PoincareBall(), manifold=lg.Euclidean(), x0=x, v0=0.8 * (y - x))


def ring(alpha):
    angle = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    means = 3 * torch.stack([angle.cos(), angle.sin()], -1)
    field = lg.GaussianMixture(means=means, scales=torch.full((8,), 0.7, dtype=torch.float64))
    x0 = torch.tensor([[3.0, 0.0], [0.0, 2.5]], dtype=torch.float64)
    v0 = torch.tensor([[0.5, 4.0], [-3.0, 0.1]], dtype=torch.float64)
    return lg.InitialProblem(field=field, manifold=lg.Euclidean(), x0=x0, v0=v0, alpha=alpha)


def mixture_on_a_sphere(d):
    field = lg.GaussianMixture(means=draw(6, d, seed=5), scales=torch.linspace(0.8, 1.2, 6, dtype=torch.float64))
    sphere = lg.Sphere(math.sqrt(d))
    x0 = sphere.project(draw(3, d, seed=6))
    v0 = sphere.tangent(x0, draw(3, d, seed=7))
    return lg.InitialProblem(field=field, manifold=sphere, x0=x0, v0=v0, alpha=0.02)


CASES = {
    "ball, d=2": lambda: ball(2),
    "ball, d=64": lambda: ball(64),
    "ring": lambda: ring(0.1),
    "mixture on a sphere, d=64": lambda: mixture_on_a_sphere(64),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_it_beats_ten_times_as_many_calls_of_the_fourth_order_method(name, tolerance):
    problem = CASES[name]()
    fine = lg.solvers.AdaptiveRungeKutta(tolerance=1e-10, max_evaluations=10**5).solve(problem)
    solution = lg.solvers.ParallelCollocation(tolerance=tolerance).solve(problem)
    assert set(solution.status) == {Status.INTEGRATED}
    calls = int(solution.stats["sequential"].max())
    other = lg.solvers.RungeKutta4(steps=10 * calls // 4).solve(problem)
    ours, theirs = ((s.path.knots[:, -1] - fine.path.knots[:, -1]).norm(dim=-1) for s in (solution, other))
    # The worst path of each: a single one of the other may be right by luck.
    assert float(ours.max()) < float(theirs.max())
    assert bool((ours < tolerance * problem.v0.norm(dim=-1)).all())
    assert bool((solution.stats["sequential"] * 16 == solution.stats["evaluations"]).all())


def test_the_rule_with_three_points_is_radau_iia():
    rule, root = radau_rule(3), math.sqrt(6)
    wanted = [
        [(88 - 7 * root) / 360, (296 - 169 * root) / 1800, (-2 + 3 * root) / 225],
        [(296 + 169 * root) / 1800, (88 + 7 * root) / 360, (-2 - 3 * root) / 225],
        [(16 - root) / 36, (16 + root) / 36, 1 / 9],
    ]
    torch.testing.assert_close(rule.integral, torch.tensor(wanted, dtype=torch.float64), rtol=1e-13, atol=1e-14)
    assert rule.nodes.tolist() == pytest.approx(radau.C.tolist(), abs=1e-14)


@pytest.mark.parametrize("q", [4, 16, 24])
def test_the_rule_is_exact_for_polynomials(q):
    rule = radau_rule(q)
    values = rule.nodes**3 - 2 * rule.nodes
    integral = rule.nodes**4 / 4 - rule.nodes**2
    torch.testing.assert_close(rule.integral @ values, integral, rtol=0, atol=1e-13)
    assert float(rule.start @ values) == pytest.approx(0, abs=1e-12)
    assert float(rule.end_slope @ values) == pytest.approx(1, abs=1e-9)
    assert float((rule.coefficients @ values)[4:].abs().max() if q > 4 else 0) < 1e-13
    half = rule.nodes / 2
    torch.testing.assert_close(
        rule.resample(torch.tensor([0.5, 1.0]))[0] @ values, half**3 - 2 * half, rtol=0, atol=1e-12
    )


def test_the_model_of_the_score_is_exact_where_a_node_has_been():
    jacobian, at = draw(2, 3, 5, 5, seed=0), draw(2, 3, 5, seed=1)

    def score(x):
        return (jacobian @ (x - at)[..., None])[..., 0]

    points = draw(4, 2, 3, 5, seed=2)
    model = LocalModel.through(points, score(points))
    shares = draw(3, seed=3)
    inside = points[-1] + torch.einsum("m,m...->...", shares, points[:-1] - points[-1])
    torch.testing.assert_close(model(inside), score(inside), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.frozen(torch.tensor([True, True]))(inside), score(points[-1]))
    half = model.frozen(torch.tensor([True, False]))(inside)
    torch.testing.assert_close(half[1], score(inside)[1], rtol=1e-9, atol=1e-9)


def test_an_isotropic_score_is_known_after_two_iterates():
    def score(x):
        return 2 - 3 * x

    points = draw(2, 2, 3, 50, seed=0)
    somewhere = draw(2, 3, 50, seed=1)
    model = LocalModel.through(points, score(points))
    torch.testing.assert_close(model(somewhere), score(somewhere), rtol=1e-9, atol=1e-9)


def test_copies_of_an_iterate_add_nothing():
    points = draw(2, 2, 3, 5, seed=0)
    doubled = torch.cat([points[:1], points[:1], points[1:], points[1:]])
    once, twice = LocalModel.through(points, points**2), LocalModel.through(doubled, doubled**2)
    y = draw(2, 3, 5, seed=4)
    assert torch.isfinite(twice(y)).all()
    torch.testing.assert_close(twice(points[0]), once(points[0]), rtol=1e-8, atol=1e-8)
    alone = LocalModel.through(points[1:], points[1:] ** 2)
    torch.testing.assert_close(alone(y), points[-1] ** 2)


def test_the_memory_saves_calls():
    counts = [
        sum(
            int(lg.solvers.ParallelCollocation(tolerance=1e-7, memory=memory).solve(make()).stats["sequential"].sum())
            for make in CASES.values()
        )
        for memory in (0, 5)
    ]
    assert counts[1] < counts[0]


def test_a_kink_of_the_score_narrows_the_windows():
    class Wall(lg.ScoreField):
        """The score of a density that falls off beyond a wall, linearly in the logarithm."""

        def score(self, x, u):
            beyond = (x[..., :1] > 0.5).to(x)
            return torch.cat([-4 * beyond, 3 * beyond], -1)

    x0, v0 = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[1.2, 0.0]], dtype=torch.float64)
    problem = lg.InitialProblem(field=Wall(), manifold=lg.Euclidean(), x0=x0, v0=v0, alpha=0.5)
    solution = lg.solvers.ParallelCollocation(tolerance=1e-4).solve(problem)
    fine = lg.solvers.RungeKutta4(steps=1200).solve(problem)
    assert solution.status == (Status.INTEGRATED,)
    assert float((solution.path.knots[:, -1] - fine.path.knots[:, -1]).norm()) < 2e-3
    widths = solution.path.nodes[0, ::16].diff()
    assert float(widths.max()) > 10 * float(widths.min())


def test_a_score_that_varies_along_the_path_is_asked_at_the_right_positions():
    class Varying(lg.ScoreField):
        def score(self, x, u):
            return torch.stack([torch.zeros_like(u), torch.cos(6 * u)], -1)

    x0, v0 = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[1.0, 0.2]], dtype=torch.float64)
    problem = lg.InitialProblem(field=Varying(), manifold=lg.Euclidean(), x0=x0, v0=v0, alpha=2.0)
    ends = [s.solve(problem).path.point(U) for s in (lg.solvers.ParallelCollocation(), lg.solvers.RungeKutta4())]
    torch.testing.assert_close(ends[0], ends[1], atol=1e-5, rtol=0)


def test_a_noisy_score_ends_with_a_status():
    class Noisy(lg.ScoreField):
        def __init__(self):
            self._generator = torch.Generator().manual_seed(0)

        def score(self, x, u):
            return -x + 3 * torch.randn(x.shape, generator=self._generator, dtype=x.dtype)

    problem = lg.InitialProblem(
        field=Noisy(), manifold=lg.Sphere(2.0), x0=lg.Sphere(2.0).project(draw(2, 8, seed=0)), v0=draw(2, 8, seed=1)
    )
    solution = lg.solvers.ParallelCollocation(tolerance=1e-4, max_evaluations=800).solve(problem)
    assert set(solution.status) <= {Status.STOPPED_SHORT, Status.STEP_TOO_SMALL}
    assert torch.isfinite(solution.path.point(U)).all()
