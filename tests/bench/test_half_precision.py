"""The default solver with scores in half precision, on the shipped model and pairs: what it costs, and what it finds.

Run by `make bench-solvers`; it prints the table that `experiments/bench/README.md` quotes.
"""

import os
from pathlib import Path

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.core.records import Status
from latent_geodesics.data import PairData, read_batch
from latent_geodesics.methods import PairEncoder
from latent_geodesics.models.scores import Conditional

ROOT = Path(__file__).parents[2]
PAIRS = int(os.environ.get("BENCH_PAIRS", "4"))
U = torch.linspace(0, 1, 17, dtype=torch.float64)
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def problems():
    """The same latents, found in float32, seen by networks of three precisions."""
    pairs = PairData(manifest=ROOT / "data" / "pairs" / "manifest.csv", limit=PAIRS).pairs
    found, exact = {}, None
    for name in PRECISIONS:
        model = lg.load_model(ROOT / "data" / "models" / "clevr-ldm", dtype=name)
        batch = read_batch(pairs, size=model.image_size)
        problem = PairEncoder(model=model, score=Conditional(), tau=0.6, alpha=0.002).encode(batch).problem
        exact = exact or problem
        found[name] = lg.BoundaryProblem(
            field=problem.field, manifold=exact.manifold, x0=exact.x0, x1=exact.x1, alpha=0.002
        )
    return found


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("tolerance", [None, 3e-4])
def test_half_precision(problems, capsys, name, tolerance):
    exact, problem = problems["float32"], problems[name]
    known = lg.solvers.PicardAnderson(tolerance=tolerance).solve(exact)
    found = known if name == "float32" else lg.solvers.PicardAnderson(tolerance=tolerance).solve(problem)
    spent, usual = (solution.stats["evaluations"].double() for solution in (found, known))
    error = problem.field.score(exact.x0[:, None], torch.zeros(PAIRS, 1))
    true = exact.field.score(exact.x0[:, None], torch.zeros(PAIRS, 1))
    lengths = [lg.geometry.relative_length(each.path, exact.field, exact.alpha) for each in (found, known)]
    away = (found.path.point(U) - known.path.point(U)).norm(dim=-1).amax(1) / exact.x0.norm(dim=-1)
    row = [
        f"{name}, tolerance {tolerance or 'default'}: {sorted({status.value for status in found.status})}",
        f"score's relative error {float(((error - true).norm(dim=-1) / true.norm(dim=-1)).mean()):.1e}",
        f"evaluations {float(spent.mean()):.0f}, over float32's {float(spent.sum() / usual.sum()):.2f}",
        f"for the worst pair {float((spent / usual).max()):.2f}; points within {float(away.max()):.1e} of the radius",
        f"lengths within {float((lengths[0] / lengths[1] - 1).abs().max()):.1e}",
    ]
    with capsys.disabled():
        print("\n" + ", ".join(row))
    assert all(status.value in Status.solved() for status in found.status)
    assert float(away.max()) < 0.02
