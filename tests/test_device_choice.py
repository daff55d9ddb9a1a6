"""Which device a run takes, and that one which cannot be had is refused in a sentence."""

import pytest
import torch
from pretended_device import NAME, pretended_device

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import accelerator
from latent_geodesics.models.accelerator import accelerators, choose_device, device_name, peak_memory_mb, wait

# Kinds that torch knows and this machine cannot have, whatever it has; and what is no kind at all.
ABSENT = ("xla:0", "hpu", "vulkan", "meta", "cuda:99", "cpu:1")
SENSELESS = ("tpu", "gpu", "", "cuda:x", 0, None, ["cuda"])


@pytest.mark.parametrize("name", ABSENT)
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(UserError, match=rf"'{name}'.*on this machine; use device=auto"):
        choose_device(name)


@pytest.mark.parametrize("name", SENSELESS, ids=repr)
def test_what_is_no_device_is_refused(name):
    with pytest.raises(UserError, match="device must be auto, cpu or a device such as cuda:0; received"):
        choose_device(name)


@pytest.mark.parametrize(
    "arguments",
    [
        "model.device=cuda:99",
        "model.device=xla",
        "model.device=tpu",
        "trainer.accelerator=tpu",
        "trainer.accelerator=xpu",
    ],
)
def test_the_command_line_says_so_in_a_sentence(command_line, tiny_model_folder, tmp_path, arguments):
    outcome = command_line(
        arguments, f"model.path_or_name={tiny_model_folder}", "logger.mode=disabled", f"output_dir={tmp_path / 'run'}"
    )
    assert outcome.code == 2, outcome.stderr
    assert arguments.partition("=")[2] in outcome.sentence
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("name", ["cuda", "gpu", "mps"])
def test_an_accelerator_without_its_driver_is_refused(command_line, tmp_path, monkeypatch, name):
    for kind in ("CUDAAccelerator", "MPSAccelerator"):
        monkeypatch.setattr(f"pytorch_lightning.accelerators.{kind}.is_available", staticmethod(lambda: False))
    outcome = command_line(f"trainer.accelerator={name}", f"output_dir={tmp_path / 'run'}")
    assert outcome.code == 2, outcome.stderr
    assert outcome.sentence.startswith(f"trainer.accelerator={name} was asked for and this machine has none")


def test_an_accelerator_that_torch_knows_is_taken_and_asked_like_any_other(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pretended_device() as device:
        assert choose_device("auto").type == choose_device(NAME).type == device.type
        assert choose_device(f"{NAME}:0") == choose_device(device) == device
        assert accelerators() == 1
        assert device_name(device) == NAME
        wait(device)
        assert peak_memory_mb(device) != peak_memory_mb(device)  # NaN: it has no such function
        with pytest.raises(UserError, match=f"'{NAME}:1'.*1 of that kind"):
            choose_device(f"{NAME}:1")
    assert choose_device("auto") == torch.device("cpu")
    assert accelerators() == 0


def test_one_without_float64_is_left_alone_or_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(accelerator, "_has_float64", lambda device: device.type == "cpu")
    with pretended_device():
        assert choose_device("auto") == torch.device("cpu")
        with pytest.raises(UserError, match="cannot compute in float64"):
            choose_device(NAME)


def test_processes_of_a_machine_take_accelerators_of_their_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank, index in (("0", 0), ("1", 1), ("2", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert choose_device("auto") == torch.device("cuda", index)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto") == torch.device("cuda")
