"""Every field, manifold, path, solver and integrator on the pretended device gives the numbers of the CPU."""

import inspect
import pkgutil
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pretended_device import OnDevice, counting, pretended_device

import latent_geodesics as lg
from latent_geodesics.core import geometry
from latent_geodesics.core.fields.base import _Guarded, guarded
from latent_geodesics.core.fields.recorded import RecordedField
from latent_geodesics.core.hermite import HermitePath
from latent_geodesics.core.joined import JoinedPath
from latent_geodesics.core.manifold import Manifold
from latent_geodesics.core.path import GreatCircle, KnotPath, StraightLine, shortest_path
from latent_geodesics.core.solvers import ControlPointPath
from latent_geodesics.core.solvers.base import BoundarySolver
from latent_geodesics.core.solvers.initial import InitialSolver
from latent_geodesics.data.scenes import load_scenes
from latent_geodesics.methods.lines import FormulaPath, slerp

CONF = Path(__file__).parents[1] / "conf"
U = torch.linspace(0, 1, 9, dtype=torch.float64)
P, D = 3, 4


for package in ("fields", "geometries", "solvers", "methods", "models", "frame_paths"):
    for module in pkgutil.iter_modules([Path(lg.__file__).parent / package]):
        import_module(f"latent_geodesics.{package}.{module.name}")


def found(base):
    """All classes of the package that can be made and derive from `base`."""
    classes, todo = set(), [base]
    while todo:
        todo += (kind := todo.pop()).__subclasses__()
        if not inspect.isabstract(kind) and kind.__module__.startswith("latent_geodesics."):
            classes.add(kind)
    return sorted(classes, key=lambda kind: kind.__name__)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(item, device):
    """Tensors, and lists and mappings of tensors, on a device."""
    if isinstance(item, torch.Tensor):
        return item.to(device)
    if isinstance(item, dict):
        return {name: moved(value, device) for name, value in item.items()}
    return [moved(value, device) for value in item] if isinstance(item, list | tuple) else item


def assert_same(there, here, **tolerances):
    """What was found there lies there, and its numbers are those found here."""
    if isinstance(here, torch.Tensor):
        assert isinstance(there, OnDevice)
        torch.testing.assert_close(there.cpu(), here, equal_nan=True, **tolerances)
    elif isinstance(here, dict):
        assert there.keys() == here.keys()
        for name in here:
            assert_same(there[name], here[name], **tolerances)
    elif isinstance(here, list | tuple):
        assert len(there) == len(here)
        for one, other in zip(there, here, strict=True):
            assert_same(one, other, **tolerances)
    else:
        assert there == here


@pytest.fixture(scope="module")
def device():
    with pretended_device() as device:
        yield device


class Overflowing(lg.PoincareBall):
    """The ball, infinite where its first coordinate is large, with a finer field behind it that is not."""

    def score(self, x, u):
        return torch.where(x[..., :1] > 0.3, torch.inf, super().score(x, u))

    def finer(self):
        return lg.PoincareBall()


INSIDE = 0.2 + 0.2 * torch.sigmoid(draw(P, 5, D))
FIELDS = {
    lg.UniformDensity: lg.UniformDensity,
    lg.HalfSpace: lg.HalfSpace,
    lg.PoincareBall: lg.PoincareBall,
    lg.StereographicSphere: lg.StereographicSphere,
    lg.Banana: lg.Banana,
    lg.Exponential: lambda: lg.Exponential(direction=draw(D)),
    lg.IsotropicGaussian: lambda: lg.IsotropicGaussian(mean=draw(D), scale=1.3),
    lg.GaussianMixture: lambda: lg.GaussianMixture(means=draw(5, D), scales=draw(5, seed=1).exp()),
    RecordedField: lambda: RecordedField(lg.PoincareBall()),
    _Guarded: lambda: guarded(Overflowing()),
}
# They need a model; `test_device_models.py` has them.
OF_MODELS = {"LatentField"}


@pytest.mark.parametrize("kind", found(lg.ScoreField), ids=lambda kind: kind.__name__)
def test_every_field(kind, device):
    if kind.__name__ in OF_MODELS:
        pytest.skip("it needs a model")
    x = INSIDE[..., :2] if kind is lg.Banana else INSIDE
    u = torch.linspace(0, 1, 5, dtype=x.dtype).expand(P, 5)
    for functions in (
        lambda field, x, u: field.score(x, u),
        lambda field, x, u: field.restrict(torch.tensor([2, 0], device=x.device)).score(x[:2], u[:2]),
        lambda field, x, u: field.log_prob(x, u) if isinstance(field, lg.Density) else u.clone(),
        lambda field, x, u: field.distance(x[:, 0], x[:, 1]) if hasattr(field, "distance") else u.clone(),
    ):
        assert_same(functions(FIELDS[kind](), x.to(device), u.to(device)), functions(FIELDS[kind](), x, u))


@pytest.mark.parametrize("name", sorted(file.stem for file in (CONF / "density").glob("*.yaml")))
def test_every_density_of_the_configuration(name, device):
    with initialize_config_dir(version_base=None, config_dir=str(CONF)):
        config = compose("config", overrides=["experiment=toy", f"density=[{name}]"])
    (scene,) = load_scenes(OmegaConf.to_container(config.densities, resolve=True))
    x = torch.lerp(scene.a, scene.b, U[:, None])
    for function in (scene.density.score, scene.density.log_prob):
        assert_same(function(x.to(device), U.to(device)), function(x, U))


MANIFOLDS = {
    lg.Euclidean: lambda device: [lg.Euclidean()],
    lg.Sphere: lambda device: (
        [lg.Sphere(2.0), lg.Sphere(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))]
        + ([lg.Sphere(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, device=device))] if device else [])
    ),
}


@pytest.mark.parametrize("kind", found(Manifold), ids=lambda kind: kind.__name__)
def test_every_manifold(kind, device):
    def answers(manifold, a, b, v, *, rows):
        x, y = manifold.project(a), manifold.project(b)
        v = manifold.tangent(x, v)
        part = manifold.restrict(rows)
        return [
            x, v, manifold.exp(x, v), manifold.log(x, y), manifold.transport(x, y, v), manifold.distance(x, y),
            manifold.normal_acceleration(x, v), list(manifold.project_curve(a, v, b)), manifold.contains(x),
            manifold.antipodal(x, y), part.project(a[[0, 2]]), part.contains(x[[0, 2]]),
        ]  # fmt: skip

    vectors = [draw(P, 5, D, seed=seed) for seed in range(3)]
    expected = [answers(one, *vectors, rows=torch.tensor([0, 2])) for one in MANIFOLDS[kind](None)]
    for rows in (torch.tensor([0, 2]), torch.tensor([0, 2], device=device)):
        for number, manifold in enumerate(MANIFOLDS[kind](device)):
            if isinstance(getattr(manifold, "radius", None), OnDevice) or rows.device.type == "cpu" or number == 0:
                there = answers(manifold, *moved(vectors, device), rows=rows)
                assert_same(there, expected[min(number, len(expected) - 1)])


def ends(manifold, device):
    x0, x1 = (manifold.project(draw(P, D, seed=seed).to(device or "cpu")) for seed in (1, 2))
    return x0, x1


def knots(manifold, device, count=7):
    x0, x1 = ends(manifold, device)
    wave = 0.1 * draw(P, count, D, seed=3).to(x0)
    wave[:, [0, -1]] = 0
    return manifold.project(shortest_path(manifold, x0, x1).point(torch.linspace(0, 1, count)) + wave)


def hermite(manifold, device):
    points = knots(manifold, device)
    nodes = torch.linspace(0, 1, 7, dtype=torch.float64).expand(P, -1) ** torch.tensor([[1.0], [1.5], [0.7]])
    return HermitePath(
        knots=points, velocities=points.flip(1), accelerations=points.roll(1, 1), manifold=manifold,
        nodes=nodes.to(points),
    )  # fmt: skip


PATHS = {
    StraightLine: lambda manifold, device: StraightLine(x0=ends(manifold, device)[0], x1=ends(manifold, device)[1]),
    GreatCircle: lambda manifold, device: GreatCircle(
        x0=ends(manifold, device)[0], x1=ends(manifold, device)[1], sphere=manifold
    ),
    KnotPath: lambda manifold, device: KnotPath.through(knots=knots(manifold, device), manifold=manifold),
    HermitePath: hermite,
    FormulaPath: lambda manifold, device: FormulaPath(formula=partial(slerp, *ends(manifold, device)), pairs=P),
    JoinedPath: lambda manifold, device: JoinedPath(
        legs=KnotPath.through(knots=knots(manifold, device), manifold=manifold),
        manifold=lg.Euclidean(),
        positions=torch.linspace(0, 1, P + 1),
    ),
    ControlPointPath: lambda manifold, device: ControlPointPath(points=knots(manifold, device), manifold=manifold),
}


@pytest.mark.parametrize(
    "manifold", [lg.Euclidean(), lg.Sphere(2.0), lg.Sphere(torch.tensor([1.0, 2.0, 3.0]))], ids=str
)
@pytest.mark.parametrize("kind", found(lg.Path), ids=lambda kind: kind.__name__)
def test_every_path(kind, manifold, device):
    if kind is GreatCircle and not isinstance(manifold, lg.Sphere):
        pytest.skip("great circles lie on spheres")

    def answers(path, u, rows):
        named = [path, path.reversed(), path.restrict(rows)]
        values = [getattr(one, name)(u) for one in named for name in ("point", "velocity", "acceleration")]
        field = lg.PoincareBall()
        profile = geometry.density_profile(path, field)
        return [
            *values, profile.log_density, profile.error, profile.length(0.5).value,
            profile.closed(path.point(u[:1])[:, 0, 0], path.point(u[-1:])[:, 0, 0]).log_density,
            geometry.length(path, lg.IsotropicGaussian(mean=torch.zeros(D)), 0.3),
            geometry.relative_length(path, field, 0.3), geometry.relative_log_density(path, field, u),
            geometry.residual(path, field, lg.Euclidean(), 0.3, u[1:-1]),
        ]  # fmt: skip

    rows = torch.tensor([2, 0])
    here = answers(PATHS[kind](manifold, None), U, rows)
    there = PATHS[kind](manifold, device)
    assert there.breaks.device.type == "cpu"
    for at, pairs in ((U, rows), (U.to(device), rows)):
        assert_same(answers(there, at, pairs), here)
    assert_same(there.restrict(rows.to(device)).point(U), here[6])


def problems(device):
    """One in flat space and one on a sphere, with a pair that cannot be solved: its ends are the same."""
    x0, x1 = 0.7 * draw(P, D, seed=1), 0.7 * draw(P, D, seed=2)
    field = lg.GaussianMixture(means=draw(4, D, seed=4), scales=torch.ones(4, dtype=torch.float64))
    for manifold in (lg.Euclidean(), lg.Sphere(1.5)):
        a, b = manifold.project(x0), manifold.project(x1)
        b[2] = a[2]
        yield field, manifold, a.to(device), b.to(device)


def solution_parts(solution):
    trace = solution.trace
    parts = [trace.evaluations, trace.residual, trace.length, trace.step, trace.alpha]
    return [solution.path.point(U), solution.path.velocity(U), dict(solution.stats), parts]


def settled(name, **overrides):
    """The solver or integrator of a file, made."""
    return instantiate(OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")) | overrides)


SOLVERS = [f"solver/{file.stem}" for file in sorted((CONF / "solver").glob("*.yaml"))]
INTEGRATORS = [f"integrator/{file.stem}" for file in sorted((CONF / "integrator").glob("*.yaml"))]


QUICK = {
    "solver/control_point_descent": {"iterations": 12, "level_iterations": 4},
    "solver/control_point_descent_no_skip": {"iterations": 12, "level_iterations": 4},
    "integrator/rk4": {"steps": 8},
}


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver(name, device):
    for there, here in zip(problems(device), problems("cpu"), strict=True):
        results = []
        for field, manifold, x0, x1 in (there, here):
            problem = lg.BoundaryProblem(field=field, manifold=manifold, x0=x0, x1=x1, alpha=0.3)
            results.append(settled(name, **QUICK.get(name, {})).solve(problem))
        assert results[0].status == results[1].status
        assert_same(*(solution_parts(result) for result in results), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_every_integrator(name, device):
    for there, here in zip(problems(device), problems("cpu"), strict=True):
        results = []
        for field, manifold, x0, x1 in (there, here):
            problem = lg.InitialProblem(field=field, manifold=manifold, x0=x0, v0=manifold.log(x0, x1), alpha=0.3)
            results.append(settled(name, **QUICK.get(name, {})).solve(problem))
        assert results[0].status == results[1].status
        assert_same(*(solution_parts(result) for result in results), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "length", "waits"),
    [("solver/control_point_descent_no_skip", "iterations", 1), ("integrator/rk4", "steps", 2)],
)
def test_an_iteration_waits_for_the_device_so_often(name, length, waits, device):
    field, manifold, x0, x1 = next(problems(device))
    reads = []
    for steps in (4, 8):
        if name.startswith("solver"):
            problem = lg.BoundaryProblem(field=field, manifold=manifold, x0=x0, x1=x1, alpha=0.3)
        else:
            problem = lg.InitialProblem(field=field, manifold=manifold, x0=x0, v0=x1 - x0, alpha=0.3)
        with counting() as counts:
            settled(name, **{length: steps}).solve(problem)
        reads.append(counts.reads)
    assert reads[1] - reads[0] == 4 * waits


def test_an_iteration_of_the_default_solver_waits_for_the_device_once(device):
    field, manifold, x0, x1 = next(problems(device))
    problem = lg.BoundaryProblem(field=field, manifold=manifold, x0=x0, x1=x1, alpha=0.3)
    found = []
    for tolerance in (1e-3, 1e-9):
        with counting() as counts:
            solver = lg.solvers.PicardAnderson(tolerance=tolerance, coarse_start=False, refine=False)
            solution = solver.solve(problem)
        found.append((counts.reads, len(solution.trace.residual), counts.factorisations))
    (few, short, _), (many, long, factorisations) = found
    assert long > short
    assert many - few == long - short
    assert factorisations == 0


def test_newton_steps_wait_for_the_device_a_few_times_each(device):
    field, manifold, x0, x1 = next(problems(device))
    problem = lg.BoundaryProblem(field=field, manifold=manifold, x0=x0, x1=x1, alpha=4.0)
    with counting() as counts:
        solution = lg.solvers.PicardAnderson().solve(problem)
    assert float(solution.stats["strength"].cpu()[:2].max()) > 3
    # What is decided by, and the small systems that are solved on the CPU; and a look between knots and its choices.
    assert counts.reads <= 4 * len(solution.trace.residual)
    assert counts.factorisations == 0


def test_nothing_is_left_out():
    fields = {kind.__name__ for kind in found(lg.ScoreField)}
    assert fields - OF_MODELS == {kind.__name__ for kind in FIELDS}
    assert set(found(lg.Path)) == set(PATHS)
    assert set(found(Manifold)) == set(MANIFOLDS)
    assert set(found(lg.Geometry)) == set(GEOMETRIES)
    assert {*found(BoundarySolver), *found(InitialSolver)} == {type(settled(name)) for name in (*SOLVERS, *INTEGRATORS)}


GEOMETRIES = {
    lg.Conformal: lg.Conformal(alpha=0.3),
    lg.Graph: lg.Graph(lam=0.5),
    lg.Typical: lg.Typical(alpha=0.5, middle=0.2, width=0.2),
}


@pytest.mark.parametrize("kind", found(lg.Geometry), ids=lambda kind: kind.__name__)
def test_every_geometry_in_the_default_solver_and_every_integrator(kind, device):
    geometry = GEOMETRIES[kind]
    for there, here in zip(problems(device), problems("cpu"), strict=True):
        for name in ("solver/picard_anderson", *INTEGRATORS):
            results = []
            for field, manifold, x0, x1 in (there, here):
                ends = {"x1": x1} if name.startswith("solver") else {"v0": manifold.log(x0, x1)}
                make = lg.BoundaryProblem if name.startswith("solver") else lg.InitialProblem
                problem = make(field=field, manifold=manifold, x0=x0, geometry=geometry, **ends)
                results.append(settled(name, **QUICK.get(name, {})).solve(problem))
            assert results[0].status == results[1].status
            assert_same(*(solution_parts(result) for result in results), rtol=1e-6, atol=1e-8)
        measured = []
        for field, manifold, x0, x1 in (there, here):
            path = shortest_path(manifold, x0, x1)
            measured.append(
                [
                    lg.geometry.residual(path, field, manifold, geometry, U[1:-1]),
                    lg.geometry.relative_length(path, field, geometry),
                    lg.geometry.length(path, field, geometry),
                    lg.geometry.density_profile(path, field).length(geometry).value,
                ]
            )
        assert_same(*measured)


@pytest.mark.parametrize("kind", found(lg.Geometry), ids=lambda kind: kind.__name__)
def test_an_iteration_in_every_geometry_waits_for_the_device_once(kind, device):
    field, manifold, x0, x1 = next(problems(device))
    problem = lg.BoundaryProblem(field=field, manifold=manifold, x0=x0, x1=x1, geometry=GEOMETRIES[kind])
    found = []
    for tolerance in (1e-3, 1e-9):
        with counting() as counts:
            solver = lg.solvers.PicardAnderson(tolerance=tolerance, coarse_start=False, refine=False)
            solution = solver.solve(problem)
        found.append((counts.reads, len(solution.trace.residual), counts.factorisations))
    (few, short, _), (many, long, factorisations) = found
    assert long > short
    assert many - few == long - short
    assert factorisations == 0


def test_an_iteration_of_the_string_method_waits_for_the_device_once(device):
    field, manifold, x0, x1 = next(problems(device))
    problem = lg.BoundaryProblem(field=field, manifold=manifold, x0=x0[:2], x1=x1[:2])
    reads = []
    for evaluations in (100, 220):
        with counting() as counts:
            lg.solvers.StringMethod(tolerance=1e-12, max_evaluations=evaluations).solve(problem)
        reads.append(counts.reads)
    assert reads[1] - reads[0] == 8
