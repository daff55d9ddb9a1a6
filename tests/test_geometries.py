"""Geometries: the seam, and each against closed forms, quadrature and direct minimisation."""

import math

import pytest
import torch
from scipy.integrate import quad, solve_ivp
from scipy.optimize import brentq

import latent_geodesics as lg
from latent_geodesics.core.records import Status
from latent_geodesics.metrics import path_curves

U = torch.linspace(0, 1, 17, dtype=torch.float64)
BETWEEN = (U[1:] + U[:-1]) / 2
GRAPH = lg.Graph(lam=2.0)
TYPICAL = lg.Typical(alpha=1.0, middle=0.8, width=0.3)
EVERY = [lg.Conformal(alpha=0.5), GRAPH, TYPICAL]
R0, R1, TURN = 0.7, 1.9, 0.6
INTEGRATORS = [
    lg.solvers.RungeKutta4(steps=60),
    lg.solvers.AdaptiveRungeKutta(tolerance=1e-8),
    lg.solvers.ParallelCollocation(tolerance=1e-8),
]


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def gaussian(d=2):
    return lg.IsotropicGaussian(mean=torch.zeros(d, dtype=torch.float64), scale=1.0)


def mixture(d=3):
    means = torch.randn(4, d, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return lg.GaussianMixture(means=means, scales=torch.full((4,), 0.8, dtype=torch.float64))


def on_sphere(pairs, d, radius, seed):
    generator = torch.Generator().manual_seed(seed)
    return lg.Sphere(radius).project(torch.randn(pairs, d, generator=generator, dtype=torch.float64))


def pairs_on_sphere():
    x0 = on_sphere(3, 3, 1.5, 9)
    return x0, lg.Sphere(1.5).project(x0 + on_sphere(3, 3, 1.4, 10))


def solve(geometry, field, x0, x1, *, manifold=None, **options):
    manifold = manifold or lg.Euclidean()
    problem = lg.BoundaryProblem(field=field, manifold=manifold, x0=x0, x1=x1, geometry=geometry)
    return lg.solvers.PicardAnderson(**options).solve(problem)


def ends_of_turn():
    return vector([R0, 0.0]), R1 * vector([math.cos(TURN), math.sin(TURN)])


def test_alpha_is_short_for_the_conformal_geometry():
    x0, x1 = vector([0.5, 0.0]), vector([0.0, 0.6])
    ends = {"field": lg.PoincareBall(), "manifold": lg.Euclidean(), "x0": x0, "x1": x1}
    short, long = lg.BoundaryProblem(**ends, alpha=0.5), lg.BoundaryProblem(**ends, geometry=lg.Conformal(alpha=0.5))
    assert short.geometry == long.geometry
    assert lg.BoundaryProblem(**ends).geometry == lg.Conformal(alpha=1.0)
    paths = [lg.solvers.PicardAnderson().solve(problem).path for problem in (short, long)]
    assert torch.equal(paths[0].point(U), paths[1].point(U))
    measured = [lg.geometry.residual(paths[0], lg.PoincareBall(), lg.Euclidean(), g, U) for g in (0.5, long.geometry)]
    assert torch.equal(*measured)
    with pytest.raises(ValueError, match="not both"):
        lg.BoundaryProblem(**ends, alpha=0.5, geometry=lg.Conformal(alpha=0.5))
    with pytest.raises(ValueError, match=r"must be a Geometry.*received 0\.5"):
        lg.BoundaryProblem(**ends, geometry=0.5)


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, "much", True, None])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda value: lg.Conformal(alpha=value), "alpha"),
        (lambda value: lg.Graph(lam=value), "lam"),
        (lambda value: lg.Typical(alpha=value, width=1.0), "alpha"),
        (lambda value: lg.Typical(width=value), "width"),
        (lambda value: lg.Typical(width=1.0, middle=math.nan if value == -1.0 else value), "middle"),
    ],
    ids=["conformal", "graph", "typical", "width", "middle"],
)
def test_a_strength_that_is_none_is_refused(make, name, wrong):
    with pytest.raises(lg.UserError, match=f"{name} must be a finite number"):
        make(wrong)


def test_a_range_without_width_and_the_published_descent_elsewhere_are_refused():
    with pytest.raises(lg.UserError, match="width must be above zero"):
        lg.Typical(width=0)
    problem = lg.BoundaryProblem(
        field=gaussian(), manifold=lg.Euclidean(), x0=vector([1.0, 0]), x1=vector([0, 1.0]), geometry=GRAPH
    )
    with pytest.raises(lg.UserError, match=r"Conformal alone.*Graph\(lam=2.0\).*PicardAnderson"):
        lg.solvers.ControlPointDescent().solve(problem)


@pytest.mark.parametrize("lam", [0.1, 10.0])
def test_where_log_p_is_linear_its_graph_is_flat(lam):
    direction, geometry = vector(0.5, 1.0), lg.Graph(lam=lam)
    x0, x1 = vector([0.0, 0.0], [1.0, -1.0]), vector([1.0, 2.0], [3.0, 0.0])
    solution = solve(geometry, lg.Exponential(direction=direction), x0, x1)
    assert set(solution.status) == {Status.CONVERGED}
    torch.testing.assert_close(solution.path.point(U), lg.StraightLine(x0=x0, x1=x1).point(U), rtol=0, atol=1e-13)
    exact = ((x1 - x0).square().sum(-1) + lam * ((x1 - x0) @ direction).square()).sqrt()
    torch.testing.assert_close(solution.trace.length[-1], exact, rtol=1e-13, atol=0)
    torch.testing.assert_close(
        lg.geometry.length(solution.path, lg.Exponential(direction=direction), geometry), exact, rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("lam", [0.1, 1.0, 10.0, 100.0])
def test_the_graph_of_a_gaussian_is_a_paraboloid(lam):
    """Clairaut: `r^2 theta' / |v|_G = h` on the surface of revolution `ds^2 = (1 + lam r^2) dr^2 + r^2 dtheta^2`."""
    solution = solve(lg.Graph(lam=lam), gaussian(), *ends_of_turn(), intervals=32, tolerance=3e-4)
    meridian = lambda r: math.sqrt(1 + lam * r * r)  # noqa: E731
    turned = lambda h: quad(lambda r: h * meridian(r) / (r * math.sqrt(r * r - h * h)), R0, R1)[0]  # noqa: E731
    h = brentq(lambda h: turned(h) - TURN, 0, R0 * (1 - 1e-9), xtol=1e-14)
    exact = quad(lambda r: meridian(r) * r / math.sqrt(r * r - h * h), R0, R1)[0]
    assert set(solution.status) == {Status.CONVERGED}
    assert float(lg.geometry.length(solution.path, gaussian(), lg.Graph(lam=lam))[0]) == pytest.approx(exact, rel=1e-7)
    x, v = solution.path.point(U)[0], solution.path.velocity(U)[0]
    element = (v.square().sum(-1) + lam * (x * v).sum(-1).square()).sqrt()
    clairaut = (x[:, 0] * v[:, 1] - x[:, 1] * v[:, 0]) / element
    torch.testing.assert_close(clairaut, torch.full_like(clairaut, h), rtol=2e-3, atol=0)
    # It runs at constant speed in its own metric, so the log-density is the straighter the longer a nat is.
    torch.testing.assert_close(element, torch.full_like(element, exact), rtol=2e-3, atol=0)


def test_the_graph_of_a_zonal_density_on_the_sphere_is_a_surface_of_revolution_too():
    """`log p = c z`: `ds^2 = (R^2 + lam c^2 sin^2) dtheta^2 + R^2 sin^2 dphi^2`, so `R^2 sin^2 phi' / |v|_G = h`."""
    radius, geometry, field = 1.5, lg.Graph(lam=3.0), lg.Exponential(direction=vector(0.0, 0.0, 1.2))
    x0, x1 = on_sphere(3, 3, radius, 1), on_sphere(3, 3, radius, 2)
    solution = solve(geometry, field, x0, x1, manifold=lg.Sphere(radius), intervals=32, max_evaluations=3000)
    assert set(solution.status) == {Status.CONVERGED}
    x, v = solution.path.point(U), solution.path.velocity(U)
    element = (v.square().sum(-1) + 3.0 * (1.2 * v[..., 2]).square()).sqrt()
    clairaut = (x[..., 0] * v[..., 1] - x[..., 1] * v[..., 0]) / element
    assert float((clairaut - clairaut.mean(-1, keepdim=True)).abs().max()) < 4e-3
    assert float((element / element.mean(-1, keepdim=True) - 1).abs().max()) < 4e-3


def test_the_log_density_is_the_more_linear_the_stronger_the_graph():
    field, x0, x1 = mixture(), on_sphere(4, 3, 1.5, 1), on_sphere(4, 3, 1.5, 2)
    bows = []
    for lam in (0.0, 1.0, 10.0, 100.0):
        path = solve(lg.Graph(lam=lam), field, x0, x1, max_evaluations=3000).path
        level = field.log_prob(path.point(U), U.expand(4, -1))
        bows.append((level - torch.lerp(level[:, :1], level[:, -1:], U)).abs().amax(-1))
    assert bool((bows[1] < bows[0]).all() & (bows[2] < bows[1] / 2).all() & (bows[3] < bows[2] / 2).all())


@pytest.mark.parametrize(
    "geometry",
    [
        lg.Typical(alpha=1.0, middle=0.3, width=0.4),
        lg.Typical(alpha=0.5, middle=-0.3, width=0.3),
        lg.Typical(alpha=0.3, middle=5.0, width=0.1),
        lg.Typical(alpha=0.3, middle=-5.0, width=0.1),
    ],
    ids=["above", "below", "far below the range", "far above the range"],
)
def test_the_typical_range_of_a_gaussian_against_quadrature(geometry):
    """Clairaut: `n r^2 theta' / |v| = h` with the refractive index `n = exp(alpha w phi)`."""
    reference = -(R0**2 + R1**2) / 4

    def index(r):
        level = vector(-r * r / 2 - reference)
        return float(geometry.line_element(geometry.alpha, speed=vector(1.0), rate=vector(0.0), log_density=level))

    def root(r, h):
        return math.sqrt(max((index(r) * r) ** 2 - h * h, 1e-30))

    narrowest = min(index(r) * r for r in torch.linspace(R0, R1, 2000).tolist())
    turned = lambda h: quad(lambda r: h / (r * root(r, h)), R0, R1, limit=300)[0]  # noqa: E731
    h = brentq(lambda h: turned(h) - TURN, 0, narrowest * (1 - 1e-4), xtol=1e-12)
    exact = quad(lambda r: index(r) ** 2 * r / root(r, h), R0, R1, limit=300)[0]
    solution = solve(geometry, gaussian(), *ends_of_turn(), intervals=32, max_evaluations=3000)
    assert set(solution.status) == {Status.CONVERGED}
    assert float(lg.geometry.length(solution.path, gaussian(), geometry)[0]) == pytest.approx(exact, rel=1e-6)


def test_far_from_the_typical_range_its_geometry_is_that_of_a_power_up_or_down():
    x0, x1 = ends_of_turn()
    for middle, alpha in ((50.0, 0.4), (-50.0, 0.4)):
        path = solve(lg.Typical(alpha=alpha, middle=middle, width=1.0), gaussian(), x0, x1, tolerance=1e-6).path
        # A density whose power is -alpha is that of minus its logarithm.
        field = gaussian() if middle > 0 else Inverse()
        expected = solve(lg.Conformal(alpha=alpha), field, x0, x1, tolerance=1e-6).path
        torch.testing.assert_close(path.point(U), expected.point(U), rtol=0, atol=1e-6)


class Inverse(lg.Density):
    """One over a Gaussian."""

    def log_prob(self, x, u):
        return x.square().sum(-1) / 2


@pytest.mark.parametrize("manifold", [lg.Euclidean(), lg.Sphere(1.5)], ids=["flat", "sphere"])
def test_within_the_typical_range_paths_are_the_shortest(manifold):
    x0, x1 = on_sphere(3, 3, 1.5, 1), on_sphere(3, 3, 1.5, 2)
    solution = solve(lg.Typical(alpha=5.0, width=100.0), mixture(), x0, x1, manifold=manifold)
    assert set(solution.status) == {Status.CONVERGED}
    torch.testing.assert_close(solution.path.point(U), lg.shortest_path(manifold, x0, x1).point(U), rtol=0, atol=1e-12)


class Analytic(torch.nn.Module):
    """A mixture whose score can be differentiated, for direct minimisation."""

    def __init__(self, field):
        super().__init__()
        self.means, self.scales = field.means, field.scales

    def forward(self, x):
        squared = (x[..., None, :] - self.means).square().sum(-1) / self.scales**2
        level = -squared / 2 - self.means.shape[-1] * self.scales.log()
        log_p = level.logsumexp(-1)
        return log_p, torch.autograd.grad(log_p.sum(), x, create_graph=True)[0]


def least_length(geometry, manifold, field, x0, x1):
    """The least length of the quintics through 15 inner knots, by L-BFGS on their energy."""
    nodes, density = torch.linspace(0, 1, 17, dtype=torch.float64), Analytic(field)
    base = lg.KnotPath.through(knots=lg.shortest_path(manifold, x0, x1).point(nodes), manifold=manifold).base
    inner = torch.zeros(len(x0), 15, x0.shape[1], dtype=torch.float64, requires_grad=True)
    at = torch.linspace(0, 1, 129, dtype=torch.float64)

    def elements():
        path = lg.KnotPath(base=base, offsets=torch.nn.functional.pad(inner, (0, 0, 1, 1)), manifold=manifold)
        x, v = path.point(at), path.velocity(at)
        level, score = density(x if x.requires_grad else x.requires_grad_())
        return geometry.line_element(
            geometry.strength, speed=v.norm(dim=-1), rate=(score * v).sum(-1), log_density=geometry.refer(level)
        )

    optimiser = torch.optim.LBFGS(
        [inner], max_iter=150, tolerance_grad=1e-8, history_size=30, line_search_fn="strong_wolfe"
    )

    def energy():
        optimiser.zero_grad()
        value = torch.trapezoid(elements().square(), at).sum()
        value.backward()
        return value

    optimiser.step(energy)
    return torch.trapezoid(elements(), at).detach()


@pytest.mark.parametrize("manifold", [lg.Euclidean(), lg.Sphere(1.5)], ids=["flat", "sphere"])
@pytest.mark.parametrize("geometry", EVERY, ids=lambda geometry: type(geometry).__name__)
def test_solved_paths_are_as_short_as_direct_minimisation_finds(geometry, manifold):
    field, (x0, x1) = mixture(), pairs_on_sphere()
    solution = solve(geometry, field, x0, x1, manifold=manifold)
    assert set(solution.status) == {Status.CONVERGED}
    found = lg.geometry.length(solution.path, field, geometry)
    found = found / geometry_scale(geometry, field, x0)
    least = least_length(geometry, manifold, field, x0, x1) / geometry_scale(geometry, analytic_level(field), x0)
    assert float((found / least - 1).abs().max()) < 1e-4
    start = lg.geometry.length(lg.shortest_path(manifold, x0, x1), field, geometry)
    assert bool((found * geometry_scale(geometry, field, x0) < start).all())


def analytic_level(field):
    """The field's log-density as `Analytic` has it, up to another constant."""

    class Level(lg.Density):
        def log_prob(self, x, u):
            return Analytic(field)(x.detach().requires_grad_())[0].detach()

    return Level()


def geometry_scale(geometry, field, x0):
    """The factor that the constant of a log-density puts on lengths."""
    if not isinstance(geometry, lg.Conformal):
        return torch.ones(len(x0), dtype=torch.float64)
    return (-geometry.alpha * field.log_prob(x0, torch.zeros(len(x0), dtype=torch.float64))).exp()


@pytest.mark.parametrize("manifold", [lg.Euclidean(), lg.Sphere(1.5)], ids=["flat", "sphere"])
@pytest.mark.parametrize("geometry", [GRAPH, lg.Typical(alpha=1.0, middle=0.1, width=0.3, from_start=True)], ids=str)
def test_a_path_between_two_ends_is_found_again_from_its_start(geometry, manifold):
    field, (x0, x1) = mixture(), pairs_on_sphere()
    path = solve(geometry, field, x0, x1, manifold=manifold, intervals=32, tolerance=1e-4, max_evaluations=3000).path
    v0 = path.velocity(vector(0.0))[:, 0]
    problem = lg.InitialProblem(field=field, manifold=manifold, x0=x0, v0=v0, geometry=geometry)
    for integrator in INTEGRATORS:
        before = field.evaluations
        solution = integrator.solve(problem)
        assert set(solution.status) == {Status.INTEGRATED}
        assert float((solution.path.point(U) - path.point(U)).norm(dim=-1).max()) < 2e-3
        assert field.evaluations - before == int(solution.stats["evaluations"].sum())
        assert float(solution.stats["residual"].max()) < 0.05
        assert bool(manifold.contains(solution.path.point(U), 1e-10).all())


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda integrator: type(integrator).__name__)
def test_the_graph_of_a_gaussian_against_the_equation_with_its_hessian(integrator):
    """`v^T H v = -|v|^2`, so `x'' = -lam |v|^2 x / (1 + lam |x|^2)`, at the graph's own constant speed."""
    lam, x0, v0 = 3.0, [1.2, -0.4, 0.3], [-1.0, 0.7, 0.9]

    def slope(_, state):
        x, v = state[:3], state[3:]
        return [*v, *(-lam * (v @ v) * x / (1 + lam * x @ x))]

    exact = solve_ivp(slope, (0, 1), [*x0, *v0], rtol=1e-11, atol=1e-12).y[:3, -1]
    problem = lg.InitialProblem(
        field=gaussian(3), manifold=lg.Euclidean(), x0=vector(x0), v0=vector(v0), geometry=lg.Graph(lam=lam)
    )
    end = integrator.solve(problem).path.point(vector(1.0))[0, 0]
    torch.testing.assert_close(end, torch.from_numpy(exact), rtol=0, atol=2e-6)


@pytest.mark.parametrize("geometry", EVERY, ids=lambda geometry: type(geometry).__name__)
def test_a_solved_path_reversed_alone_in_float32_and_measured(geometry):
    field, manifold = mixture(), lg.Sphere(1.5)
    x0, x1 = pairs_on_sphere()
    path = solve(geometry, field, x0, x1, manifold=manifold, tolerance=1e-7, refine=False).path
    back = solve(geometry, field, x1, x0, manifold=manifold, tolerance=1e-7, refine=False).path
    torch.testing.assert_close(path.point(U), back.point(1 - U), rtol=0, atol=1e-6)
    alone = solve(geometry, field, x0[1:2], x1[1:2], manifold=manifold, tolerance=1e-7, refine=False).path
    torch.testing.assert_close(path.point(U)[1:2], alone.point(U), rtol=0, atol=1e-10)
    half = lg.GaussianMixture(means=field.means.float(), scales=field.scales.float())
    single = solve(geometry, half, manifold.project(x0.float()), manifold.project(x1.float()), manifold=manifold)
    assert set(single.status) == {Status.CONVERGED}
    torch.testing.assert_close(single.path.point(U).double(), path.point(U), rtol=0, atol=2e-3)
    start = lg.shortest_path(manifold, x0, x1)
    residual = [lg.geometry.residual(one, field, manifold, geometry, BETWEEN).mean(-1) for one in (path, start)]
    assert bool((residual[0] < 0.1 * residual[1]).all())
    curves = path_curves(path, field, manifold, geometry, positions=129)
    torch.testing.assert_close(
        curves.residual[:, 1:-1],
        lg.geometry.residual(path, field, manifold, geometry, curves.u[1:-1]),
        rtol=0,
        atol=2e-3,
    )
    at_start = geometry_scale(geometry, field, x0)
    for length in (lg.geometry.relative_length(path, field, geometry), curves.length):
        torch.testing.assert_close(length * at_start, lg.geometry.length(path, field, geometry), rtol=1e-4, atol=0)
    profile = lg.geometry.density_profile(path, field).length(geometry)
    torch.testing.assert_close(profile.value * at_start, lg.geometry.length(path, field, geometry), rtol=1e-5, atol=0)


class Coarse(lg.ScoreField):
    """The score of a mixture, rounded as float16 rounds."""

    def score(self, x, u):
        return mixture(16).score(x, u).half().to(x)

    def resolution(self, x, u):
        return lg.Resolution(error=2e-4, precision="float16")


@pytest.mark.parametrize(
    "geometry",
    [lg.Graph(lam=0.3), pytest.param(lg.Typical(alpha=0.5, width=1.0), marks=pytest.mark.slow)],
    ids=str,
)
def test_coarse_scores_end_at_what_they_resolve(geometry):
    manifold = lg.Sphere(3.0)
    x0, x1 = (on_sphere(3, 16, 3.0, seed)[:2] for seed in (9, 10))
    coarse = solve(geometry, Coarse(), x0, x1, manifold=manifold, tolerance=1e-6)
    assert set(coarse.status) <= {Status.CONVERGED, Status.RESOLVED}
    exact = solve(geometry, mixture(16), x0, x1, manifold=manifold, tolerance=1e-4)
    assert set(exact.status) == {Status.CONVERGED}
    lengths = [lg.geometry.length(one.path, mixture(16), geometry) for one in (coarse, exact)]
    torch.testing.assert_close(*lengths, rtol=3e-4, atol=0)


def test_the_string_method_climbs_onto_the_ridge():
    angle = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    means = 3 * torch.stack([angle.cos(), angle.sin()], -1)
    field = lg.GaussianMixture(means=means, scales=torch.full((8,), 0.7, dtype=torch.float64))
    x0, x1 = means[:1].clone(), means[2:3].clone()
    problem = lg.BoundaryProblem(field=field, manifold=lg.Euclidean(), x0=x0, x1=x1, alpha=0.0)
    solution = lg.solvers.StringMethod(max_evaluations=1500).solve(problem)
    assert set(solution.status) == {Status.CONVERGED}
    assert field.evaluations == int(solution.stats["evaluations"].sum())
    x, v = solution.path.point(U), solution.path.velocity(U)
    score = field.score(x, U[None])
    assert float(lg.geometry.normal_to(v, score).norm(dim=-1).mean() / score.norm(dim=-1).mean()) < 0.02
    # Between the modes the ridge runs along the circle through them, not along the chord.
    assert float(x.norm(dim=-1).min()) > 2.7
    apart = x.diff(dim=1).norm(dim=-1)
    assert float((apart / apart.mean() - 1).abs().max()) < 0.05


def test_the_string_method_says_how_it_ended():
    field, (x0, x1) = mixture(), pairs_on_sphere()
    x1[1] = x0[1]
    problem = lg.BoundaryProblem(field=field, manifold=lg.Sphere(1.5), x0=x0, x1=x1)
    short = lg.solvers.StringMethod(max_evaluations=60).solve(problem)
    assert short.status[1] is Status.COINCIDENT_ENDS
    assert short.status[0] is Status.BUDGET_EXHAUSTED
    assert int(short.stats["evaluations"].max()) <= 60
    assert bool(lg.Sphere(1.5).contains(short.path.point(U), 1e-10).all())

    class Broken(lg.ScoreField):
        def score(self, x, u):
            return torch.full_like(x, torch.nan)

    broken = lg.BoundaryProblem(field=Broken(), manifold=lg.Sphere(1.5), x0=x0, x1=x1)
    solution = lg.solvers.StringMethod().solve(broken)
    assert solution.status[0] is Status.NON_FINITE_SCORE
    assert bool(torch.isfinite(solution.path.point(U)).all())
    for wrong in ({"intervals": 3}, {"tolerance": 0.0}, {"max_evaluations": 0}, {"trust": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            lg.solvers.StringMethod(**wrong)
