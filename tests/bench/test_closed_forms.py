"""What the two boundary solvers cost and how far off they are where the answer is known.

Run with `pytest -m slow -s tests/bench/test_closed_forms.py`; each test writes a line of JSON to the log as well as
checking the bar. The published descent runs with its skip rule off and the learning rate that was best for it.
"""

import json
import math

import numpy as np
import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.records import Status

pytestmark = pytest.mark.slow


@pytest.fixture
def table(record_property, capsys):
    def add(**row):
        row = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in row.items()}
        record_property("row", json.dumps(row))
        with capsys.disabled():
            print("\n" + json.dumps(row))  # noqa: T201

    return add


def in_ball(pairs, d, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(pairs, d, generator=generator, dtype=torch.float64)
    return 0.8 * x / x.norm(dim=-1, keepdim=True)


def ball(d):
    pairs = 32 if d < 1000 else 6
    x0, x1 = in_ball(pairs, d, 1), in_ball(pairs, d, 2)
    x1[0] = -x0[0]
    x1[1] = lg.Sphere(0.8).project(-x0[1] + 0.02 * x1[1])
    return lg.PoincareBall(), x0, x1


def half_plane():
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(2, 32, 2, generator=generator, dtype=torch.float64) * 3
    x[..., 1] += 0.2
    return lg.HalfSpace(), x[0], x[1]


def relative_error(solution, density, truth, alpha=1.0):
    return (lg.geometry.length(solution.path, density, alpha) / truth - 1).abs()


CASES = {
    "ball, d=2": lambda: ball(2),
    "ball, d=64": lambda: ball(64),
    "ball, d=4096": lambda: ball(4096),
    "half-plane": half_plane,
}


@pytest.mark.parametrize("name", CASES)
def test_the_default_solver_on_closed_forms(name, table):
    density, x0, x1 = CASES[name]()
    problem = lg.BoundaryProblem(field=density, manifold=lg.Euclidean(), x0=x0, x1=x1)
    solution = lg.solvers.PicardAnderson().solve(problem)
    error, spent = relative_error(solution, density, density.distance(x0, x1)), solution.stats["evaluations"]
    table(
        case=name, solver="picard_anderson", evaluations=int(spent.max()), mean=float(spent.double().mean()),
        error=float(error.max()),
    )  # fmt: skip
    assert set(solution.status) == {Status.CONVERGED}
    assert int(spent.max()) <= 600
    assert float(error.max()) <= 1e-6


@pytest.mark.parametrize("name", CASES)
def test_the_published_descent_on_closed_forms(name, table):
    density, x0, x1 = CASES[name]()
    x0, x1 = x0[2:6], x1[2:6]
    problem = lg.BoundaryProblem(field=density, manifold=lg.Euclidean(), x0=x0, x1=x1)
    best = (math.inf, 0.0)
    for rate in (0.01, 0.02, 0.04, 0.08):
        solution = lg.solvers.ControlPointDescent(skip_rule=False, learning_rate=rate).solve(problem)
        error = float(relative_error(solution, density, density.distance(x0, x1)).max())
        best = min(best, (error, rate))
    table(case=name, solver="control_point_descent", evaluations=2600, error=best[0], learning_rate=best[1])
    assert best[0] < 0.05


def ring(radius=3.0, scale=0.7):
    angle = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    means = radius * torch.stack([angle.cos(), angle.sin()], -1)
    return lg.GaussianMixture(means=means, scales=torch.full((8,), scale, dtype=torch.float64))


def ring_ends(radius=3.0):
    degrees = torch.tensor(
        [[0, 170], [0, 175], [20, 195], [10, 160], [180, 45], [180, 20], [7, 181], [33, 190]], dtype=torch.float64
    )
    angle = torch.deg2rad(degrees)
    x = radius * torch.stack([angle.cos(), angle.sin()], -1)
    return x[:, 0], x[:, 1] * torch.linspace(0.9, 1.1, 8, dtype=torch.float64)[:, None]


def around(x0, x1, turn, count=33):
    """Knots of the arc from `x0` to `x1` that goes around the middle on one side."""
    start, end = torch.atan2(x0[:, 1], x0[:, 0]), torch.atan2(x1[:, 1], x1[:, 0])
    sweep = torch.remainder(end - start, 2 * math.pi) - (0 if turn > 0 else 2 * math.pi)
    u = torch.linspace(0, 1, count, dtype=torch.float64)
    angle = start[:, None] + sweep[:, None] * u
    radius = torch.lerp(x0.norm(dim=-1)[:, None], x1.norm(dim=-1)[:, None], u)
    knots = radius[..., None] * torch.stack([angle.cos(), angle.sin()], -1)
    return torch.cat([x0[:, None], knots[:, 1:-1], x1[:, None]], 1)


def shortest_of_many(field, x0, x1, alpha):
    """The least length that relaxing knots by L-BFGS reaches from the arcs on both sides of the middle."""
    lengths = []
    for start in (around(x0, x1, 1), around(x0, x1, -1)):
        inner = start[:, 1:-1].clone().requires_grad_(True)
        optimiser = torch.optim.LBFGS([inner], max_iter=300, history_size=30, line_search_fn="strong_wolfe")

        def length(inner=inner):
            path = lg.KnotPath.through(knots=torch.cat([x0[:, None], inner, x1[:, None]], 1), manifold=lg.Euclidean())
            return lg.geometry.length(path, field, alpha, order=4)

        def closure(length=length, optimiser=optimiser):
            optimiser.zero_grad()
            total = length().log().sum()
            total.backward()
            return total

        optimiser.step(closure)
        lengths.append(length().detach())
    return torch.stack(lengths).min(0).values


@pytest.mark.parametrize("alpha", [0.1, 0.3, 1.0])
def test_the_ring_of_eight_gaussians(alpha, table):
    field, (x0, x1) = ring(), ring_ends()
    truth = shortest_of_many(ring(), x0, x1, alpha)
    solution = lg.solvers.PicardAnderson().solve(
        lg.BoundaryProblem(field=field, manifold=lg.Euclidean(), x0=x0, x1=x1, alpha=alpha)
    )
    line = lg.geometry.length(lg.StraightLine(x0=x0, x1=x1), field, alpha) / truth
    found = lg.geometry.length(solution.path, field, alpha) / truth - 1
    spent = solution.stats["evaluations"]
    table(
        case="ring", alpha=alpha, solver="picard_anderson", evaluations=int(spent.max()),
        mean=float(spent.double().mean()), error=float(found.abs().max()), line=float(line.max()),
    )  # fmt: skip
    assert set(solution.status) == {Status.CONVERGED}
    assert int(spent.max()) <= 700
    assert float(found.max()) <= 1e-4


@pytest.mark.parametrize("alpha", [0.1, 0.3, 1.0])
def test_the_ring_against_fast_marching(alpha, table):
    skfmm = pytest.importorskip("skfmm")
    field = ring()
    x0 = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    angle = math.radians(170)
    x1 = 3 * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    axis = np.linspace(-5, 5, 1601)
    grid = torch.tensor(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1))
    speed = (alpha * field.log_prob(grid, grid[..., 0])).exp().numpy()
    # The travel time starts on a small circle, inside which the density is taken as constant.
    start = np.hypot(grid[..., 0] - 3, grid[..., 1]) - 0.05
    time = skfmm.travel_time(start, speed, dx=axis[1] - axis[0], order=2)
    row, column = (np.searchsorted(axis, float(value)) for value in x1[0])
    step = axis[1] - axis[0]
    fractions = [(float(value) - axis[i - 1]) / step for value, i in zip(x1[0], (row, column), strict=True)]
    cells = time[row - 1 : row + 1, column - 1 : column + 1]
    far = np.array([1 - fractions[0], fractions[0]]) @ cells @ np.array([1 - fractions[1], fractions[1]])
    truth = far + 0.05 * float((-alpha * field.log_prob(x0, x0[:, 0])).exp())
    solution = lg.solvers.PicardAnderson().solve(
        lg.BoundaryProblem(field=field, manifold=lg.Euclidean(), x0=x0, x1=x1, alpha=alpha)
    )
    error = float(lg.geometry.length(solution.path, field, alpha)) / truth - 1
    table(case="ring, fast marching 1601^2", alpha=alpha, solver="picard_anderson", error=error)
    assert abs(error) < 3e-3


def test_the_uniform_sphere(table):
    sphere = lg.Sphere(32.0)
    x0, x1 = sphere.project(in_ball(16, 1024, 1)), sphere.project(in_ball(16, 1024, 2))
    problem = lg.BoundaryProblem(field=lg.UniformDensity(), manifold=sphere, x0=x0, x1=x1)
    solution = lg.solvers.PicardAnderson().solve(problem)
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    arc = lg.GreatCircle(x0=x0, x1=x1, sphere=sphere).point(u)
    error = float((solution.path.point(u) - arc).norm(dim=-1).max()) / 32
    table(case="uniform sphere", evaluations=int(solution.stats["evaluations"].max()), error=error)
    assert error < 1e-8


def settles(problem, **options):
    return set(lg.solvers.PicardAnderson(**options).solve(problem).status) == {Status.CONVERGED}


def test_five_times_the_alpha_at_which_the_plain_fixed_point_settles(table):
    plain = {"memory": 0, "continuation": False, "coarse_start": False, "trust": 1e6, "max_evaluations": 3000}
    x0, x1 = ring_ends()
    for pair in range(8):
        ends = {"x0": x0[pair : pair + 1], "x1": x1[pair : pair + 1], "manifold": lg.Euclidean()}
        grid = [0.01 * 2 ** (step / 2) for step in range(16)]
        settled = [a for a in grid if settles(lg.BoundaryProblem(field=ring(), alpha=a, **ends), **plain)]
        alpha = max(settled)
        problem = lg.BoundaryProblem(field=ring(), alpha=5 * alpha, **ends)
        solution = lg.solvers.PicardAnderson().solve(problem)
        table(
            case=f"ring, pair {pair}, five times", alpha=5 * alpha, evaluations=int(solution.stats["evaluations"]),
            status=solution.status[0].value,
        )  # fmt: skip
        assert solution.status == (Status.CONVERGED,)
