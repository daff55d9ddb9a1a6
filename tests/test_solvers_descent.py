"""The published descent: its schedule, its heuristics, and what it shares with the other solver."""

import math

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.core.records import Status

U = torch.linspace(0, 1, 17, dtype=torch.float64)
SPHERE = lg.Sphere(4.0)


def ends(pairs=3, d=5):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, pairs, d, generator=generator, dtype=torch.float64)
    return SPHERE.project(x[0]), SPHERE.project(x[1])


def mixture(d=5):
    generator = torch.Generator().manual_seed(1)
    means = 3 * torch.randn(4, d, generator=generator, dtype=torch.float64)
    return lg.GaussianMixture(means=means, scales=torch.full((4,), 2.0, dtype=torch.float64))


def problem(field=None, *, alpha=0.3, manifold=SPHERE, select=slice(None)):
    x0, x1 = ends()
    return lg.BoundaryProblem(field=field or mixture(), manifold=manifold, x0=x0[select], x1=x1[select], alpha=alpha)


def descend(task, **options):
    return lg.solvers.ControlPointDescent(**options).solve(task)


def test_the_published_schedule():
    solver = lg.solvers.ControlPointDescent()
    mass = [sum(solver.rate(k, 2**level - 1) for k in range(100 * level - 100, 100 * level)) for level in (1, 2, 3, 4)]
    assert [round(value, 2) for value in mass] == [8.76, 2.09, 0.54, 0.08]
    constant = lg.solvers.ControlPointDescent(linear_decay=False, rate_over_points=False)
    assert constant.rate(399, 15) == 0.1


def test_without_the_skip_rule_it_costs_2600_evaluations_and_shortens_the_path():
    field = mixture()
    solution = descend(problem(field), skip_rule=False)
    assert solution.stats["evaluations"].tolist() == [2600] * 3
    assert solution.stats["iterations"].tolist() == [400] * 3
    assert field.evaluations == 3 * 2600
    arcs = lg.shortest_path(SPHERE, *ends())
    assert bool((lg.geometry.length(solution.path, field, 0.3) < lg.geometry.length(arcs, field, 0.3)).all())
    spent = solution.trace.evaluations[:, 0].diff()
    assert [int((spent == n).sum()) for n in (1, 3, 7, 15)] == [99, 100, 100, 100]


def test_it_comes_close_to_the_path_of_the_other_solver():
    field = lg.IsotropicGaussian(mean=3 * torch.eye(5, dtype=torch.float64)[0], scale=2.0)
    task = problem(field, alpha=0.5)
    schedule = {"levels": 3, "level_iterations": 50, "iterations": 150, "linear_decay": False}
    found = descend(task, learning_rate=0.02, skip_rule=False, rate_over_points=False, **schedule).path
    other = lg.solvers.PicardAnderson().solve(task).path
    arcs = lg.shortest_path(SPHERE, *ends())
    lengths = [lg.geometry.length(path, field, 0.5) for path in (arcs, found, other)]
    assert bool((lengths[2] < lengths[1]).all())
    assert bool((lengths[1] - lengths[2] < 0.2 * (lengths[0] - lengths[2])).all())


def test_the_skip_rule_ends_a_level_without_a_step_when_the_curvature_outweighs_the_score():
    solution = descend(problem())
    assert bool((solution.stats["evaluations"] < 2600).all())
    skipped = solution.trace.step == 0
    assert bool((skipped.sum(0) >= 1).all())
    assert bool((solution.trace.step[0] > 0).all())


def test_its_path_has_the_three_published_curves():
    points = lg.shortest_path(SPHERE, *ends()).point(U[::4])
    points = SPHERE.project(points + 0.2 * torch.sin(9 * points))
    path = lg.solvers.ControlPointPath(points=points, manifold=SPHERE)
    middle = torch.tensor([0.125], dtype=torch.float64)
    halfway = SPHERE.project(points[:, 0] + points[:, 1])
    torch.testing.assert_close(path.point(middle)[:, 0], halfway)
    at, h = torch.tensor([0.25], dtype=torch.float64), 1e-6
    left, right = (path.point(at) - path.point(at - h)) / h, (path.point(at + h) - path.point(at)) / h
    torch.testing.assert_close(path.velocity(at), (left + right) / 2, atol=1e-4, rtol=1e-4)
    bends = path.acceleration(U[::4])
    assert float(bends[:, [0, -1]].abs().max()) < 1e-9
    moment = (bends[:, :-2] + 4 * bends[:, 1:-1] + bends[:, 2:]) / 6
    torch.testing.assert_close(moment, (points[:, :-2] - 2 * points[:, 1:-1] + points[:, 2:]) * 16)
    finer = path.refine(16)
    for one, other in zip((path.point(U), path.acceleration(U)), (finer.point(U), finer.acceleration(U)), strict=True):
        torch.testing.assert_close(one, other)


def test_ends_are_exact_points_on_the_sphere_and_inputs_unchanged():
    task = problem()
    before = task.x0.clone(), task.x1.clone()
    path = descend(task, iterations=120).path
    assert torch.equal(path.point(U)[:, 0], before[0])
    assert torch.equal(path.point(U)[:, -1], before[1])
    assert bool(SPHERE.contains(path.point(U), 1e-12).all())
    assert torch.equal(task.x0, before[0])
    assert torch.equal(task.x1, before[1])


@pytest.mark.parametrize("skip_rule", [True, False])
def test_a_pair_does_not_depend_on_its_batch(skip_rule):
    together = descend(problem(), skip_rule=skip_rule, iterations=150, level_iterations=40)
    for pair in range(3):
        task = problem(select=slice(pair, pair + 1))
        alone = descend(task, skip_rule=skip_rule, iterations=150, level_iterations=40)
        torch.testing.assert_close(alone.path.point(U)[0], together.path.point(U)[pair], atol=1e-10, rtol=0)
        assert alone.stats["evaluations"][0] == together.stats["evaluations"][pair]


def test_only_new_points_leaves_the_old_ones():
    options = {"skip_rule": False, "level_iterations": 5, "iterations": 10, "levels": 2}
    middle = torch.tensor([0.5], dtype=torch.float64)
    first = descend(problem(), skip_rule=False, level_iterations=5, iterations=5, levels=1, linear_decay=False)
    kept = descend(problem(), only_new_points=True, linear_decay=False, **options)
    torch.testing.assert_close(kept.path.point(middle), first.path.point(middle))
    moved = descend(problem(), linear_decay=False, **options)
    assert float((moved.path.point(middle) - first.path.point(middle)).abs().max()) > 1e-6


def test_statuses():
    assert set(descend(problem(), iterations=3).status) == {Status.BUDGET_EXHAUSTED}
    uniform = descend(problem(lg.StereographicSphere(), alpha=1.0), tolerance=1e3)
    assert set(uniform.status) == {Status.CONVERGED}
    limited = descend(problem(), max_evaluations=50, skip_rule=False)
    assert limited.stats["evaluations"].tolist() == [50] * 3
    assert set(limited.status) == {Status.BUDGET_EXHAUSTED}
    same = lg.BoundaryProblem(field=mixture(), manifold=SPHERE, x0=ends()[0], x1=ends()[0])
    assert set(descend(same).status) == {Status.COINCIDENT_ENDS}
    assert descend(problem(alpha=0.0)).stats["evaluations"].tolist() == [0, 0, 0]


def test_a_score_that_is_not_finite_gives_back_the_last_finite_path():
    ball = lg.PoincareBall()
    angle = torch.tensor([0.0, 2.0], dtype=torch.float64)
    x = 0.8 * torch.stack([angle.cos(), angle.sin()], -1)
    task = lg.BoundaryProblem(field=ball, manifold=lg.Euclidean(), x0=x[:1], x1=x[1:])
    solution = descend(task, skip_rule=False, learning_rate=3.0)
    assert solution.status == (Status.NON_FINITE_SCORE,)
    assert torch.isfinite(ball.score(solution.path.point(U), solution.path.point(U)[..., 0])).all()


def test_it_runs_in_flat_space():
    half = lg.HalfSpace()
    x0, x1 = torch.tensor([[-1.0, 1.0]], dtype=torch.float64), torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    task = lg.BoundaryProblem(field=half, manifold=lg.Euclidean(), x0=x0, x1=x1)
    solution = descend(task, skip_rule=False, learning_rate=0.05)
    assert math.isclose(float(lg.geometry.length(solution.path, half, 1.0)), float(half.distance(x0, x1)), rel_tol=5e-3)


@pytest.mark.parametrize(
    ("option", "value"),
    [("levels", 0), ("iterations", 0), ("level_iterations", 0), ("learning_rate", 0.0), ("max_evaluations", 0)],
)
def test_options_are_validated(option, value):
    with pytest.raises(ValueError, match=option):
        lg.solvers.ControlPointDescent(**{option: value})
