"""The default solver against the published descent, on the shipped model and pairs with the same score.

Residual: mean over the 15 interior positions u = k/16 of |P_v(alpha s + g''/|g'|^2)|, one definition for every path.
Run by `make bench-solvers`; each test prints a table that the README quotes.
"""

import os
from pathlib import Path

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.bench.measures import evaluations_to
from latent_geodesics.data import PairData, read_batch
from latent_geodesics.methods import PairEncoder
from latent_geodesics.models.scores import Conditional, Contrastive

ROOT = Path(__file__).parents[2]
PAIRS = int(os.environ.get("BENCH_PAIRS", "4"))
POSITIONS = torch.linspace(0, 1, 17, dtype=torch.float64)[1:-1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def batch_and_model():
    model = lg.load_model(ROOT / "data" / "models" / "clevr-ldm", dtype="float32")
    pairs = PairData(manifest=ROOT / "data" / "pairs" / "manifest.csv", limit=PAIRS).pairs
    return read_batch(pairs, size=model.image_size), model


def problem_of(batch_and_model, *, score, alpha):
    batch, model = batch_and_model
    return PairEncoder(model=model, score=score, tau=0.6, alpha=alpha).encode(batch).problem


def residual(path, problem):
    return lg.geometry.residual(path, problem.field, problem.manifold, problem.alpha, POSITIONS).mean(-1)


@pytest.mark.parametrize(
    ("score", "alpha"), [(Contrastive(), 0.002), (Conditional(), 0.002)], ids=["contrastive", "conditional"]
)
def test_evaluations_against_the_published_descent(batch_and_model, capsys, score, alpha):
    problem = problem_of(batch_and_model, score=score, alpha=alpha)
    slerp = residual(lg.GreatCircle(x0=problem.x0, x1=problem.x1, sphere=problem.manifold), problem)
    ours = lg.solvers.PicardAnderson(max_evaluations=200).solve(problem)
    with_rule = lg.solvers.ControlPointDescent().solve(problem)
    without_rule = lg.solvers.ControlPointDescent(skip_rule=False).solve(problem)
    ours_at, with_at, without_at = (residual(s.path, problem) for s in (ours, with_rule, without_rule))
    spent = evaluations_to(ours, without_at)
    saved = without_rule.stats["evaluations"] / spent
    with capsys.disabled():
        print(f"\n{type(score).__name__}, alpha {alpha}: residual (evaluations), a line a pair")
        print("slerp      with the rule       without it          ours               ours to the same  fewer")
        for row in range(len(slerp)):
            print(
                f"{slerp[row]:.2e}  {with_at[row]:.2e} ({with_rule.stats['evaluations'][row]:5.0f})  "
                f"{without_at[row]:.2e} ({without_rule.stats['evaluations'][row]:5.0f})  "
                f"{ours_at[row]:.2e} ({ours.stats['evaluations'][row]:4.0f})  {spent[row]:8.0f}  {saved[row]:12.0f}x"
            )
    if isinstance(score, Contrastive):
        assert (saved >= 30).all()  # not so where ours never gets there, which is NaN
        assert (ours_at * 100 <= with_at).all()
        assert (ours.stats["evaluations"] <= 200).all()


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
