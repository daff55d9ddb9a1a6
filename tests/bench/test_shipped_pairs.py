"""The default solver against the published descent, on the shipped model and pairs with the same score.

Both are judged on one kind of curve, the quintic spline through 17 points of a path, at positions where neither of
them solves an equation, and by the length: its gap to the shortest path that is found, as a share of what that gains
over the great circle. Run by `make bench-solvers`; each test prints a table that `experiments/bench/README.md` quotes.
"""

import os
from pathlib import Path

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.data import PairData, read_batch
from latent_geodesics.methods import PairEncoder
from latent_geodesics.models.scores import Conditional, Contrastive

ROOT = Path(__file__).parents[2]
PAIRS = int(os.environ.get("BENCH_PAIRS", "4"))
KNOTS = torch.linspace(0, 1, 17, dtype=torch.float64)
POSITIONS = (torch.arange(16, dtype=torch.float64) + 0.37) / 16
BUDGETS = (30, 60, 100, 200)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def batch_and_model():
    model = lg.load_model(ROOT / "data" / "models" / "clevr-ldm", dtype="float32")
    pairs = PairData(manifest=ROOT / "data" / "pairs" / "manifest.csv", limit=PAIRS).pairs
    return read_batch(pairs, size=model.image_size), model


def problem_of(batch_and_model, *, score, alpha):
    batch, model = batch_and_model
    return PairEncoder(model=model, score=score, tau=0.6, alpha=alpha).encode(batch).problem


def measures(path, problem):
    """The residual at positions of nobody's choice, and the length, of the quintic through 17 points of a path."""
    curve = lg.KnotPath.through(knots=path.point(KNOTS), manifold=problem.manifold)
    residual = lg.geometry.residual(curve, problem.field, problem.manifold, problem.alpha, POSITIONS).mean(-1)
    return residual, lg.geometry.relative_length(curve, problem.field, problem.alpha)


@pytest.mark.parametrize(
    ("score", "alpha"), [(Contrastive(), 0.002), (Conditional(), 0.002)], ids=["contrastive", "conditional"]
)
def test_residual_and_length_against_evaluations(batch_and_model, capsys, score, alpha):
    problem = problem_of(batch_and_model, score=score, alpha=alpha)
    slerp = lg.GreatCircle(x0=problem.x0, x1=problem.x1, sphere=problem.manifold)
    solutions = {f"ours, at most {most}": lg.solvers.PicardAnderson(max_evaluations=most) for most in BUDGETS}
    solutions |= {
        "ours": lg.solvers.PicardAnderson(),
        "descent, its skip rule": lg.solvers.ControlPointDescent(),
        "descent without it": lg.solvers.ControlPointDescent(skip_rule=False),
    }
    start, longest = measures(slerp, problem)
    found = {}
    for name, solver in solutions.items():
        solution = solver.solve(problem)
        found[name] = (*measures(solution.path, problem), solution.stats["evaluations"])
    shortest = torch.stack([length for _, length, _ in found.values()]).amin(0)
    with capsys.disabled():
        print(f"\n{type(score).__name__}, alpha {alpha}: evaluations, residual (slerp {start.mean():.1e}), length gap")
        for name, (residual, length, spent) in found.items():
            gap = (length - shortest) / (longest - shortest)
            cost, gaps = f"{spent.double().mean():7.0f}", f"{gap.mean():.1%}, worst {gap.max():.1%}"
            print(f"{name:24s} {cost}  {residual.mean():.1e}  {gaps}")
    residual, length, _ = found["ours"]
    assert (residual < start).all()
    if isinstance(score, Conditional):
        # The contrastive score is too far from a gradient for its lengths to rank.
        assert (length - shortest <= 0.05 * (longest - shortest)).all()


def test_what_is_left_between_the_knots(batch_and_model, capsys):
    """Of all pairs that methods are judged by, as `experiment=interpolation` poses them."""
    model = batch_and_model[1]
    pairs = PairData(manifest=ROOT / "data" / "pairs" / "manifest.csv", split="evaluation").pairs
    setting = {"model": model, "score": Conditional(), "tau": 0.6, "alpha_d": 3.0, "condition": "mean"}
    problem = PairEncoder(**setting).encode(read_batch(pairs, size=model.image_size)).problem
    solution = lg.solvers.PicardAnderson().solve(problem)
    spent, between = solution.stats["evaluations"], solution.stats["residual_between"]
    with capsys.disabled():
        print(f"\n{len(pairs)} pairs: {spent.double().mean():.0f} evaluations ({spent.min()} to {spent.max()}),")
        print(f"residual between the knots {between.median():.2%}, at most {between.max():.2%}")
    assert all(status.ok for status in solution.status)
    assert float((between <= solution.stats["tolerance"]).double().mean()) >= 0.95


@pytest.mark.parametrize("score", [Contrastive(), Conditional()], ids=["contrastive", "conditional"])
def test_five_times_the_alpha_of_the_plain_fixed_point(batch_and_model, capsys, score):
    """Finds the largest alpha (doubling) at which the undamped fixed point settles, then solves at five times that."""
    plain = lg.solvers.PicardAnderson(
        memory=0, continuation=False, coarse_start=False, trust=1e6, max_evaluations=1500, tolerance=1e-3
    )
    alpha, largest = 0.001, None
    while alpha < 10:
        solution = plain.solve(problem_of(batch_and_model, score=score, alpha=alpha))
        if not all(status.ok for status in solution.status):
            break
        largest, alpha = alpha, alpha * 2
    assert largest is not None
    solver = lg.solvers.PicardAnderson(max_evaluations=3000, tolerance=1e-3)
    solution = solver.solve(problem_of(batch_and_model, score=score, alpha=5 * largest))
    with capsys.disabled():
        spent = [int(n) for n in solution.stats["evaluations"]]
        print(f"\n{type(score).__name__}: plain settles up to alpha {largest}; at {5 * largest}: {spent} evaluations,")
        print([status.value for status in solution.status])
    assert all(status.ok for status in solution.status)
