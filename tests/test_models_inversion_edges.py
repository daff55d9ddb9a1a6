"""Schedules at their limits: a first time of 0, no signal at the last time; and steps that do not settle."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_model import build_tiny_model

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import load_model


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
    options = {"steps_offset": 0, "set_alpha_to_one": False, "timestep_spacing": "leading"}
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
