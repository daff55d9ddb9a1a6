"""Schedules at their limits: a first time of 0, no signal at the last time; and steps that do not settle."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from baselines import encoded_pairs, gentle_model, positions
from safetensors.torch import load_file, save_file
from tiny_families import build
from tiny_model import build_tiny_model

from latent_geodesics.core.errors import UserError
from latent_geodesics.methods import Method, Slerp, attempt
from latent_geodesics.methods.base import UNINVERTED
from latent_geodesics.models import load_model
from latent_geodesics.models.inversion import LOST, UNSETTLED, Fault, denoise


@pytest.fixture(scope="module")
def predicting_v(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("v") / "tiny", prediction="v_prediction")


def changed(folder, place, **changes):
    """A copy of a model with another scheduler."""
    copy = Path(shutil.copytree(folder, place / "model"))
    file = copy / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return copy


def images(model, count=2):
    return torch.rand(count, 3, *model.image_size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_first_time_of_0_adds_no_noise_and_no_nan(tiny_model_folder, predicting_v, tmp_path, prediction):
    folder = predicting_v if prediction == "v_prediction" else tiny_model_folder
    options = {"set_alpha_to_one": False, "timestep_spacing": "linspace"}
    model = load_model(changed(folder, tmp_path, **options), device="cpu", dtype="float32", steps=10)
    assert model.schedule.times[0] == 0
    x = images(model)
    back = model.decode(model.encode(x, tau=0.8), tau=0.8)
    torch.testing.assert_close(back, model.decode(model.encode(x)), rtol=0, atol=1e-3)


def test_v_prediction_inverts_up_to_where_no_signal_is_left(predicting_v, tmp_path):
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    model = load_model(changed(predicting_v, tmp_path, **options), device="cpu", dtype="float32", steps=10)
    tau = 0.99  # level 10 of 10
    assert model.schedule.signal_at_level(model.schedule.level(tau)) == 0
    x = images(model)
    back = model.decode(model.encode(x, tau=tau), tau=tau)
    torch.testing.assert_close(back, model.decode(model.encode(x)), rtol=0, atol=1e-3)


def test_noise_prediction_has_no_image_where_no_signal_is_left(tiny_model_folder, tmp_path):
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    model = load_model(changed(tiny_model_folder, tmp_path, **options), device="cpu", dtype="float32", steps=10)
    with pytest.raises(UserError, match=r"leaves no signal.*at most 0.9"):
        model.encode(images(model), tau=0.99)
    assert model.encode(images(model), tau=0.9).isfinite().all()


def test_steps_that_do_not_settle_are_told_with_their_number_and_error(tiny_model_folder, caplog):
    model = load_model(tiny_model_folder, device="cpu", dtype="float32", steps=10, refinements=20)
    model.encode(images(model), tau=0.8)
    assert "did not settle" not in caplog.text
    with torch.no_grad():  # a noise that changes so fast with the latent that no step contracts
        model.network.module.conv_out.weight *= 200
    model.encode(images(model), tau=0.8)
    assert "did not settle: step" in caplog.text
    found = model.invert(images(model), tau=0.8)
    assert [fault.lost for fault in found.faults] == [True, True]
    assert found.faults[0].error == pytest.approx(float(found.error[0])) and found.faults[0].step == int(found.step[0])
    with pytest.raises(UserError, match="of 2 of 2 images the inversion did not settle: step"):
        _ = found.sound


@pytest.mark.parametrize(
    ("options", "tau"),
    [
        ({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}, 0.99),
        ({"beta_schedule": "scaled_linear", "beta_end": 1.5}, 0.6),
    ],
    ids=["cosine", "steep"],
)
def test_where_next_to_no_signal_is_left_the_way_back_is_held_against_the_image(tmp_path, options, tau):
    folder = changed(build("stable_diffusion_1", tmp_path / "built"), tmp_path, **options)
    model = load_model(folder, device="cpu", dtype="float32", steps=5)
    found = model.invert(images(model), tau=tau)
    assert bool((found.error < UNSETTLED).all()), "every step is solved"
    off = (model.decode(found.x, tau=tau) - model.decode(model.encode(images(model)))).abs().amax((1, 2, 3))
    assert bool((off > 0.05).all())
    assert all(fault.lost and "the way back misses" in fault.words for fault in found.faults)


def test_an_error_that_grows_on_the_way_back_is_weighed_by_what_it_becomes(tmp_path):
    folder = with_conv_out(build("stable_diffusion_1", tmp_path / "built"), tmp_path, lambda weight: 30 * weight)
    model = load_model(folder, device="cpu", dtype="float32", steps=5)
    found = model.invert(images(model), tau=0.6)
    assert bool((found.error < LOST).all())
    assert [fault.lost for fault in found.faults] == [True, True]


def test_an_error_of_a_step_is_that_of_going_down_again(tiny_model_folder):
    model = load_model(tiny_model_folder, device="cpu", dtype="float32", steps=2, refinements=1)
    x = images(model)
    clean, found = model.encode(x), model.invert(x, tau=0.5)  # one step
    back = denoise(model.network, found.x, level=1, guidance=model._guidance(2, None, 1.0, None))
    assert found.step.tolist() == [1, 1]
    assert bool((found.error > 1e-5).all())
    off = (back - clean).norm(dim=-1) / clean.norm(dim=-1)
    assert bool((off < 30 * found.error).all())


def test_the_published_inversion_is_not_meant_to_be_solved_and_one_from_the_cache_tells_the_same(
    tiny_model_folder, tmp_path
):
    model = load_model(tiny_model_folder, device="cpu", dtype="float32", steps=4, cache_dir=tmp_path)
    assert model.invert(images(model), tau=0.8, refinements=0).faults == (None, None)
    first, second = (model.invert(images(model), tau=0.8, remember=True) for _ in range(2))
    assert first.faults == second.faults
    assert first.faults[0] is not None
    assert torch.equal(first.x, second.x)


def test_what_is_kept_belongs_to_one_grid_of_times(tiny_model_folder, tmp_path):
    options = {"device": "cpu", "dtype": "float32", "steps": 4, "cache_dir": tmp_path / "cache"}
    leading = load_model(tiny_model_folder, **options)
    trailing = load_model(changed(tiny_model_folder, tmp_path, timestep_spacing="trailing"), **options)
    found = [each.invert(images(each), tau=0.5, remember=True) for each in (leading, trailing)]
    assert trailing.fingerprint == leading.fingerprint and trailing.network_evaluations > 0
    assert not torch.equal(found[0].x, found[1].x)


def with_conv_out(folder, place, change):
    """A copy of a model whose U-Net's last layer is changed."""
    copy = Path(shutil.copytree(folder, place / "changed"))
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_out.weight"] = change(tensors["conv_out.weight"])
    save_file(tensors, file, metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weight: 200 * weight, r"step \d of 3 was left with a relative error of"),
        (lambda weight: torch.full_like(weight, torch.nan), "its numbers were not finite from step 1 of 3 on"),
    ],
    ids=["unsettled", "nan"],
)
def test_a_run_makes_no_picture_of_what_was_not_inverted_and_says_why(
    command_line, pictures, tiny_model_folder, tmp_path, change, words
):
    folder = with_conv_out(tiny_model_folder, tmp_path, change)
    outcome = command_line(
        f"image_a={pictures / 'a.png'}", f"image_b={pictures / 'b.png'}", f"model.path_or_name={folder}",
        "model.steps=5", "model.cache_dir=null", "frames=3", "method=[slerp,lerp]", "metrics=offline",
        f"output_dir={tmp_path / 'run'}", "logger.mode=disabled",
    )  # fmt: skip
    assert outcome.code == 2
    assert "2 of 2 sequences failed (slerp on a--b; lerp on a--b)" in outcome.sentence
    assert "inversion did not settle" in outcome.sentence
    rows = list(csv.DictReader((tmp_path / "run" / "results.csv").open()))
    assert [row["status"] for row in rows] == [UNINVERTED] * 2
    for row in rows:
        assert re.search(words, row["failure"])
    assert [path.name for path in (tmp_path / "run" / "images").glob("*slerp*")] == []


def test_a_run_whose_inversion_is_a_little_off_says_so_in_table_report_and_log(
    command_line, pictures, tiny_model_folder, tmp_path
):
    outcome = command_line(
        f"image_a={pictures / 'a.png'}", f"image_b={pictures / 'b.png'}", f"model.path_or_name={tiny_model_folder}",
        "model.steps=5", "model.cache_dir=null", "model.refinements=10", "frames=3", "method=[slerp]",
        "metrics=offline", f"output_dir={tmp_path / 'run'}", "logger.mode=disabled",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    (row,) = csv.DictReader((tmp_path / "run" / "results.csv").open())
    assert row["status"] == "closed_form"
    assert "was left with a relative error of" in row["inversion"]
    for text in ((tmp_path / "run" / name).read_text() for name in ("run.log", "report.html")):
        assert "The inversion of 1 of 1 pair did not settle" in text


def test_the_other_pairs_of_a_batch_have_their_sequences(tiny_model_folder):
    pairs = encoded_pairs(gentle_model(tiny_model_folder), 2)
    assert pairs.faults == (None, None) and pairs.sound is pairs
    broken = replace(pairs, faults=(None, Fault(step=2, level=3, error=0.3)))
    with pytest.raises(UserError, match="of an image of the pair 1 the inversion did not settle: step 2 of 3"):
        _ = broken.sound
    first, second = attempt("slerp", Slerp(), broken, positions())
    torch.testing.assert_close(first.morph.frames, Slerp().morph(pairs, positions()).frames[:1], rtol=0, atol=1e-5)
    assert (first.failure, second.morph.statuses) == (None, (UNINVERTED,))
    assert second.morph.frames.isnan().all()


def test_frames_that_are_no_pictures_are_a_failure(tiny_model_folder):
    class Holes(Method):
        def morph(self, pairs, u):
            morph = Slerp().morph(pairs, u)
            for row, name in enumerate(pairs.batch.ids):
                if name == "1":
                    morph.frames[row, 2, 0, 3, 3] = torch.nan
            return morph

    first, second = attempt("holes", Holes(), encoded_pairs(gentle_model(tiny_model_folder), 2), positions())
    assert first.failure is None
    assert "1 of 5 frames came out" in second.failure
