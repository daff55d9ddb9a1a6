"""Paths of frames against what is known of them: curvatures, floors, variations, and the flow into a geodesic."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from latent_geodesics import BoundaryProblem, GaussianMixture, ScoreField, Sphere, Status
from latent_geodesics.core import solvers
from latent_geodesics.core.errors import UserError
from latent_geodesics.experiments.video_analysis.analysis import Analyser
from latent_geodesics.experiments.video_analysis.derivatives import Arcs, PublishedSpline
from latent_geodesics.experiments.video_analysis.gradient import independent_draws, measure_gradient
from latent_geodesics.experiments.video_analysis.optimised import Optimiser
from latent_geodesics.experiments.video_analysis.variations import (
    great_circle,
    mean_step,
    perturbed,
    smoothed,
    tangent_noise,
)
from latent_geodesics.models.scores import Conditional, Renoised
from latent_geodesics.run.statistics import interval, separation

RADIUS = 3.0


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small_circle(angle, turns):
    """Points of the circle at `angle` from the pole, turned by `turns`, on the sphere of radius 3 in space."""
    ring = [RADIUS * math.sin(angle) * turns.cos(), RADIUS * math.sin(angle) * turns.sin()]
    return torch.stack([*ring, torch.full_like(turns, RADIUS * math.cos(angle))], -1)[None, None]


def wanderer(frames=9, dimension=6, seed=0):
    sphere = Sphere(RADIUS)
    return sphere.project(normal(1, 1, frames, dimension).cumsum(2) + normal(1, 1, 1, dimension, seed=seed + 1)), sphere


def mixture(dimension=6):
    means = Sphere(RADIUS).project(normal(3, dimension, seed=5))
    return GaussianMixture(means=means, scales=torch.full((3,), 1.5).double(), weights=torch.ones(3).double())


class NoisyField(ScoreField):
    """A score of zero with noise of known size: the draw decides it, whatever the path."""

    def __init__(self, seed, scale):
        super().__init__()
        self.seed, self.scale = seed, scale

    def score(self, x, u):
        return (self.scale * normal(*x.shape[2:], seed=self.seed)).expand_as(x)


@pytest.mark.parametrize("derivatives", [Arcs(), PublishedSpline()])
def test_an_even_great_circle_does_not_bend(derivatives):
    points, sphere = wanderer()
    arc = great_circle(points[:, 0], sphere)[:, None]
    assert derivatives.bend(arc, sphere).curvature.norm(dim=-1)[..., 3:-3].max() < 1e-2
    assert Arcs().bend(arc, sphere).curvature.norm(dim=-1).max() < 1e-6


def test_arcs_see_no_bend_however_the_points_of_a_great_circle_lie():
    turns = torch.tensor([0.0, 0.05, 0.4, 0.45, 1.3]).double()
    bend = Arcs().bend(small_circle(math.pi / 2, turns), Sphere(RADIUS))
    assert bend.curvature.norm(dim=-1).max() < 1e-6
    assert torch.allclose(bend.step[0, 0], RADIUS * torch.tensor([0.2, 0.2, 0.45]).double())


def test_the_curvature_of_a_small_circle_is_met_to_second_order():
    angle = 0.7
    errors = []
    for frames in (17, 33):
        turns = torch.linspace(0, 1.5, frames, dtype=torch.float64)
        bend = Arcs().bend(small_circle(angle, turns), Sphere(RADIUS))
        exact = 1 / (RADIUS * math.tan(angle))
        errors.append((bend.curvature.norm(dim=-1) - exact).abs().max())
        assert (bend.curvature * bend.direction).sum(-1).abs().max() < 1e-9
    assert errors[0] < 2e-3
    assert 3.5 < errors[0] / errors[1] < 4.5


def test_the_published_spline_agrees_on_a_smooth_path_away_from_its_ends():
    turns = torch.linspace(0, 1.5, 65, dtype=torch.float64)
    points, sphere = small_circle(0.7, turns), Sphere(RADIUS)
    arcs, spline = (way.bend(points, sphere).curvature[:, :, 12:-12] for way in (Arcs(), PublishedSpline()))
    assert (arcs - spline).norm(dim=-1).max() < 1e-2 * arcs.norm(dim=-1).mean()


def test_curvature_times_step_is_minus_the_gradient_of_the_length():
    points, sphere = wanderer()
    free = points.clone().requires_grad_()
    length = sphere.distance(free[:, :, :-1], free[:, :, 1:]).sum()
    (gradient,) = torch.autograd.grad(length, free)
    bend = Arcs().bend(points, sphere)
    inner = sphere.tangent(points[:, :, 1:-1], gradient[:, :, 1:-1])
    assert torch.allclose(inner, -bend.curvature * bend.step[..., None], atol=1e-6)


@pytest.fixture(scope="module")
def geodesic():
    """A geodesic of a mixture, at 33 points, with the density and the sphere that it belongs to."""
    points, sphere = wanderer()
    density, ends = mixture(), points[0, 0, [0, -1]]
    problem = BoundaryProblem(field=density, manifold=sphere, x0=ends[:1], x1=ends[1:], alpha=0.7)
    solution = solvers.PicardAnderson(intervals=32, tolerance=1e-5).solve(problem)
    assert solution.status == (Status.CONVERGED,)
    return solution.path.point(torch.linspace(0, 1, 33, dtype=torch.float64)), sphere, density


def test_the_gradient_vanishes_on_a_geodesic_and_points_apart_elsewhere(geodesic):
    points, sphere, density = geodesic
    noise = tangent_noise(33, 6, seed=0, draw=0).double()
    off = perturbed(points, sphere, amplitude=0.2, noise=noise)
    both = torch.stack([points, off, great_circle(points, sphere)], 1)
    found = measure_gradient(both, sphere=sphere, fields=[density], derivatives=Arcs(), strides=(1, 2))
    norms = found[1].norm(0.7).mean(-1)[0]
    assert norms[0] < 0.02 * norms[1]
    assert norms[0] < 0.02 * norms[2]
    assert found[1].cosine[0, 0].min() > 0.99
    assert found[2].step.shape == (1, 3, 15)
    assert found[2].norm(0.7).mean(-1)[0, 0] < 0.05 * norms[2]


def test_a_sparser_path_uses_the_scores_of_its_own_frames(geodesic):
    points, sphere, density = geodesic
    for frames in (33, 32):
        dense = measure_gradient(
            points[:, None, :frames], sphere=sphere, fields=[density], derivatives=Arcs(), strides=(1, 4)
        )
        alone = measure_gradient(points[:, None, :frames:4], sphere=sphere, fields=[density], derivatives=Arcs())
        assert torch.allclose(dense[4].norm(0.7), alone[1].norm(0.7))


def test_the_sampling_floor_is_what_noise_alone_shows():
    dimension, draws, scale, alpha = 400, 8, 2.0, 0.5
    sphere = Sphere(RADIUS)
    ends = sphere.project(normal(1, 2, dimension))
    arc = great_circle(ends[:, [0, 0, 0, 0, 0, 1]], sphere)[:, None]
    fields = [NoisyField(seed, scale) for seed in range(draws)]
    found = measure_gradient(arc, sphere=sphere, fields=fields, derivatives=Arcs())[1]
    expected = alpha * scale * math.sqrt((dimension - 2) / draws)
    assert found.sampling_floor(alpha).mean() == pytest.approx(expected, rel=0.05)
    assert found.norm(alpha).mean() == pytest.approx(expected, rel=0.1)
    single = measure_gradient(arc, sphere=sphere, fields=fields[:1], derivatives=Arcs())[1]
    assert single.sampling_floor(alpha).max() == 0


def test_two_measurements_tell_the_noise_of_one(geodesic):
    points, sphere, density = geodesic
    size = 1e-3
    noisy = [sphere.project(points + size * normal(*points.shape, seed=seed)) for seed in (1, 2)]
    one, other = (
        measure_gradient(path[:, None], sphere=sphere, fields=[density], derivatives=Arcs())[1] for path in noisy
    )
    # On a geodesic all of the norm is noise.
    assert one.noise_against(other, 0.7).mean() == pytest.approx(float(one.norm(0.7).mean()), rel=0.3)


def test_a_score_that_draws_is_drawn_anew_and_one_that_does_not_is_not():
    assert independent_draws(Conditional(), 16) == [Conditional()]
    renoised = Renoised(score=Conditional(), draws=3, seed=4, common_random_numbers=False)
    draws = independent_draws(renoised, 5)
    assert len({score.seed for score in draws}) == 5
    assert all(score.draws == 1 and score.common_random_numbers for score in draws)
    with pytest.raises(UserError, match=r"task\.analyser\.draws must be at least 2"):
        independent_draws(renoised, 1)


def test_a_perturbation_moves_by_its_amplitude_and_scales_one_noise():
    points, sphere = wanderer(frames=200, dimension=50)
    video, noise = points[:, 0], tangent_noise(200, 50, seed=0, draw=1).double()
    moves = []
    for amplitude in (0.01, 0.02):
        moved = perturbed(video, sphere, amplitude=amplitude, noise=noise)
        assert torch.equal(moved[:, [0, -1]], video[:, [0, -1]])
        assert torch.allclose(moved.norm(dim=-1), torch.full((1, 200), RADIUS).double())
        moves.append(moved - video)
        square = moves[-1][:, 1:-1].square().sum(-1).mean().sqrt()
        assert square == pytest.approx(float(amplitude * mean_step(video, sphere)), rel=0.05)
    assert torch.nn.functional.cosine_similarity(moves[0], moves[1], dim=-1)[:, 1:-1].min() > 0.999
    assert not torch.equal(tangent_noise(9, 5, seed=0, draw=0), tangent_noise(9, 5, seed=0, draw=1))


def test_smoothing_keeps_the_ends_and_takes_the_noise_out():
    ends = Sphere(RADIUS).project(normal(1, 2, 6))
    sphere = Sphere(RADIUS)
    arc = great_circle(ends[:, [0] * 16 + [1]], sphere)
    noise = tangent_noise(17, 6, seed=0, draw=0).double()
    rough = perturbed(arc, sphere, amplitude=0.5, noise=noise)
    bends = []
    for width in (0.5, 1.0, 2.0):
        smooth = smoothed(rough, sphere, width=width)
        assert torch.equal(smooth[:, [0, -1]], rough[:, [0, -1]])
        assert torch.allclose(smooth.norm(dim=-1), torch.full((1, 17), RADIUS).double())
        bends.append(float(Arcs().bend(smooth[:, None], sphere).curvature.norm(dim=-1).mean()))
    start = float(Arcs().bend(rough[:, None], sphere).curvature.norm(dim=-1).mean())
    assert start > bends[0] > bends[1] > bends[2]
    assert torch.allclose(smoothed(rough, sphere, width=0.05), rough, atol=1e-8)


@pytest.mark.parametrize("steps", [10, 0])
def test_a_video_flows_into_the_geodesic_between_its_ends(geodesic, steps):
    points, sphere, density = geodesic
    thinned = points[:, ::2]
    noise = tangent_noise(17, 6, seed=0, draw=0).double()
    rough = perturbed(thinned, sphere, amplitude=0.5, noise=noise)
    found = Optimiser(steps=steps, tolerance=1e-5).optimise(rough, sphere=sphere, field=density, alpha=0.7)
    assert found.statuses == (Status.CONVERGED,)
    assert torch.equal(found.points[:, [0, -1]], rough[:, [0, -1]])
    # The same curve; the knots may slide along it a little.
    assert (found.points - thinned).norm(dim=-1).max() < 0.03 * (rough - thinned).norm(dim=-1).max()
    both = torch.stack([rough, found.points], 1)
    norms = measure_gradient(both, sphere=sphere, fields=[density], derivatives=Arcs())[1].norm(0.7).mean(-1)[0]
    assert norms[1] < 0.02 * norms[0]
    assert int(found.evaluations) > 0


def test_the_flow_stays_within_its_budget_and_says_so(geodesic):
    points, sphere, density = geodesic
    found = Optimiser(max_evaluations=80, tolerance=1e-9).optimise(
        points[:, ::2].roll(1, -1), sphere=sphere, field=density, alpha=0.7
    )
    assert int(found.evaluations) <= 80
    assert found.statuses == (Status.BUDGET_EXHAUSTED,)


@pytest.mark.parametrize("options", [{"steps": -1}, {"tolerance": 0.0}, {"max_evaluations": 0}, {"patience": 0}])
def test_an_optimiser_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Optimiser(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": None, "alpha_d": 0.0}, "alpha_d"),
        ({"alpha": None}, "alpha_d"),
        ({"amplitudes": ()}, "amplitudes"),
        ({"widths": (0.0,)}, "widths"),
        ({"perturbations": 0}, "perturbations"),
        ({"strides": (0,)}, "strides"),
        ({"score": Renoised(score=Conditional()), "draws": 1}, "draws"),
    ],
)
def test_an_analysis_out_of_range_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        replace(Analyser(score=Conditional(), alpha=0.1), **options)


def test_the_four_paths_of_the_figure_have_the_middle_parameters():
    analyser = Analyser(score=Conditional(), alpha=0.1)
    assert analyser.shown == ("video", "optimised", "perturbed_0.3", "smoothed_1")


def test_the_bootstrap_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(1)
    intervals = [interval(generator.normal(2.0, 1.0, size=40), seed=number) for number in range(200)]
    covered = np.mean([found.low <= 2.0 <= found.high for found in intervals])
    assert 0.88 <= covered <= 0.99
    assert interval([1.0, float("nan"), 3.0]).mean == 2.0
    assert math.isnan(interval([]).mean)
    assert math.isnan(interval([4.0]).low)
    assert math.isnan(interval([4.0]).high)


def test_separation_counts_pairs():
    assert separation([1, 2], [3, 4]) == 1.0
    assert separation([1, 3], [2, 4]) == 0.75
    assert separation([1, 1], [1, 1]) == 0.5
    assert math.isnan(separation([], [1]))
