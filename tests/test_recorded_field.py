"""A field that remembers where it was asked, and solvers watched through it."""

import pytest
import torch

import latent_geodesics as lg
from latent_geodesics.core.solvers import ControlPointDescent, PicardAnderson
from latent_geodesics.experiments.evolution.paths import measure, select, watch

X0 = torch.tensor([[-1.5, 0.4]], dtype=torch.float64)
X1 = torch.tensor([[1.2, 0.7]], dtype=torch.float64)
SOLVERS = {
    "picard": PicardAnderson(),
    "descent": ControlPointDescent(levels=3, level_iterations=20, iterations=60),
}


def problem(field, *, x0=X0, x1=X1, manifold=None, alpha=1.0):
    return lg.BoundaryProblem(field=field, manifold=manifold or lg.Euclidean(), x0=x0, x1=x1, alpha=alpha)


@pytest.fixture(params=list(SOLVERS))
def solver(request):
    return SOLVERS[request.param]


def test_recording_changes_nothing():
    plain, recorded = lg.HalfSpace(), lg.RecordedField(lg.HalfSpace())
    x, u = torch.stack([X0, X1], 1), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert torch.equal(recorded.score(x, u), plain.score(x, u))
    assert recorded.evaluations == 2
    assert [query.evaluations for query in recorded.queries] == [2]
    assert torch.equal(recorded.queries[0].x, x)


def test_what_is_recorded_does_not_change_with_what_the_solver_does_to_its_points():
    recorded = lg.RecordedField(lg.HalfSpace())
    x = X0[:, None].clone()
    recorded.score(x, torch.tensor([[0.5]]))
    x += 1
    assert torch.equal(recorded.queries[0].x[0], X0)


def test_a_view_records_for_the_whole():
    class PairDependent(lg.ScoreField):
        def __init__(self, height):
            self.height = height

        def score(self, x, u):
            return x * 0 + self.height[:, None, None]

        def restrict(self, pairs):
            return PairDependent(self.height[pairs]).share_evaluations(self)

    recorded = lg.RecordedField(PairDependent(torch.tensor([1.0, 2.0])))
    view = recorded.restrict(torch.tensor([1]))
    assert float(view.score(torch.zeros(1, 1, 2), torch.tensor([[0.5]])).max()) == 2
    assert recorded.evaluations == 1
    assert len(recorded.queries) == 1


def test_ends_alone_are_no_path():
    recorded = lg.RecordedField(lg.HalfSpace())
    for u in ([0.0, 1.0], [0.25, 0.5, 0.75], [0.5, 0.25]):
        at = torch.tensor([u], dtype=torch.float64)
        recorded.score(X0[:, None].expand(-1, len(u), -1), at)
    assert [query.u.tolist() for query in recorded.whole_paths()] == [[[0.25, 0.5, 0.75]]]


def test_a_watched_solver_gives_what_it_gives_unwatched(solver):
    course = watch(solver, problem(lg.HalfSpace()))
    alone = solver.solve(problem(lg.HalfSpace()))
    u = torch.linspace(0, 1, 17, dtype=torch.float64)
    assert torch.equal(course.solution.path.point(u), alone.path.point(u))
    assert course.solution.status == alone.status


def test_the_course_begins_with_the_straight_line_and_ends_with_the_solution(solver):
    course = watch(solver, problem(lg.HalfSpace()))
    u = torch.linspace(0, 1, 17, dtype=torch.float64)
    assert torch.allclose(course.iterates[0].path.point(u), lg.StraightLine(x0=X0, x1=X1).point(u), atol=1e-12)
    assert course.iterates[-1].path is course.solution.path
    costs = [iterate.evaluations for iterate in course.iterates]
    assert costs == sorted(costs)
    # The solver books an iteration for each path that it asks about, and looks that cost nothing.
    assert {*costs[1:-1]} <= {*course.solution.trace.evaluations[:, 0].tolist()}


def test_the_rebuilt_paths_are_the_solvers_own():
    """The last path asked about at its knots is the one given: rebuilt from its points, it must be the same curve.

    After it the solver looks between the knots, at points through which another curve leads.
    """
    course = watch(PicardAnderson(), problem(lg.HalfSpace()))
    u = torch.linspace(0, 1, 33, dtype=torch.float64)
    last = course.iterates[-3].path.point(u)
    assert torch.allclose(last, course.solution.path.point(u), rtol=0, atol=1e-10)


def test_a_path_on_a_sphere_stays_on_it(solver):
    sphere = lg.Sphere(torch.tensor([2.0], dtype=torch.float64))
    x0, x1 = (sphere.project(torch.tensor([v], dtype=torch.float64)) for v in ([1.0, 0.2, 0.5], [-0.3, 1.0, 0.4]))
    field = lg.GaussianMixture(means=torch.tensor([[2.0, 2.0, 0.0]]), scales=torch.tensor([1.0]))
    course = watch(solver, problem(field, x0=x0, x1=x1, manifold=sphere, alpha=0.3))
    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    for iterate in course.iterates:
        assert bool(sphere.contains(iterate.path.point(u), 1e-9).all())


def test_only_one_pair_is_watched():
    with pytest.raises(ValueError, match="one pair"):
        watch(PicardAnderson(), problem(lg.HalfSpace(), x0=X0.repeat(2, 1), x1=X1.repeat(2, 1)))


def test_the_selection_keeps_order_first_and_last(solver):
    course = watch(solver, problem(lg.HalfSpace()))
    chosen = select(course.iterates, 6)
    costs = [iterate.evaluations for iterate in chosen]
    assert 3 <= len(chosen) <= 6
    assert chosen[0] is course.iterates[0]
    assert chosen[-1] is course.iterates[-1]
    assert costs == sorted(set(costs))


def test_the_measures_fall_along_the_course():
    found = watch(PicardAnderson(), problem(lg.HalfSpace()))
    first, last = (
        measure(found.iterates[index], lg.HalfSpace(), lg.Euclidean(), 1.0, positions=257) for index in (0, -1)
    )
    exact = float(lg.HalfSpace().distance(X0, X1)[0] * X0[0, 1])
    assert last.length == pytest.approx(exact, rel=1e-3)
    assert first.length > 1.1 * exact
    assert last.residual < 1e-2 * first.residual
    assert last.log_density_mean > first.log_density_mean
    assert np_close(first.log_density[-1], float((X1[0, 1] / X0[0, 1]).log()))


def np_close(a, b):
    return abs(a - b) < 1e-3
