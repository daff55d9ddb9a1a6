"""What the integrators of the initial problem cost, and how far off the ends of their paths are.

Calls of the score one after another, at equal error: the parallel integrator against the fewest steps of the
fourth-order method with which its worst path is no further off. Errors are shares of the length of the path, against
the adaptive integrator at a tolerance of 1e-10 (1e-6 on the shipped model, whose network computes in float32). Run by
`pytest -m slow -s tests/bench/test_initial_value.py`; each test prints a line of JSON as well as checking the bar.
"""

import json
import math
from pathlib import Path

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.core.records import Status

ROOT = Path(__file__).parents[2]
BAR = 4
STEPS = sorted({round(2 ** (k / 2)) for k in range(2, 22)})

pytestmark = pytest.mark.slow


@pytest.fixture
def table(record_property, capsys):
    def add(**row):
        row = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in row.items()}
        record_property("row", json.dumps(row))
        with capsys.disabled():
            print("\n" + json.dumps(row))

    return add


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ball(d):
    x, y = (lg.Sphere(0.7).project(draw(4 if d < 1000 else 2, d, seed=seed)) for seed in (1, 2))
    return lg.InitialProblem(field=lg.PoincareBall(), manifold=lg.Euclidean(), x0=x, v0=0.8 * (y - x))


def ring(alpha):
    angle = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    means = 3 * torch.stack([angle.cos(), angle.sin()], -1)
    field = lg.GaussianMixture(means=means, scales=torch.full((8,), 0.7, dtype=torch.float64))
    turn = torch.deg2rad(torch.tensor([[0, 100], [20, 120], [180, 45], [10, 160]], dtype=torch.float64))
    x = 3 * torch.stack([turn.cos(), turn.sin()], -1)
    boundary = lg.BoundaryProblem(field=field, manifold=lg.Euclidean(), x0=x[:, 0], x1=x[:, 1], alpha=alpha)
    solver = lg.solvers.PicardAnderson(intervals=64, tolerance=1e-6, max_evaluations=20000)
    v0 = solver.solve(boundary).path.velocity(torch.zeros(1, dtype=torch.float64))[:, 0]
    return lg.InitialProblem(field=field, manifold=lg.Euclidean(), x0=x[:, 0], v0=v0, alpha=alpha)


def mixture(d, alpha, *, sphere=False):
    means = 2 * draw(6, d, seed=5) * math.sqrt(8 / d)
    field = lg.GaussianMixture(means=means, scales=torch.linspace(0.9, 1.1, 6, dtype=torch.float64))
    manifold = lg.Sphere(math.sqrt(d)) if sphere else lg.Euclidean()
    x0 = manifold.project(means[:3] + 0.6 * draw(3, d, seed=6))
    x1 = manifold.project(means[1:4] + 0.6 * draw(3, d, seed=7))
    return lg.InitialProblem(field=field, manifold=manifold, x0=x0, v0=manifold.log(x0, x1), alpha=alpha)


CASES = {
    "ball, d=2": lambda: ball(2),
    "ball, d=64": lambda: ball(64),
    "ball, d=4096": lambda: ball(4096),
    "ring, alpha=0.1": lambda: ring(0.1),
    "ring, alpha=0.3": lambda: ring(0.3),
    "ring, alpha=1": lambda: ring(1.0),
    "mixture, d=64": lambda: mixture(64, 0.05),
    "mixture, d=1024": lambda: mixture(1024, 0.02),
    "mixture on a sphere, d=64": lambda: mixture(64, 0.05, sphere=True),
    "mixture on a sphere, d=1024": lambda: mixture(1024, 0.02, sphere=True),
}


def end(solution):
    return solution.path.knots[:, -1]


def compare(problem, *, tolerance, reference, steps, table, case):
    """The calls of each integrator; those of the fourth-order one at the error of the parallel one."""
    truth = end(lg.solvers.AdaptiveRungeKutta(tolerance=reference, max_evaluations=10**5).solve(problem))
    length = problem.v0.norm(dim=-1)

    def error(solution):
        return float(((end(solution) - truth).norm(dim=-1) / length).max())

    parallel = lg.solvers.ParallelCollocation(tolerance=tolerance).solve(problem)
    adaptive = lg.solvers.AdaptiveRungeKutta(tolerance=tolerance).solve(problem)
    assert set(parallel.status) == {Status.INTEGRATED}
    ours, calls = error(parallel), int(parallel.stats["sequential"].max())
    needed = None
    for count in steps:
        if error(lg.solvers.RungeKutta4(steps=count).solve(problem)) <= ours:
            needed = 4 * count + 1
            break
    at_least = needed or 4 * steps[-1] + 1
    table(
        case=case, tolerance=tolerance, parallel_calls=calls, parallel_error=ours,
        parallel_evaluations=int(parallel.stats["evaluations"].max()), rk4_calls=needed or f"> {at_least}",
        times_fewer=at_least / calls, adaptive_calls=int(adaptive.stats["sequential"].max()),
        adaptive_error=error(adaptive),
    )  # fmt: skip
    assert at_least >= BAR * calls


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("case", CASES)
def test_sequential_calls_at_equal_error(case, tolerance, table):
    compare(CASES[case](), tolerance=tolerance, reference=1e-10, steps=STEPS, table=table, case=case)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_sequential_calls_at_equal_error_on_the_shipped_model(tolerance, table):
    from latent_geodesics.data import PairData, read_batch
    from latent_geodesics.methods import PairEncoder
    from latent_geodesics.models.scores import Conditional

    model = lg.load_model(ROOT / "data" / "models" / "clevr-ldm", dtype="float32")
    pairs = PairData(manifest=ROOT / "data" / "pairs" / "manifest.csv", limit=3).pairs
    encoder = PairEncoder(model=model, score=Conditional(), tau=0.6, alpha=0.003)
    problem = encoder.encode(read_batch(pairs, size=model.image_size)).problem
    boundary = lg.solvers.PicardAnderson().solve(problem)
    initial = lg.InitialProblem(
        field=problem.field,
        manifold=problem.manifold,
        x0=problem.x0,
        v0=boundary.path.velocity(torch.zeros(1, dtype=torch.float64))[:, 0],
        alpha=problem.alpha,
    )
    steps = [count for count in STEPS if count <= 64]
    compare(initial, tolerance=tolerance, reference=1e-6, steps=steps, table=table, case="shipped model")


@pytest.mark.parametrize("case", ["ball, d=64", "mixture, d=64", "mixture on a sphere, d=64"])
def test_the_fourth_order_method_is_of_order_four(case, table):
    problem = CASES[case]()
    truth = end(lg.solvers.AdaptiveRungeKutta(tolerance=1e-12, max_evaluations=10**5).solve(problem))
    errors = [(end(lg.solvers.RungeKutta4(steps=n).solve(problem)) - truth).norm(dim=-1) for n in (64, 128, 256)]
    ratios = [float((a / b).median()) for a, b in zip(errors, errors[1:], strict=False)]
    table(case=case, ratio_64_to_128=ratios[0], ratio_128_to_256=ratios[1])
    assert all(12 <= ratio <= 20 for ratio in ratios)
