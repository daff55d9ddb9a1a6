"""Attention interpolation at the level of the network, and that nothing of it stays behind."""

import pytest
import torch
from baselines import gentle_model, probe

from latent_geodesics.models.attention import FrameAverage, Inner, Outer, attending


@pytest.fixture(scope="module")
def gentle(tiny_model_folder):
    return gentle_model(tiny_model_folder)


@pytest.fixture(scope="module")
def rows(gentle):
    x = torch.randn(3, gentle.dimension, generator=torch.Generator().manual_seed(1))
    return x, torch.full((3,), 400), gentle.condition(["a red cube", "a", "a blue sphere"])


def output(model, rows, mixture, **options):
    with torch.no_grad(), attending(model.network.module, mixture, **options):
        return model.network.output(*rows)


@pytest.mark.parametrize("kind", [Inner, Outer])
@pytest.mark.parametrize("fused", [False, True])
def test_the_ends_attend_to_themselves(gentle, rows, kind, fused):
    plain = output(gentle, rows, None)
    mixed = output(gentle, rows, kind(weights=torch.tensor([0.0, 0.4, 1.0]), fused=fused))
    torch.testing.assert_close(mixed[[0, 2]], plain[[0, 2]], rtol=1e-4, atol=1e-5)
    assert (mixed[1] - plain[1]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", [Inner, Outer])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_frame_like_an_end_with_that_ends_weight_is_that_end(gentle, rows, kind, weight):
    x, t, condition = rows
    end = -int(weight)
    x, condition = x.clone(), condition.clone()
    x[1], condition[1] = x[end], condition[end]
    mixed = output(gentle, (x, t, condition), kind(weights=torch.tensor([0.0, weight, 1.0]), fused=True))
    torch.testing.assert_close(mixed[1], mixed[end], rtol=1e-4, atol=1e-5)


def test_inner_and_outer_agree_for_a_weight_of_one_and_differ_between(gentle, rows):
    for weight, same in ((1.0, True), (0.5, False)):
        weights = torch.tensor([0.0, weight, 1.0])
        inner, outer = (output(gentle, rows, kind(weights=weights)) for kind in (Inner, Outer))
        assert torch.allclose(inner, outer, rtol=1e-4, atol=1e-5) == same


def test_equal_frames_that_attend_to_one_another_stay_as_they_are(gentle, rows):
    x, t, condition = (part[:1].repeat(4, *[1] * (part.ndim - 1)) for part in rows)
    torch.testing.assert_close(
        output(gentle, (x, t, condition), FrameAverage()), output(gentle, (x, t, condition), None)
    )


def test_the_average_couples_the_frames_and_leaves_the_ends(gentle, rows):
    x = torch.randn(4, gentle.dimension, generator=torch.Generator().manual_seed(3))
    batch = (x, torch.full((4,), 400), gentle.condition(["a", "a", "a", "a"]))
    plain, mixed = output(gentle, batch, None), output(gentle, batch, FrameAverage())
    torch.testing.assert_close(mixed[[0, 3]], plain[[0, 3]])
    assert (mixed[1] - plain[1]).abs().max() > 1e-4


def test_only_the_chosen_layers_take_part(gentle, rows):
    weights = torch.tensor([0.0, 0.5, 1.0])
    everywhere = output(gentle, rows, Inner(weights=weights))
    up = output(gentle, rows, Inner(weights=weights), part="up_blocks")
    own = output(gentle, rows, Inner(weights=weights), part="up_blocks", cross=False)
    nowhere = output(gentle, rows, Inner(weights=weights), part="no such part")
    assert torch.equal(nowhere, output(gentle, rows, None))
    results = [everywhere[1], up[1], own[1], nowhere[1]]
    assert all((a - b).abs().max() > 1e-6 for i, a in enumerate(results) for b in results[:i])


def test_the_processors_come_back_even_after_an_error(gentle, rows):
    before, processors = probe(gentle), dict(gentle.network.module.attn_processors)
    with pytest.raises(RuntimeError, match="on purpose"), attending(gentle.network.module, FrameAverage()):
        assert gentle.network.module.attn_processors.keys() == processors.keys()
        assert all(gentle.network.module.attn_processors[name] is not base for name, base in processors.items())
        raise RuntimeError("on purpose")
    assert all(gentle.network.module.attn_processors[name] is base for name, base in processors.items())
    assert torch.equal(probe(gentle), before)
