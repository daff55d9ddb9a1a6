"""Fade, morph or jump: on sequences of which it is known, and on the true motions that ship."""

import csv
from pathlib import Path

import pytest
import torch
from measured import fade, measured, motion

from latent_geodesics.data.images import read_image
from latent_geodesics.metrics import Verdict, verdict_word

PAIRS = Path(__file__).parents[1] / "data" / "pairs"
COUNTS = (3, 5, 17, 65)


def judged(*sequences):
    found = Verdict().measure(measured(torch.stack(sequences), truth=False))
    return [{name: float(values[row]) for name, values in found.items()} for row in range(len(sequences))]


def cut(count, at):
    """The first image up to the frame `at`, the second from there on."""
    first, second = motion(2)
    return torch.stack([first] * at + [second] * (count - at))


def noisy(frames, by=0.004):
    return (frames + by * torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("touch", [lambda frames: frames, noisy], ids=["clean", "noisy"])
def test_a_fade_a_motion_and_a_cut_are_told_apart(count, touch):
    at = count // 3 + 1
    faded, moved, jumped = judged(touch(fade(count)), touch(motion(count)), touch(cut(count, at)))
    assert verdict_word(faded) == "fade"
    assert verdict_word(moved) == "morph"
    assert verdict_word(jumped) == "jump"
    assert moved["change_at"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("count", COUNTS)
def test_where_the_change_happens(count):
    at = count // 3 + 1
    (faded,), (jumped,) = judged(fade(count)), judged(cut(count, at))
    assert faded["largest_step"] == pytest.approx(1 / (count - 1), rel=1e-4)
    assert (faded["change_at"], faded["change_width"]) == pytest.approx((0.5, 0.5), abs=1e-4)
    assert jumped["largest_step"] == 1
    assert jumped["change_at"] == pytest.approx((at - 0.5) / (count - 1))
    assert jumped["change_width"] == pytest.approx(0.5 / (count - 1))


def test_the_threshold_is_half_way_from_an_even_change_to_a_cut():
    """Sixteen steps of a fade: one is a jump when it changes as much, squared, as (1 + 1/16)/2 of all."""

    def with_step(times):
        steps = torch.ones(16)
        steps[7] = times
        weights = torch.cat([torch.zeros(1), steps.cumsum(0)]) / steps.sum()
        ends = motion(2)
        return torch.stack([torch.lerp(ends[0], ends[1], float(weight)) for weight in weights])

    limit = (15 * 17 / 15) ** 0.5  # t^2 / (t^2 + 15) = 17/32
    below, above = judged(with_step(limit - 0.05), with_step(limit + 0.05))
    assert [verdict_word(below), verdict_word(above)] == ["fade", "jump"]


def test_a_sequence_without_a_change_or_without_frames_has_no_verdict():
    still = motion(2)[:1].repeat(5, 1, 1, 1)
    metric = Verdict()
    metric.update(measured(torch.stack([still, torch.full_like(still, torch.nan), fade(5)]), truth=False))
    assert [float(value) for value in metric.latest["fades"]] == pytest.approx([torch.nan, torch.nan, 1], nan_ok=True)
    assert float(metric.compute()["fades"]) == 1
    assert verdict_word({"fades": float("nan"), "ghosting": 1.0}) is None


def test_the_true_motions_that_ship_move_and_the_true_recolourings_fade():
    rows = [row for row in csv.DictReader((PAIRS / "manifest.csv").open()) if row["frames"]]
    words = {}
    for row in rows:
        files = sorted((PAIRS / row["frames"]).glob("*.png"))
        words[row["id"]] = verdict_word(judged(torch.stack([read_image(file, size=(128, 128)) for file in files]))[0])
    assert "jump" not in words.values()
    assert {words[id] for id in words if "recolour" in id} == {"fade"}
    assert {words[id] for id in words if "translate" in id or "resize" in id or "rotate" in id} == {"morph"}
