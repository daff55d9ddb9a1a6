import math

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.core.records import Status

OK = torch.zeros(2, 3)


def boundary(**changes):
    arguments = {"field": lg.UniformDensity(), "manifold": lg.Euclidean(), "x0": OK, "x1": OK + 1}
    return lg.BoundaryProblem(**(arguments | changes))


def initial(**changes):
    arguments = {"field": lg.UniformDensity(), "manifold": lg.Euclidean(), "x0": OK, "v0": OK + 1}
    return lg.InitialProblem(**(arguments | changes))


@pytest.mark.parametrize("make", [boundary, initial])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x0": [[0.0]]}, "float32 or float64"),
        ({"x0": OK.half()}, "float16"),
        ({"x0": OK[0]}, "shape"),
        ({"x0": OK[:0]}, "shape"),
        ({"x0": torch.tensor([[0.0, 0.0, math.nan], [0.0, 0.0, 0.0]])}, r"pairs \[0\]"),
        ({"x0": OK[:1]}, "agree"),
        ({"x0": OK.double()}, "agree"),
        ({"alpha": math.nan}, "alpha"),
        ({"alpha": math.inf}, "alpha"),
        ({"alpha": -0.1}, "alpha"),
        ({"field": lambda x, u: x}, "ScoreField"),
        ({"manifold": 3.0}, "manifold"),
        ({"manifold": lg.Sphere(2.0)}, "manifold.project"),
        ({"manifold": lg.Sphere(torch.ones(3))}, "3 radii for 2 pairs"),
    ],
)
def test_problems_are_validated(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_every_status_says_what_to_do():
    sentences = [status.sentence for status in Status]
    assert len(set(sentences)) == len(Status)
    assert all(sentence.endswith(".") for sentence in sentences)
    assert [status.value for status in Status if status.ok] == [
        "converged",
        "converged_to_resolution",
        "coincident_ends",
        "integrated",
        "closed_form",
        "optimised",
    ]
