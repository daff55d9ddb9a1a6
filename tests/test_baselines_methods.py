"""What each of the baselines promises by itself."""

import pytest
import torch
from baselines import FRAMES, TAU, encoded_pairs, gentle_model, positions, probe, save_adapter
from tiny_model import pictures

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.geometry import score_along
from latent_geodesics.core.manifold import Sphere
from latent_geodesics.core.records import BoundaryProblem
from latent_geodesics.methods import (
    AdainSlerp,
    DiffMorpher,
    FreeMorph,
    InnerAttentionInterpolation,
    LinearCombination,
    NoiseDiffusion,
    NormGuided,
    OuterAttentionInterpolation,
    Slerp,
    SmoothDiffusion,
    WangGolland,
)
from latent_geodesics.methods.aid import beta_quantiles
from latent_geodesics.methods.freemorph import replace_high_frequencies
from latent_geodesics.methods.impus import lora_rank
from latent_geodesics.methods.lines import adain, slerp
from latent_geodesics.methods.nao import _cost
from latent_geodesics.methods.wang_golland import _rounds
from latent_geodesics.models.lora import LoraTraining

QUICK = LoraTraining(rank=2, steps=3, learning_rate=1e-3)


@pytest.fixture(scope="module")
def gentle(tiny_model_folder):
    return gentle_model(tiny_model_folder)


@pytest.fixture(scope="module")
def pairs(gentle):
    return encoded_pairs(gentle)


@pytest.fixture(scope="module")
def rough(tiny_model_folder):
    """The same pairs, inverted as published: quicker, where the ends do not matter."""
    return encoded_pairs(gentle_model(tiny_model_folder, refinements=0))


def decoded_ends(pairs):
    """Both images of every pair, inverted and decoded."""
    x = torch.cat([pairs.latents_a, pairs.latents_b])
    condition = torch.cat([pairs.condition_a, pairs.condition_b])
    images = pairs.model.decode(x, condition=condition, tau=pairs.tau)
    return torch.stack(images.chunk(2), dim=1)


@pytest.mark.parametrize(
    "method",
    [
        AdainSlerp(),
        LinearCombination(),
        NormGuided(),
        OuterAttentionInterpolation(warmup=1.0, tau=None, guidance=None),
        InnerAttentionInterpolation(warmup=1.0, tau=None, guidance=None),
        NoiseDiffusion(tau=None, guidance=None, bound=1e6, boost=1.0),
    ],
    ids=lambda method: type(method).__name__,
)
def test_the_ends_are_the_plainly_decoded_images(pairs, method):
    frames = method.morph(pairs, positions()).frames
    torch.testing.assert_close(frames[:, [0, -1]], decoded_ends(pairs), rtol=0, atol=1e-3)
    assert (frames[:, 2] - frames[:, 0]).abs().max() > 0.01


@pytest.mark.parametrize(
    "method",
    [DiffMorpher(lora=QUICK, tau=None), WangGolland(guidance=1.0), FreeMorph(tau=None, guidance=None, refinements=0)],
    ids=lambda method: type(method).__name__,
)
def test_the_ends_are_the_images_as_the_autoencoder_has_them_or_the_images(pairs, method):
    frames = method.morph(pairs, positions()).frames[:, [0, -1]]
    images = torch.stack([pairs.batch.images_a, pairs.batch.images_b], dim=1)
    if not isinstance(method, FreeMorph):
        images = pairs.model.decode(pairs.model.encode(images.flatten(0, 1))).view(images.shape)
    torch.testing.assert_close(frames, images, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "method",
    [OuterAttentionInterpolation(tau=None), DiffMorpher(lora=QUICK, tau=None), Slerp()],
    ids=lambda method: type(method).__name__,
)
def test_the_frames_do_not_depend_on_how_many_fit_in_a_call(tiny_model_folder, rough, method):
    small = encoded_pairs(gentle_model(tiny_model_folder, refinements=0, batch_size=4))
    few, all_at_once = (method.morph(pairs, positions()).frames for pairs in (small, rough))
    torch.testing.assert_close(few, all_at_once, rtol=0, atol=2e-3)


def test_guidance_costs_twice_and_changes_the_frames_between(rough):
    plain, guided = (
        OuterAttentionInterpolation(tau=None, guidance=weight).morph(rough, positions()) for weight in (1.0, 3.0)
    )
    assert guided.unet_calls == 2 * plain.unet_calls == 2 * 3 * (FRAMES + 2)
    assert (plain.frames - guided.frames).abs().max() > 1e-3


def test_the_seed_decides_what_is_random(pairs):
    def frames(seed):
        return WangGolland(guidance=1.0, seed=seed).morph(pairs, positions()).frames

    assert torch.equal(frames(0), frames(0))
    assert (frames(0) - frames(1)).abs().max() > 0.01


def orthogonal_problem(pairs, norm, d=256):
    rng = torch.Generator().manual_seed(4)
    basis = torch.linalg.qr(torch.randn(d, 4, generator=rng))[0].T * norm
    return BoundaryProblem(
        field=pairs.problem.field, manifold=Sphere(radius=torch.full((2,), norm)), x0=basis[:2], x1=basis[2:], alpha=0.0
    )


def test_linear_combinations_keep_the_variance(pairs):
    problem = orthogonal_problem(pairs, 15.0)
    path = LinearCombination().solve(problem).path
    norms = path.point(positions(9)).norm(dim=-1)
    torch.testing.assert_close(norms, torch.full_like(norms, 15.0))
    torch.testing.assert_close(path.point(positions())[:, 0], problem.x0)
    torch.testing.assert_close(path.point(positions())[:, -1], problem.x1)


@pytest.mark.parametrize("norm", [13.0, 16.0, 18.0])
def test_the_norm_guided_path_goes_where_norms_are_likely_and_costs_less(pairs, norm):
    problem = orthogonal_problem(pairs, norm)
    u = positions(65)

    def cost(points):
        return torch.stack([_cost(row, 256) for row in points.double()])

    path = NormGuided().solve(problem).path.point(u)
    norms = path[:, 16:-16].norm(dim=-1)
    assert (norms - 255**0.5).abs().max() < 0.35
    circle = slerp(problem.x0, problem.x1, u)
    straight = torch.lerp(problem.x0[:, None], problem.x1[:, None], u.float()[:, None])
    for other in (circle, straight):
        assert bool((cost(path) < 1.01 * cost(other)).all())
    steps = path.diff(dim=1).norm(dim=-1)
    assert steps.max() < 1.5 * steps.mean()


def test_a_formulas_derivatives_are_those_of_its_points(pairs):
    path = AdainSlerp().solution(pairs).path
    u, h = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), 1e-2
    around = [path.point(u + shift) for shift in (-h, 0.0, h)]
    torch.testing.assert_close(path.velocity(u), (around[2] - around[0]) / (2 * h), rtol=1e-2, atol=1e-2)
    second = (around[2] - 2 * around[1] + around[0]) / h**2
    torch.testing.assert_close(path.acceleration(u), second, rtol=0.05, atol=0.3)
    assert path.restrict(torch.tensor([1])).point(u).shape == (1, 3, 256)
    torch.testing.assert_close(path.reversed().velocity(u), -path.velocity(1 - u))


def test_the_statistics_of_every_channel_move_linearly(pairs):
    u, x0, x1 = positions(), pairs.problem.x0, pairs.problem.x1
    z = adain(slerp(x0, x1, u), x0, x1, u, channels=4).unflatten(-1, (4, -1))
    first, second = (x.unflatten(-1, (4, -1)) for x in (x0, x1))
    for of in (torch.mean, torch.std):
        expected = torch.lerp(of(first, -1)[:, None], of(second, -1)[:, None], u.float()[:, None])
        torch.testing.assert_close(of(z, -1), expected, rtol=1e-4, atol=1e-4)


def test_slerp_is_the_great_circle_and_takes_the_line_between_parallels(pairs):
    u, problem = positions(), pairs.problem
    expected = Slerp().solve(problem).path.point(u)
    torch.testing.assert_close(slerp(problem.x0, problem.x1, u), expected, rtol=1e-4, atol=1e-4)
    doubled = slerp(problem.x0, 2 * problem.x0, u)
    torch.testing.assert_close(doubled, (1 + u.float())[:, None] * problem.x0[:, None])


def test_beta_quantiles_crowd_in_the_middle_and_keep_the_ends():
    u = positions(9)
    for alpha in (1.0, 3.0, 20.0):
        q = beta_quantiles(u, alpha, alpha)
        torch.testing.assert_close(q + q.flip(0), torch.ones_like(q))
        assert (q[0], q[-1]) == (0, 1)
    torch.testing.assert_close(beta_quantiles(u, 1.0, 1.0), u)
    assert beta_quantiles(u, 20.0, 20.0)[1] > beta_quantiles(u, 3.0, 3.0)[1] > u[1]


def test_frequencies_are_kept_below_the_bound_and_replaced_above():
    rng = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(4, 8, 8, generator=rng)
    torch.testing.assert_close(replace_high_frequencies(x, noise, kept=1.0), x)
    mixed = replace_high_frequencies(x, noise, kept=0.5)
    torch.testing.assert_close(torch.fft.fft2(mixed)[..., 1, 2], torch.fft.fft2(x)[..., 1, 2])
    torch.testing.assert_close(torch.fft.fft2(mixed)[..., 3, 0], torch.fft.fft2(noise)[..., 3, 0].expand(2, -1))


@pytest.mark.parametrize("count", [2, 3, 5, 17, 12])
def test_bisection_fills_every_gap_once_from_neighbours_that_are_there(count):
    there = {0, count - 1}
    for gaps in _rounds(count):
        assert all({left, right} <= there and left < middle < right for left, middle, right in gaps)
        assert not there & {middle for _, middle, _ in gaps}
        there |= {middle for _, middle, _ in gaps}
    assert there == set(range(count))


@pytest.mark.parametrize(("diversity", "rank"), [(0.0, 1), (0.39, 2), (0.5, 8), (0.6, 16), (9.0, 64)])
def test_the_rank_grows_with_the_diversity(diversity, rank):
    assert lora_rank(diversity, most=64) == rank


def test_smooth_diffusion_uses_the_adapter(pairs, tmp_path):
    adapter = save_adapter(pairs.model, tmp_path)
    with_it = SmoothDiffusion(weights=adapter, guidance=None, tau=None).morph(pairs, positions())
    without = Slerp().morph(pairs, positions())
    images = torch.stack([pairs.batch.images_a, pairs.batch.images_b], dim=1)
    ends = pairs.model.decode(pairs.model.encode(images.flatten(0, 1))).view(images.shape)
    torch.testing.assert_close(with_it.frames[:, [0, -1]], ends, rtol=0, atol=5e-3)
    assert (with_it.frames[:, 2] - without.frames[:, 2]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SmoothDiffusion(weights=None), "needs its LoRA, which does not ship"),
        (lambda: SmoothDiffusion(weights="no/such/file"), "'no/such/file' does not exist"),
        (lambda: NormGuided(knots=2), "knots >= 3"),
        (lambda: NoiseDiffusion(bound=0.0), "bound > 0"),
        (lambda: NoiseDiffusion(tau=0.0), "tau must lie above 0"),
        (lambda: WangGolland(most=0.2, least=0.4), "least <= most"),
        (lambda: OuterAttentionInterpolation(alpha=0.0), "alpha > 0"),
        (lambda: OuterAttentionInterpolation(warmup=2.0), r"warmup must lie in \[0, 1\]"),
        (lambda: DiffMorpher(attention_share=-1.0), "attention_share"),
        (lambda: FreeMorph(refinements=-1), "refinements >= 0"),
    ],
)
def test_senseless_settings_are_refused_in_a_sentence(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_a_method_that_fails_on_the_way_leaves_the_model_as_it_was(rough, monkeypatch):
    before = probe(rough.model)

    def failing(*arguments, **options):
        raise RuntimeError("on purpose")

    monkeypatch.setattr("latent_geodesics.methods.diffmorpher.descend", failing)
    monkeypatch.setattr("latent_geodesics.methods.aid.descend", failing)
    for method in (DiffMorpher(lora=QUICK, tau=None), OuterAttentionInterpolation(tau=None)):
        with pytest.raises(RuntimeError, match="on purpose"):
            method.morph(rough, positions())
        assert torch.equal(probe(rough.model), before)


def test_a_restricted_batch_is_the_same_problem(pairs):
    one = pairs.restrict([1])
    assert one.batch.ids == ["1"]
    u = positions(3)
    x = Slerp().solve(pairs.problem).path.point(u)
    torch.testing.assert_close(
        score_along(one.problem.field, x[1:], u), score_along(pairs.problem.field, x, u)[1:], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(one.latents_a, pairs.latents_a[1:])
    expected = pairs.model.encode(pictures(2), condition=pairs.condition_a, tau=TAU)
    torch.testing.assert_close(pairs.latents_a, expected, rtol=1e-5, atol=1e-5)
