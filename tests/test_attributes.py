"""The attribute network: its files, what it detects from known maps, and the perceptual distance."""

import json

import pytest
import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.attributes import AttributeNetwork, AttributeNetworkConfig, CellMaps

NAMES = {"color": ["red", "blue"], "shape": ["cube", "sphere"], "size": ["large", "small"], "material": ["metal"]}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return AttributeNetwork(config=AttributeNetworkConfig(attributes=NAMES, widths=(4, 8, 8), blocks=1)).eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_feature_maps_halve_the_side(network, images):
    assert [tuple(layer.shape) for layer in network.features(images)] == [(3, 4, 32, 32), (3, 8, 16, 16), (3, 8, 8, 8)]


def test_saved_and_loaded_it_answers_the_same_to_half_precision(network, images, tmp_path):
    network.half().float().save(tmp_path)
    again = AttributeNetwork.from_folder(tmp_path)
    assert not again.training
    assert all(weight.dtype == torch.float32 for weight in again.parameters())
    assert torch.equal(again(images).centre, network(images).centre)


def test_the_distance_is_zero_symmetric_and_independent_of_the_batch(network, images):
    with torch.no_grad():
        forth = network.perceptual_distance(images[:2], images[1:])
        back = network.perceptual_distance(images[1:], images[:2])
        alone = network.perceptual_distance(images[:1], images[1:2])
        same = network.perceptual_distance(images, images)
    assert torch.equal(same, torch.zeros(3))
    assert torch.allclose(forth, back)
    assert torch.allclose(forth[:1], alone, atol=1e-6)
    assert bool(((forth > 0) & (forth <= 12)).all())


def test_the_distance_is_differentiable(network, images):
    a = images[:1].clone().requires_grad_(True)
    network.perceptual_distance(a, images[1:2]).sum().backward()
    assert a.grad is not None
    assert float(a.grad.abs().sum()) > 0


def test_objects_are_read_from_the_maxima(network, images, monkeypatch):
    centre = torch.full((3, 8, 8), -9.0)
    centre[1, 2, 5], centre[1, 2, 6], centre[1, 6, 1] = 1.0, 0.5, 3.0
    logits = {name: torch.zeros(3, len(values), 8, 8) for name, values in NAMES.items()}
    logits["color"][1, 1, 6, 1] = 4.0
    place = torch.zeros(3, 2, 8, 8)
    place[1, :, 6, 1] = torch.tensor([-1.5, 2.5])
    maps = CellMaps(centre, torch.zeros(3, 2, 8, 8), place, logits)
    monkeypatch.setattr(network, "forward", lambda images: maps)
    nothing, (first, second), empty = network.detect(images)
    assert nothing == empty == []
    assert (first.color, first.shape, first.position) == ("blue", "cube", (-1.5, 2.5))
    assert first.pixel == pytest.approx((1.5 / 8, 6.5 / 8))
    assert (second.color, second.pixel) == ("red", pytest.approx((5.5 / 8, 2.5 / 8)))
    assert first.confidence > second.confidence


def test_detection_does_not_depend_on_the_batch(network, images):
    network.config.__dict__["threshold"] = 0.01
    together = network.detect(images)
    alone = [network.detect(image[None])[0] for image in images]
    assert [len(found) for found in together] == [len(found) for found in alone]
    assert [item.color for found in together for item in found] == [item.color for found in alone for item in found]


def test_sides_must_fit_the_cells(network):
    with pytest.raises(ValueError, match="multiples of 4"):
        network(torch.zeros(1, 3, 30, 32))


def test_a_missing_file_is_named(network, tmp_path):
    network.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        AttributeNetwork.from_folder(tmp_path)


@pytest.mark.parametrize("damage", ["{", '{"widths": [4, 8, 8]}'])
def test_a_damaged_folder_is_refused(network, tmp_path, damage):
    network.save(tmp_path)
    (tmp_path / "config.json").write_text(damage)
    with pytest.raises(UserError, match="restore its files"):
        AttributeNetwork.from_folder(tmp_path)


def test_truncated_weights_are_refused(network, tmp_path):
    network.save(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="restore its files"):
        AttributeNetwork.from_folder(tmp_path)


def test_the_configuration_is_plain_json(network, tmp_path):
    network.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["attributes"] == NAMES
