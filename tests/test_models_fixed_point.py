"""The row-wise fixed-point solver on linear problems, whose solutions are known."""

import pytest
import torch

from latent_geodesics.models.inversion import solve_fixed_point


@pytest.fixture
def problem():
    """`g(x) = A x + b` with a contraction of 0.9 in its slowest direction, and its fixed points."""
    rng = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=rng, dtype=torch.float64))
    matrix = turn @ torch.diag(torch.linspace(-0.5, 0.9, 6, dtype=torch.float64)) @ turn.mT
    offsets = torch.randn(5, 6, generator=rng, dtype=torch.float64)
    solutions = torch.linalg.solve(torch.eye(6, dtype=torch.float64) - matrix, offsets.mT).mT
    return matrix, offsets, solutions


def test_mixing_solves_what_plain_steps_would_need_a_hundred_for(problem):
    matrix, offsets, solutions = problem
    found = solve_fixed_point(
        lambda x, rows: x @ matrix + offsets[rows], torch.zeros_like(offsets), evaluations=25, tolerance=1e-8
    )
    torch.testing.assert_close(found.x, solutions, rtol=1e-6, atol=1e-6)


def test_one_evaluation_is_the_function_itself(problem):
    matrix, offsets, _ = problem
    start = torch.ones_like(offsets)
    found = solve_fixed_point(lambda x, rows: x @ matrix + offsets[rows], start, evaluations=1, tolerance=1e-8)
    torch.testing.assert_close(found.x, start @ matrix + offsets)


def test_rows_leave_when_they_are_solved_and_do_not_feel_each_other(problem):
    matrix, offsets, solutions = problem
    asked = []

    def function(x, rows):
        asked.append(rows.tolist())
        return x @ matrix + offsets[rows]

    start = torch.zeros_like(offsets)
    start[3] = solutions[3]
    together = solve_fixed_point(function, start, evaluations=30, tolerance=1e-6)
    assert asked[0] == [0, 1, 2, 3, 4]
    assert all(3 not in rows for rows in asked[1:])
    alone = solve_fixed_point(
        lambda x, rows: x @ matrix + offsets[1:2][rows], start[1:2], evaluations=30, tolerance=1e-6
    )
    torch.testing.assert_close(together.x[1:2], alone.x, rtol=1e-6, atol=1e-9)


def test_a_row_that_is_not_finite_does_not_spoil_the_others(problem):
    matrix, offsets, solutions = problem
    offsets = offsets.clone()
    offsets[2] = float("nan")
    found = solve_fixed_point(
        lambda x, rows: x @ matrix + offsets[rows], torch.zeros_like(offsets), evaluations=25, tolerance=1e-8
    )
    assert found.x[2].isnan().all()
    others = [0, 1, 3, 4]
    torch.testing.assert_close(found.x[others], solutions[others], rtol=1e-6, atol=1e-6)


def test_how_far_each_row_is_from_solved_is_told(problem):
    matrix, offsets, solutions = problem
    start = torch.cat([solutions[:1], torch.zeros_like(offsets[1:])])
    found = solve_fixed_point(lambda x, rows: x @ matrix + offsets[rows], start, evaluations=3, tolerance=1e-8)
    left = (found.x @ matrix + offsets - found.x).norm(dim=-1) / found.x.norm(dim=-1)
    assert found.error[0] < 1e-8
    assert (found.error[1:] > 1e-3).all()
    assert (found.error[1:] > left[1:] / 4).all()  # that of the iterate before the last mixing
