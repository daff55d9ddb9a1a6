"""How the default solver does on random mixtures by strength, against lengths that are found independently.

Run with `pytest -m slow -s tests/bench/test_random_mixtures.py`; each test prints a line of JSON a range of strengths.
"""

import json

import pytest
import torch
from random_mixtures import by_fast_marching, by_minimisation, exact_length, random_mixtures

import latent_geodesics as lg
from latent_geodesics.core.records import Status

RANGES = {(0.5, 10): 1.0, (10, 20): 0.95, (20, 50): 0.8}

pytestmark = pytest.mark.slow


def solved_and_measured(field, x0, x1, truth):
    problem = lg.BoundaryProblem(field=field, manifold=lg.Euclidean(), x0=x0, x1=x1)
    solution = lg.solvers.PicardAnderson().solve(problem)
    solved = torch.tensor([status.value in Status.solved() for status in solution.status])
    length = exact_length(solution.path, field)
    # The other side's polygons may be the longer ones: only what is over counts.
    longer = length > exact_length(lg.StraightLine(x0=x0, x1=x1), field) * (1 + 1e-9)
    return solution, solved, solved & (length > 1.01 * truth), solved & longer


SETS = {"plane": {2: 150}, "space": {4: 36, 8: 24, 32: 16, 128: 16}}
"""Dimension -> how many pairs."""


@pytest.mark.parametrize(("name", "allowed"), [("plane", 0.01), ("space", 0.02)])
def test_random_mixtures(name, allowed, capsys):
    """All that are weaker than 10 converge, few of them to a path over 1 % too long; of the stronger most converge."""
    counts = dict.fromkeys((strengths for strengths in RANGES), (0, 0, 0))
    for d, pairs in SETS[name].items():
        field, x0, x1, strengths = random_mixtures(pairs, d=d)
        truth = by_fast_marching(field, x0, x1, points=350) if d == 2 else by_minimisation(field, x0, x1, starts=5)
        solution, solved, over, longer = solved_and_measured(field, x0, x1, truth)
        assert not bool(longer.any())
        for low, high in RANGES:
            some = (strengths >= low) & (strengths < high)
            if not bool(some.any()):
                continue
            found = int(some.sum()), int(solved[some].sum()), int(over[some].sum())
            counts[low, high] = tuple(map(sum, zip(counts[low, high], found, strict=True)))
            spent = solution.stats["evaluations"][some].double()
            row = dict(zip(("pairs", "converged", "over_1_percent"), found, strict=True))
            with capsys.disabled():
                head = {"d": d, "strengths": [low, high]}
                print("\n" + json.dumps(head | row | {"evaluations": [float(spent.median()), float(spent.max())]}))
    for strengths, share in RANGES.items():
        pairs, converged, _ = counts[strengths]
        assert converged >= share * pairs, strengths
    _, converged, over = counts[0.5, 10]
    assert over <= allowed * converged
