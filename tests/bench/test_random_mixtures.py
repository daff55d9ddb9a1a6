"""How the default solver does on random mixtures by strength, against lengths that are found independently.

Run with `pytest -m slow -s tests/bench/test_random_mixtures.py`; each test prints a line of JSON a range of strengths.
"""

import json
from functools import cache

import pytest
import torch
from random_mixtures import by_fast_marching, by_minimisation, exact_length, random_mixtures

import latent_geodesics as lg
from latent_geodesics.core.records import Status

RANGES = {(0.5, 10): 1.0, (10, 20): 0.95, (20, 50): 0.8}

pytestmark = pytest.mark.slow


PAIRS = {2: 150, 4: 36, 8: 24, 32: 100, 128: 16}


@cache
def measured(d):
    """Of each pair in so many dimensions: strength, whether it is solved, over its truth, over its line, and cost."""
    field, x0, x1, strengths = random_mixtures(PAIRS[d], d=d)
    truth = by_fast_marching(field, x0, x1, points=350) if d == 2 else by_minimisation(field, x0, x1, starts=5)
    problem = lg.BoundaryProblem(field=field, manifold=lg.Euclidean(), x0=x0, x1=x1)
    solution = lg.solvers.PicardAnderson().solve(problem)
    solved = torch.tensor([status.value in Status.solved() for status in solution.status])
    length = exact_length(solution.path, field)
    # The other side's polygons may be the longer ones: only what is over counts.
    longer = length > exact_length(lg.StraightLine(x0=x0, x1=x1), field) * (1 + 1e-9)
    return strengths, solved, solved & (length > 1.01 * truth), solved & longer, solution.stats["evaluations"]


@pytest.mark.parametrize("d", PAIRS)
def test_random_mixtures_are_solved(d, capsys):
    strengths, solved, over, longer, evaluations = measured(d)
    for (low, high), share in RANGES.items():
        some = (strengths >= low) & (strengths < high)
        if not bool(some.any()):
            continue
        spent = evaluations[some].double()
        row = {"d": d, "strengths": [low, high], "pairs": int(some.sum()), "converged": int(solved[some].sum())}
        row |= {"over_1_percent": int(over[some].sum()), "longer_than_the_line": int(longer[some].sum())}
        with capsys.disabled():
            print("\n" + json.dumps(row | {"evaluations": [float(spent.median()), float(spent.max())]}))
        assert float(solved[some].double().mean()) >= share
    assert not bool(longer.any())


IN_THE_PLANE = pytest.mark.xfail(strict=True, reason="3 of 150: one below strength 10, where 1 % may be")


@pytest.mark.parametrize(
    ("d", "allowed"),
    [pytest.param(2, 0.01, marks=IN_THE_PLANE), (4, 0.02), (8, 0.02), (32, 0.02), (128, 0.02)],
)
def test_random_mixtures_end_at_the_shortest_path(d, allowed):
    _, solved, over, *_ = measured(d)
    assert float(over[solved].double().mean()) <= allowed
