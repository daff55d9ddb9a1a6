"""FLIP and ColorVideoVDP as metrics, and what is said where an optional package is not installed."""

import sys

import numpy as np
import pytest
import torch
from measured import SIDE, fade, measured, motion

from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics import ColorVideoVdp, Flip, RunFacts, TopiqNoReference, check_metrics
from latent_geodesics.metrics.topiq import build_topiq

FACTS = RunFacts(pairs=2, with_truth=2, frames=5, image_size=(SIDE, SIDE))


def differences(metric, tests, references):
    """By the package itself, an image at a time."""
    pictures = [(one.movedim(0, -1).numpy().copy(), two.movedim(0, -1).numpy().copy()) for one, two in
                zip(tests, references, strict=True)]  # fmt: skip
    if isinstance(metric, Flip):
        evaluate = pytest.importorskip("flip_evaluator").evaluate
        return [evaluate(two, one, "LDR", applyMagma=False)[1] for one, two in pictures]
    vision = pytest.importorskip("pycvvdp").cvvdp(display_name="standard_fhd", device=torch.device("cpu"))
    return [10 - float(vision.predict(one, two, dim_order="HWC")[0]) for one, two in pictures]


@pytest.mark.parametrize("make", [Flip, ColorVideoVdp])
def test_steps_and_errors_are_the_packages_own(make):
    metric, frames = make(), fade(5)
    found = metric.measure(measured(torch.stack([frames, motion(5)])))
    name = metric.name
    steps = differences(metric, frames[1:], frames[:-1])
    assert float(found[f"ppl_seq_{name}"][0]) == pytest.approx(sum(steps), rel=1e-4)
    assert float(found[f"pdv_{name}"][0]) == pytest.approx(np.var(steps), rel=1e-3, abs=1e-9)
    errors = differences(metric, frames, motion(5))
    assert float(found[f"truth_{name}"][0]) == pytest.approx(np.mean(errors), rel=1e-4)
    assert float(found[f"truth_{name}"][1]) == pytest.approx(0, abs=1e-5)
    assert metric.measure(measured(frames[None], truth=False))[f"truth_{name}"].isnan().all()


def test_a_failed_sequence_has_no_visible_difference():
    frames = torch.stack([fade(5), torch.full_like(fade(5), torch.nan)])
    found = Flip().measure(measured(frames))
    assert all(values.isnan().tolist() == [False, True] for values in found.values())


@pytest.mark.parametrize(
    ("make", "module", "remedy"),
    [
        (Flip, "flip_evaluator", "latent-geodesics[visible]"),
        (ColorVideoVdp, "pycvvdp", "latent-geodesics[visible]"),
        (TopiqNoReference, "pyiqa", "latent-geodesics[pyiqa]"),
    ],
)
def test_a_metric_without_its_package_is_refused_before_a_run_with_the_remedy(monkeypatch, make, module, remedy):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as refused:
        check_metrics({"mine": make()}, FACTS)
    assert f"pip install '{remedy}'" in str(refused.value)
    assert "The metric mine needs the package" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_topiq_says_what_it_lacks(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(UserError, match="topiq_nr needs the package pyiqa"):
        build_topiq("topiq_nr", tmp_path / "weights.pth")
