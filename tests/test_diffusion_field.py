"""The score field of a diffusion model against direct formulas, its counters, views and random draws."""

import pytest
import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import Conditional, Contrastive, Guided, Renoised, Unconditional, load_model
from latent_geodesics.models.scores import NEGATIVE_PROMPT

TAU = 0.6
P, N = 3, 4


@pytest.fixture(scope="module")
def conditions(model):
    return model.condition(["a red cube", "a", "a cube"]), model.condition(["a sphere", "blue", "a blue cube"])


@pytest.fixture(scope="module")
def points(model):
    rng = torch.Generator().manual_seed(3)
    return torch.randn(P, N, model.dimension, generator=rng), torch.rand(P, N, generator=rng)


def field_of(model, conditions, score, **options):
    return model.field(condition0=conditions[0], condition1=conditions[1], tau=TAU, score=score, **options)


def direct_noise(model, x, u, conditions):
    """The network's prediction at each point, one by one and straight from the U-Net."""
    rows = []
    for pair in range(len(x)):
        for point in range(x.shape[1]):
            w = u[pair, point]
            embedding = (1 - w) * conditions[0][pair] + w * conditions[1][pair]
            image = x[pair, point].reshape(1, *model.latent_shape)
            with torch.no_grad():
                rows.append(model.network.module(image, model.time(TAU), embedding[None]).sample.flatten())
    return torch.stack(rows).reshape(x.shape)


def test_the_conditional_score_is_the_noise_over_sigma_with_the_condition_moving_linearly(model, conditions, points):
    score = field_of(model, conditions, Conditional()).score(*points)
    expected = -direct_noise(model, *points, conditions) / model.sigma(TAU)
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)


def test_a_single_condition_stays_along_the_path(model, conditions, points):
    score = model.field(condition0=conditions[0], tau=TAU).score(*points)
    expected = -direct_noise(model, *points, (conditions[0], conditions[0])) / model.sigma(TAU)
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)


def test_the_unconditional_score_does_not_know_the_prompts(model, conditions, points):
    empty = model.condition([""] * P)
    expected = -direct_noise(model, *points, (empty, empty)) / model.sigma(TAU)
    score = field_of(model, conditions, Unconditional()).score(*points)
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.filterwarnings("ignore:the prompt has")
def test_the_contrastive_score_is_half_the_difference(model, conditions, points, scaled):
    negative = model.condition([NEGATIVE_PROMPT] * P)
    difference = direct_noise(model, *points, (negative, negative)) - direct_noise(model, *points, conditions)
    expected = 0.5 * difference / (model.sigma(TAU) if scaled else 1.0)
    score = field_of(model, conditions, Contrastive(scaled=scaled)).score(*points)
    torch.testing.assert_close(score, expected, rtol=1e-3, atol=1e-5)


def test_a_given_negative_replaces_the_scores_own(model, conditions, points):
    given = model.condition(["red"])
    score = field_of(model, conditions, Contrastive(), negative=given).score(*points)
    expected = field_of(model, conditions, Contrastive(negative_prompt="red")).score(*points)
    torch.testing.assert_close(score, expected)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_the_guided_score_mixes_two_scores(model, conditions, points, weight):
    conditional = field_of(model, conditions, Conditional()).score(*points)
    unconditional = field_of(model, conditions, Unconditional()).score(*points)
    score = field_of(model, conditions, Guided(weight=weight)).score(*points)
    torch.testing.assert_close(score, (1 - weight) * unconditional + weight * conditional, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:the prompt has")
def test_both_predictions_of_the_contrastive_score_share_one_call(model, conditions, points):
    field = field_of(model, conditions, Contrastive())
    calls, evaluations = model.network.calls, model.network_evaluations
    field.score(*points)
    assert model.network.calls - calls == 1
    assert model.network_evaluations - evaluations == 2 * P * N
    assert field.evaluations == P * N


def test_a_network_that_predicts_v_has_the_same_score_and_images(tiny_model_folder, model, conditions, points):
    class Velocity(torch.nn.Module):
        """`v = (eps - sigma x) / sqrt(abar)` of the noise-predicting network."""

        def __init__(self, unet, schedule):
            super().__init__()
            self.unet, self.schedule, self.config = unet, schedule, unet.config
            self.dtype, self.device = unet.dtype, unet.device

        def forward(self, x, t, encoder_hidden_states):
            output = self.unet(x, t, encoder_hidden_states=encoder_hidden_states)
            signal, noise = (part.reshape(-1, 1, 1, 1) for part in (self.schedule.abar(t), self.schedule.sigma(t)))
            output.sample = (output.sample - noise * x) / signal.sqrt()
            return output

    other = load_model(tiny_model_folder, device="cpu", steps=5)
    parts = other._components
    parts.scheduler.register_to_config(prediction_type="v_prediction")
    rewired = type(parts)(**{**vars(parts), "network": Velocity(parts.network, model.schedule)})
    twin = type(other)(components=rewired, image_size=other.image_size, steps=5)
    assert twin.schedule.prediction == "v_prediction"
    score = field_of(twin, conditions, Conditional()).score(*points)
    torch.testing.assert_close(score, field_of(model, conditions, Conditional()).score(*points), rtol=1e-4, atol=1e-4)
    options = {"condition": conditions[0], "tau": TAU, "guidance": 2.0}
    images = twin.decode(points[0][:, 0], **options)
    torch.testing.assert_close(images, model.decode(points[0][:, 0], **options), rtol=0, atol=1e-4)


@pytest.mark.parametrize("score", [Conditional(), Renoised(score=Conditional(), seed=4)])
def test_a_view_of_some_pairs_scores_as_they_do_and_counts_in_common(model, conditions, points, score):
    field = field_of(model, conditions, score, pair_ids=[5, 7, 11])
    whole = field.score(*points)
    rows = torch.tensor([2, 0])
    view = field.restrict(rows)
    torch.testing.assert_close(view.score(points[0][rows], points[1][rows]), whole[rows], rtol=1e-3, atol=1e-5)
    last = view.restrict(torch.tensor([1]))
    torch.testing.assert_close(last.score(points[0][:1], points[1][:1]), whole[:1], rtol=1e-3, atol=1e-5)
    assert field.evaluations == view.evaluations == last.evaluations == 6 * N


def test_points_may_lack_the_axis_along_the_path(model, conditions, points):
    field = field_of(model, conditions, Conditional())
    x, u = points
    torch.testing.assert_close(field.score(x[:, 0], u[:, 0]), field.score(x, u)[:, 0], rtol=1e-4, atol=1e-5)


def test_points_must_fit_the_pairs(model, conditions, points):
    field = field_of(model, conditions, Conditional())
    with pytest.raises(ValueError, match=r"x must be \[3, ..., d\]"):
        field.score(points[0][:2], points[1][:2])
    with pytest.raises(ValueError, match=r"u must be \[3, ...\]"):
        field.score(points[0], points[1][:, :2])


def test_scores_are_float32_and_carry_no_gradient(model, conditions, points):
    x = points[0].clone().requires_grad_(True)
    score = field_of(model, conditions, Conditional()).score(x, points[1])
    assert score.dtype == torch.float32
    assert not score.requires_grad


class TestRenoised:
    def test_common_random_numbers_make_a_function(self, model, conditions, points):
        field = field_of(model, conditions, Renoised(score=Conditional(), seed=1))
        assert torch.equal(field.score(*points), field.score(*points))

    def test_a_point_has_its_draws_whatever_is_asked_with_it(self, model, conditions, points):
        field = field_of(model, conditions, Renoised(score=Conditional(), seed=1), pair_ids=[3, 4, 5])
        whole = field.score(*points)
        some = field.score(points[0][:, 1:3], points[1][:, 1:3])
        torch.testing.assert_close(some, whole[:, 1:3], rtol=1e-3, atol=1e-5)

    def test_the_seed_and_the_pair_change_the_draws(self, model, conditions, points):
        def scored(seed, ids):
            score = Renoised(score=Conditional(), seed=seed)
            return field_of(model, conditions, score, pair_ids=ids).score(*points)

        base = scored(1, [0, 1, 2])
        assert not torch.allclose(base, scored(2, [0, 1, 2]))
        other = scored(1, [0, 9, 2])
        assert not torch.allclose(base[1], other[1])
        torch.testing.assert_close(base[[0, 2]], other[[0, 2]])

    def test_fresh_draws_differ_by_call_and_not_by_batch(self, model, conditions, points):
        def make():
            return field_of(model, conditions, Renoised(score=Conditional(), seed=1, common_random_numbers=False))

        field = make()
        first, second = field.score(*points), field.score(*points)
        assert not torch.allclose(first, second)
        # A pair that is asked while the others rest sees the same sequence of draws.
        lonely = make().restrict(torch.tensor([1]))
        torch.testing.assert_close(lonely.score(points[0][1:2], points[1][1:2]), first[1:2], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(lonely.score(points[0][1:2], points[1][1:2]), second[1:2], rtol=1e-3, atol=1e-5)

    def test_draws_are_averaged_and_lie_in_the_window(self, model, conditions, points):
        seen = []

        class Spy(Conditional):
            def estimate(self, network, embed, query):
                seen.append(query)
                return torch.full_like(query.x, float(len(seen)))

        score = Renoised(score=Spy(), window=5, draws=3)
        field = field_of(model, conditions, score)
        torch.testing.assert_close(field.score(*points), torch.full_like(points[0], 2.0))
        shifts = torch.cat([query.t for query in seen]) - model.time(TAU)
        assert shifts.min() >= -5
        assert shifts.max() <= 4
        assert len(shifts.unique()) > 1
        assert not torch.equal(seen[0].x, seen[1].x)

    def test_points_are_moved_by_the_published_formula(self, model, conditions, points):
        seen = []

        class Spy(Conditional):
            def estimate(self, network, embed, query):
                seen.append(query)
                return query.x

        field_of(model, conditions, Renoised(score=Spy(), window=100)).score(*points)
        (query,) = seen
        here, there = model.schedule.signal[model.time(TAU)], model.schedule.signal[query.t]
        keep = (there / here).sqrt()
        added = (1 - there).sqrt() - (there * (1 - here) / here).sqrt()
        drawn = (query.x - keep[:, None] * points[0].flatten(0, 1)) / added[:, None]
        moved = added.abs() > 1e-3
        assert moved.any()
        assert drawn[moved].mean().abs() < 0.1
        assert drawn[moved].std() == pytest.approx(1.0, abs=0.05)

    def test_senseless_settings_are_refused(self):
        with pytest.raises(UserError, match="window and draws must be at least 1; received 0 and 1"):
            Renoised(score=Conditional(), window=0)
        with pytest.raises(UserError, match="cannot be re-noised again"):
            Renoised(score=Renoised(score=Conditional()))


def test_every_score_names_its_density():
    scores = [Conditional(), Unconditional(), Guided(weight=2), Contrastive(), Contrastive(scaled=True)]
    names = [score.density for score in scores] + [Renoised(score=scores[0]).density]
    assert len(set(names)) == len(names)
    assert names[0] == "p(x | c)"


def test_pair_ids_must_name_every_pair(model, conditions):
    with pytest.raises(UserError, match="pair_ids must name each of the 3 pairs; received 2"):
        field_of(model, conditions, Conditional(), pair_ids=[0, 1])
