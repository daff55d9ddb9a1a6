"""Scores that are computed in half precision: no more is asked of them than they resolve, and finer ones take over."""

import math

import pytest
import torch
from tiny_model import pictures
from torch import nn

import latent_geodesics as lg
from latent_geodesics.core.fields import rounded_resolution, well_resolved
from latent_geodesics.core.geometry import length
from latent_geodesics.core.records import Status
from latent_geodesics.core.solvers.initial import ROUNDING_SHARE
from latent_geodesics.models import Conditional, Contrastive, load_model
from latent_geodesics.models.latent_field import Ladder
from latent_geodesics.models.precision import fitting_precision

ERRORS = {torch.float16: 2.5e-4, torch.bfloat16: 2e-3}
HALVES = pytest.mark.parametrize("dtype", ERRORS, ids=["float16", "bfloat16"])
U = torch.linspace(0, 1, 17, dtype=torch.float64)


class Rounded(lg.ScoreField):
    """A score rounded to another precision, which says so or not, and may have itself unrounded behind it."""

    def __init__(self, field, dtype, *, declared=True, finer=False, overflow=None):
        self.field, self.dtype, self.declared, self.has_finer, self.overflow = field, dtype, declared, finer, overflow

    def score(self, x, u):
        score = self.field.score(x, u)
        if self.overflow is not None:
            score = torch.where(x.norm(dim=-1, keepdim=True) < self.overflow, torch.inf, score)
        return score.to(self.dtype).to(x.dtype)

    def resolution(self, x, u):
        precision = str(self.dtype).removeprefix("torch.")
        return lg.Resolution(error=ERRORS[self.dtype], precision=precision) if self.declared else None

    def finer(self):
        return self.field.share_evaluations(self) if self.has_finer else None


def ball(pairs, d, radius, seed):
    x = torch.randn(pairs, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return radius * x / x.norm(dim=-1, keepdim=True)


def ring():
    angle = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    means = 3 * torch.stack([angle.cos(), angle.sin()], -1)
    return lg.GaussianMixture(means=means, scales=torch.full((8,), 0.7, dtype=torch.float64))


def on_ring(*degrees):
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return 3 * torch.stack([angle.cos(), angle.sin()], -1)


CLOSED = {
    "ball": (lg.PoincareBall(), ball(4, 2, 0.8, 1), ball(4, 2, 0.8, 2), 1.0),
    "ball_64": (lg.PoincareBall(), ball(4, 64, 0.8, 1), ball(4, 64, 0.8, 2), 1.0),
    "stereographic": (lg.StereographicSphere(), ball(3, 5, 1.0, 1), ball(3, 5, 1.0, 2), 1.0),
    "ring": (ring(), on_ring(0, 20, 180), on_ring(170, 195, 45), 0.3),
}


def problem(field, x0, x1, alpha):
    return lg.BoundaryProblem(field=field, manifold=lg.Euclidean(), x0=x0, x1=x1, alpha=alpha)


@HALVES
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "not_declared"])
@pytest.mark.parametrize("name", CLOSED)
def test_a_rounded_score_is_solved_to_what_it_resolves(name, dtype, declared):
    field, x0, x1, alpha = CLOSED[name]
    exact = lg.solvers.PicardAnderson().solve(problem(field, x0, x1, alpha))
    found = lg.solvers.PicardAnderson().solve(problem(Rounded(field, dtype, declared=declared), x0, x1, alpha))
    assert all(status in (Status.CONVERGED, Status.RESOLVED) for status in found.status)
    spent = found.stats["evaluations"].sum() / exact.stats["evaluations"].sum()
    assert float(spent) <= (1.2 if declared else 1.5)
    off = length(found.path, field, alpha) / length(exact.path, field, alpha) - 1
    assert float(off.abs().max()) < ERRORS[dtype]
    apart = (found.path.point(U) - exact.path.point(U)).norm(dim=-1).amax(-1) / (x0 - x1).norm(dim=-1)
    assert float(apart.max()) < 5 * ERRORS[dtype] + 3e-4


def test_the_status_states_the_tolerance_in_force_and_whose_it_is():
    field, x0, x1, alpha = CLOSED["ring"]
    found = lg.solvers.PicardAnderson(tolerance=1e-3).solve(problem(Rounded(field, torch.bfloat16), x0, x1, alpha))
    assert set(found.status) == {Status.RESOLVED}
    assert found.status[0].ok
    assert bool((found.stats["tolerance"] >= 2 * ERRORS[torch.bfloat16]).all())
    stated = float(f"{float(found.stats['tolerance'][0]):.1g}")
    assert found.sentence(0).startswith(f"Solved to what bfloat16 resolves, a relative residual of {stated:.1g}.")
    exact = lg.solvers.PicardAnderson(tolerance=1e-3).solve(problem(field, x0, x1, alpha))
    assert exact.sentence(0) == exact.status[0].sentence
    assert bool((exact.stats["tolerance"] == 1e-3).all())


@HALVES
def test_what_is_asked_for_is_reached_with_finer_scores(dtype):
    field, x0, x1, alpha = CLOSED["ring"]
    asked = problem(Rounded(field, dtype, finer=True), x0, x1, alpha)
    mixed = lg.solvers.PicardAnderson(tolerance=1e-4, max_evaluations=6000).solve(asked)
    assert set(mixed.status) == {Status.CONVERGED}
    assert asked.field.evaluations == int(mixed.stats["evaluations"].sum()), "those of both fields are counted"
    finest = lg.solvers.PicardAnderson(tolerance=1e-4, max_evaluations=6000).solve(problem(field, x0, x1, alpha))
    torch.testing.assert_close(mixed.path.point(U), finest.path.point(U), atol=1e-3, rtol=0)
    # Without finer scores the same is answered by what there is.
    coarse = lg.solvers.PicardAnderson(tolerance=1e-4).solve(problem(Rounded(field, dtype), x0, x1, alpha))
    assert set(coarse.status) == {Status.RESOLVED}


@pytest.mark.parametrize("solver", [lg.solvers.PicardAnderson(), lg.solvers.ControlPointDescent(iterations=40)])
def test_where_a_lower_precision_overflows_the_higher_one_takes_over(solver):
    field, x0, x1, alpha = CLOSED["stereographic"]
    lost = solver.solve(problem(Rounded(field, torch.float16, overflow=0.99), x0, x1, alpha))
    assert Status.NON_FINITE_SCORE in lost.status
    saved = solver.solve(problem(Rounded(field, torch.float16, overflow=0.99, finer=True), x0, x1, alpha))
    assert Status.NON_FINITE_SCORE not in saved.status
    exact = solver.solve(problem(field, x0, x1, alpha))
    torch.testing.assert_close(saved.path.point(U), exact.path.point(U), atol=1e-3, rtol=0)


@HALVES
def test_the_descent_goes_no_further_than_its_scores_resolve(dtype):
    field, x0, x1 = lg.StereographicSphere(), ball(3, 5, 0.4, 1), ball(3, 5, 0.4, 2)
    solver = lg.solvers.ControlPointDescent(
        levels=1, level_iterations=400, skip_rule=False, learning_rate=0.003, linear_decay=False
    )
    whole = solver.solve(problem(field, x0, x1, 0.1))
    found = solver.solve(problem(Rounded(field, dtype), x0, x1, 0.1))
    assert bool((found.stats["evaluations"] < whole.stats["evaluations"]).all())
    assert set(found.status) == {Status.RESOLVED}
    apart = (found.path.point(U) - whole.path.point(U)).norm(dim=-1).max()
    assert float(apart) < 20 * ERRORS[dtype]


INTEGRATORS = [
    lg.solvers.RungeKutta4(steps=40),
    lg.solvers.AdaptiveRungeKutta(tolerance=1e-7),
    lg.solvers.ParallelCollocation(tolerance=1e-7),
]


@HALVES
@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda one: type(one).__name__)
def test_integrators_ask_of_a_step_no_less_than_is_resolved(integrator, dtype):
    field = ring()
    options = {"manifold": lg.Euclidean(), "x0": on_ring(10, 20), "v0": 2 * ball(2, 2, 1.0, 3), "alpha": 0.3}
    exact = integrator.solve(lg.InitialProblem(field=field, **options))
    found = integrator.solve(lg.InitialProblem(field=Rounded(field, dtype), **options))
    assert set(found.status) == {Status.INTEGRATED}
    blind = integrator.solve(lg.InitialProblem(field=Rounded(field, dtype, declared=False), **options))
    assert int(found.stats["evaluations"].sum()) <= int(blind.stats["evaluations"].sum())
    apart = (found.path.point(U) - exact.path.point(U)).norm(dim=-1).max()
    assert float(apart) < 20 * ERRORS[dtype]
    if "tolerance" in found.stats:
        assert bool((found.stats["tolerance"] > exact.stats["tolerance"]).all())
        assert float(found.stats["tolerance"].max()) < 100 * ROUNDING_SHARE * ERRORS[dtype]


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda one: type(one).__name__)
def test_integrators_go_on_in_a_higher_precision_where_theirs_overflows(integrator):
    field = lg.StereographicSphere()
    options = {"manifold": lg.Euclidean(), "x0": ball(2, 3, 1.0, 1), "v0": -ball(2, 3, 1.0, 1), "alpha": 0.5}
    lost = integrator.solve(lg.InitialProblem(field=Rounded(field, torch.float16, overflow=0.5), **options))
    assert set(lost.status) == {Status.NON_FINITE_SCORE}
    saved = integrator.solve(
        lg.InitialProblem(field=Rounded(field, torch.float16, overflow=0.5, finer=True), **options)
    )
    assert set(saved.status) == {Status.INTEGRATED}


def test_what_rounded_numbers_give_away():
    scores = torch.randn(3, 15, 2, generator=torch.Generator().manual_seed(0))
    assert rounded_resolution(scores) is None
    assert rounded_resolution(scores.half().float()) == lg.Resolution(error=2.0**-11, precision="float16")
    assert rounded_resolution(scores.bfloat16().float()) == lg.Resolution(error=2.0**-8, precision="bfloat16")
    # A few round numbers are no sign: an exact field may have them.
    assert rounded_resolution(torch.tensor([[0.5, -1.0]]).expand(15, 2)) is None


def measured(model, score, **options):
    condition = model.condition(["a red cube", "a blue sphere"])
    field = model.field(condition0=condition, tau=0.6, score=score)
    x = torch.randn(2, 2, model.dimension, generator=torch.Generator().manual_seed(1))
    return field, x, torch.tensor([0.0, 1.0]).expand(2, 2)


@HALVES
def test_a_network_knows_the_error_of_its_scores(tiny_model_folder, tmp_path, dtype):
    name = str(dtype).removeprefix("torch.")
    model = load_model(tiny_model_folder, device="cpu", steps=5, dtype=name, cache_dir=tmp_path)
    exact = load_model(tiny_model_folder, device="cpu", steps=5, dtype="float32")
    for score in (Conditional(), Contrastive()):
        field, x, u = measured(model, score)
        spent = model.network_evaluations
        resolution = field.resolution(x, u)
        assert model.network_evaluations == spent, "measuring is no part of a run's cost"
        true = measured(exact, score)[0].score(x, u)
        error = (field.score(x, u) - true).norm(dim=-1) / true.norm(dim=-1)
        assert resolution.precision == name
        assert resolution.error == pytest.approx(float(error.mean()), rel=1e-4)
        finer = field.finer()
        torch.testing.assert_close(finer.score(x, u), true)
        assert finer.finer() is None
        assert (well_resolved(field, x, u) is field) == (resolution.error <= 2e-3)
    assert len(list(tmp_path.glob("resolution-*.json"))) == 2
    assert measured(exact, Conditional())[0].resolution(x, u) is None


def test_what_was_measured_of_a_network_is_remembered(tiny_model_folder, tmp_path, monkeypatch):
    options = {"device": "cpu", "steps": 5, "dtype": "float16", "cache_dir": tmp_path}
    field, x, u = measured(load_model(tiny_model_folder, **options), Conditional())
    first = field.resolution(x, u)
    monkeypatch.setattr(Ladder, "_measured", None)
    field, x, u = measured(load_model(tiny_model_folder, **options), Conditional())
    assert field.resolution(x, u) == first


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_images_are_inverted_in_float32_whatever_the_precision(tiny_model_folder, precision):
    exact, coarse = (
        load_model(tiny_model_folder, device="cpu", steps=5, dtype=name) for name in ("float32", precision)
    )
    options = {"condition": exact.condition(["a red cube"]), "tau": 0.6}
    torch.testing.assert_close(coarse.encode(pictures(2), **options), exact.encode(pictures(2), **options))


def test_a_network_that_overflows_in_float16_is_asked_again_in_float32(tiny_model_folder, caplog):
    exact, half = (load_model(tiny_model_folder, device="cpu", steps=5, dtype=name) for name in ("float32", "float16"))
    x = torch.randn(2, exact.dimension, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        half.network.module.conv_in.weight.fill_(6e4)
    condition = exact.condition(["a red cube"])
    torch.testing.assert_close(
        half.decode(x, condition=condition, tau=0.6), exact.decode(x, condition=condition, tau=0.6)
    )
    assert "overflowed in float16" in caplog.text
    with torch.no_grad():
        output = half.network.output(x, torch.tensor([10, 500]), condition.expand(2, -1, -1))
    assert half.network.precision == "float32"
    assert bool(torch.isfinite(output).all())


def test_a_decoder_that_overflows_is_asked_again_in_float32(model, caplog):
    codec = model._codec
    latents = model.encode(pictures(2))
    true = codec.decode(latents)
    codec.decoding = torch.float16
    near = codec.decode(latents)
    assert 0 < float((near - true).abs().max()) < 1 / 255
    with torch.no_grad():
        codec._half.decoder.conv_in.weight.fill_(6e4)
    torch.testing.assert_close(codec.decode(latents), true)
    assert "decoder overflowed" in caplog.text
    del codec.__dict__["_half"]


def test_the_fastest_precision_that_is_near_enough_is_chosen_and_remembered(model, tmp_path, monkeypatch):
    from latent_geodesics.models import precision

    class Faulty(nn.Module):
        """A network whose float16 overflows."""

        def __init__(self, unet):
            super().__init__()
            self.inner, self.config = unet, unet.config

        @property
        def device(self):
            return self.inner.device

        def forward(self, x, t, *, encoder_hidden_states):
            return self.inner(
                x * (1e6 if x.dtype is torch.float16 else 1), t, encoder_hidden_states=encoder_hidden_states
            )

    monkeypatch.setattr(precision, "_candidates", lambda device: ["float32", "float16", "bfloat16"])
    unet, family = Faulty(model.network.module), model.network.family
    found = fitting_precision(unet, family, condition=model.condition(["a"]), folder=tmp_path)
    assert found.errors["float16"] == math.inf
    assert found.errors["float32"] == 0 < found.errors["bfloat16"] < 0.1
    assert found.dtype == "float32", "no other is within a thousandth"
    assert fitting_precision(unet, family, condition=model.condition(["a"]), folder=tmp_path) == found
    assert fitting_precision(unet, family, condition=model.condition(["a"]), folder=None).dtype == "float32"


def test_a_precision_of_other_hardware_is_refused(tiny_model_folder):
    with pytest.raises(lg.UserError, match="tf32 is a precision of NVIDIA"):
        load_model(tiny_model_folder, device="cpu", dtype="tf32")
    with pytest.raises(lg.UserError, match="dtype must be auto or one of float32, tf32, float16, bfloat16"):
        load_model(tiny_model_folder, device="cpu", dtype="float8")
