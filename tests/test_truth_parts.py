"""The parts of a run against the truth: scenes between, places on the floor, objects in images, tables, verdicts."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import PairBatch
from latent_geodesics.data.images import read_image
from latent_geodesics.experiments.truth.errors import compare_methods, inner_means, method_means, verdict, verdicts
from latent_geodesics.experiments.truth.floor import read_scenes, track
from latent_geodesics.metrics.attributes import SeenObject, match, object_errors, see_objects
from latent_geodesics.models.attributes import DetectedObject, shared_network
from recipes.clevr.rendering.motion import floor_position, orbited, risen, scene_between, translated
from recipes.clevr.rendering.scene import Camera, ClevrScene, SceneObject

NETWORK = "data/models/clevr-attributes"
SHIPPED = ("00-translate_x", "07-translate_depth", "16-orbit", "18-rise")

START = ClevrScene(
    objects=(
        SceneObject(
            shape="cube", rgb=(0.2, 0.3, 0.8), radius=0.7, material="rubber", position=(0.4, -1.1), rotation=30
        ),
        SceneObject(shape="sphere", rgb=(0.7, 0.1, 0.1), radius=0.35, material="metal", position=(-1.6, 0.9)),
    ),
    camera=Camera(position=(7.2, -6.4, 5.1), shift=0.02),
)
ORBITS = (40, -170)


def turned(degrees):
    """Where the camera is after a part of an orbit, by complex numbers."""
    x, y, z = START.camera.position
    place = complex(x, y) * np.exp(1j * np.radians(degrees))
    return (place.real, place.imag, z)


@pytest.mark.parametrize(
    ("end", "objects", "camera"),
    [
        (translated(START, (1.2, 0.4)), lambda u: {"position": (0.4 + 1.2 * u, -1.1 + 0.4 * u)}, None),
        (START.with_object(0, rotation=-15), lambda u: {"rotation": 30 - 45 * u}, None),
        (START.with_object(0, radius=0.35), lambda u: {"radius": 0.7 - 0.35 * u}, None),
        (
            START.with_object(0, rgb=(0.9, 0.9, 0.1)),
            lambda u: {"rgb": (0.2 + 0.7 * u, 0.3 + 0.6 * u, 0.8 - 0.7 * u)},
            None,
        ),
        *((orbited(START, angle), lambda u: {}, lambda u, angle=angle: turned(u * angle)) for angle in ORBITS),
        (risen(START, -1.5), lambda u: {}, lambda u: (7.2, -6.4, 5.1 - 1.5 * u)),
        (
            orbited(translated(START, (1.2, 0.4)), 40),
            lambda u: {"position": (0.4 + 1.2 * u, -1.1 + 0.4 * u)},
            lambda u: turned(40 * u),
        ),
    ],
    ids=["translate", "rotate", "resize", "recolour", "orbit", "orbit_back", "rise", "together"],
)
def test_the_scene_between_two_ends_is_that_of_the_motion(end, objects, camera):
    for u in (0.0, 0.3, 0.75, 1.0):
        found, true = scene_between(START, end, u), START.with_object(0, **objects(u))
        if camera is not None:
            true = replace(true, camera=replace(START.camera, position=camera(u)))
        assert found.pixels() == [pytest.approx(pixel, abs=1e-9) for pixel in true.pixels()]
        np.testing.assert_allclose(found.camera.position, true.camera.position, atol=1e-9)
        for a, b in zip(found.objects, true.objects, strict=True):
            np.testing.assert_allclose([a.radius, a.rotation, *a.rgb], [b.radius, b.rotation, *b.rgb], atol=1e-9)


def test_scenes_of_different_objects_have_nothing_between():
    other = replace(START, objects=START.objects[:1])
    with pytest.raises(ValueError, match="same objects"):
        scene_between(START, other, 0.5)


def test_the_floor_is_where_the_camera_sees_it():
    for item, pixel in zip(START.objects, START.pixels(), strict=True):
        assert floor_position(START.camera, pixel, item.half_height) == pytest.approx(item.position, abs=1e-9)


def test_matching_takes_the_least_total_distance():
    wanted = [(0.2, 0.2), (0.4, 0.2)]
    assert sorted(match([(0.41, 0.2), (0.3, 0.2)], wanted)) == [(0, 1), (1, 0)]
    assert match([(0.39, 0.2)], wanted) == [(0, 1)]
    assert match([], wanted) == []
    assert len(match([(0.1, 0.1)] * 3, wanted)) == 2


def seen(x, y, *, rgb=(0.5, 0.5, 0.5), radius=10.0):
    return SeenObject(pixel=(x, y), rgb=rgb, radius=radius, color="red")


def test_object_errors():
    true = [seen(0.25, 0.5), seen(0.75, 0.5, radius=8.0)]
    exact = object_errors(true[::-1], true, width=64)
    assert exact == {"truth_place": 0, "truth_color": 0, "truth_radius": 0, "truth_missed": 0, "truth_extra": 0}
    moved = [seen(0.25, 0.5 + 3 / 64, rgb=(0.8, 0.5, 0.5), radius=11.0)]
    found = object_errors(moved, true, width=64)
    assert found["truth_place"] == pytest.approx(3)
    assert found["truth_color"] == pytest.approx(0.3 / math.sqrt(3))
    assert found["truth_radius"] == pytest.approx(math.log(1.1))
    assert (found["truth_missed"], found["truth_extra"]) == (1, 0)
    assert object_errors([*true, seen(0.5, 0.1)], true, width=64)["truth_extra"] == 1
    none = object_errors([], true, width=64)
    assert none["truth_missed"] == 2
    assert math.isnan(none["truth_place"])
    assert math.isnan(object_errors([seen(0.2, 0.2, radius=math.nan)], [seen(0.2, 0.2)], width=64)["truth_radius"])


class Pointer:
    """Stands for the network: it finds an object at each of the given pixels."""

    def __init__(self, *pixels):
        self.objects = [
            DetectedObject(color="red", shape="sphere", size="large", material="rubber", position=(0.0, 0.0),
                           pixel=pixel, confidence=0.9)
            for pixel in pixels
        ]  # fmt: skip

    def detect(self, images):
        return [self.objects] * len(images)


@pytest.mark.parametrize("radius", [6.0, 11.0])
@pytest.mark.parametrize("other", [(0.1, 0.6, 0.1), (0.12, 0.12, 0.12)], ids=["another object", "a shadow"])
def test_size_and_colour_of_a_disc(radius, other):
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    image = torch.full((3, 64, 64), 0.45)
    for centre, size, rgb in ((44.0, 14.0, other), (26.0, radius, (0.8, 0.2, 0.2))):
        inside = (x + 0.5 - centre).square() + (y + 0.5 - 30).square() < size**2
        image = torch.where(inside, torch.tensor(rgb)[:, None, None], image)
    (found,) = see_objects(Pointer((26 / 64, 30 / 64)), image[None])[0]
    assert found.rgb == pytest.approx((0.8, 0.2, 0.2))
    assert found.radius == pytest.approx(radius, rel=0.03)


def test_a_grey_object_has_no_size():
    image = torch.full((1, 3, 64, 64), 0.5)
    image[..., 20:40, 20:40] = 0.3
    (found,) = see_objects(Pointer((30 / 64, 30 / 64)), image)[0]
    assert math.isnan(found.radius)
    assert found.rgb == pytest.approx((0.3, 0.3, 0.3))


def shipped(pair):
    files = [f"data/pairs/frames/{pair}/{number:02d}.png" for number in (0, 5, 10, 16)]
    return torch.stack([read_image(file, size=(128, 128)) for file in files]), torch.tensor([0, 5, 10, 16]) / 16


@pytest.mark.parametrize("pair", SHIPPED)
def test_objects_of_true_frames_are_found_on_the_floor(pair):
    frames, u = shipped(pair)
    ends = read_scenes("data/pairs/scenes.jsonl")[pair]
    tracks = track(shared_network(NETWORK), frames, ends, u)
    assert len(tracks) == len(ends[0].objects)
    for one in tracks:
        assert float((one.found - one.true).norm(dim=-1).max()) < 0.15


def test_the_size_in_the_image_goes_with_the_true_one():
    frames, u = shipped("13-resize")
    ends = read_scenes("data/pairs/scenes.jsonl")["13-resize"]
    found = [objects[0].radius for objects in see_objects(shared_network(NETWORK), frames)]
    true = []
    for position in u.tolist():
        scene = scene_between(*ends, position)
        true.append(128 * scene.camera.projected_radius(scene.objects[0].centre, scene.objects[0].radius))
    assert np.array(found) == pytest.approx(true, rel=0.05)


def test_the_network_is_loaded_once():
    assert shared_network(NETWORK) is shared_network(NETWORK + "/../clevr-attributes")


def test_scenes_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="do not exist"):
        read_scenes(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text(json.dumps({"id": "x", "a": {}}) + "\n")
    with pytest.raises(UserError, match="Line 1"):
        read_scenes(tmp_path / "bad.jsonl")


def test_true_frames_at_the_positions_of_a_sequence():
    truth = torch.arange(17.0)[:, None, None, None].expand(-1, 3, 2, 2)
    batch = PairBatch(pairs=(), images_a=truth[:2], images_b=truth[:2], truth=(truth, None))
    assert batch.true_frames(0, 17) is not None
    assert batch.true_frames(0, 9)[:, 0, 0, 0].tolist() == list(range(0, 17, 2))
    assert batch.true_frames(0, 6) is None
    assert batch.true_frames(1, 17) is None


@pytest.fixture
def table():
    rows = []
    for number in range(8):
        for method, offset in (("geodesic", 0.0), ("slerp", 0.5), ("lerp", 0.01 * (-1) ** number)):
            for u in (0.0, 0.5, 1.0):
                error = 1.0 + number + offset if u == 0.5 else 99.0
                row = {"pair": str(number), "group": "g", "method": method, "u": u, "truth_rmse": error}
                rows.append(row | {"truth_floor": math.nan if number else 0.25})
    return inner_means(pd.DataFrame(rows))


def test_tables_take_inner_frames_and_known_errors(table):
    assert len(table) == 24
    assert table["truth_rmse"].max() < 10
    means = method_means(table, draws=300, generator=np.random.default_rng(0)).set_index(["method", "error"])
    row = means.loc["geodesic", "truth_rmse"]
    assert row["mean"] == pytest.approx(4.5)
    assert row["low"] < 4.5 < row["high"]
    assert means.loc["geodesic", "truth_floor"]["pairs"] == 1


def test_gains_are_taken_pair_by_pair(table):
    gains = compare_methods(
        table, method="geodesic", others=["slerp", "lerp"], draws=300, generator=np.random.default_rng(0)
    )
    found = gains.set_index(["other", "error"])
    row = found.loc["slerp", "truth_rmse"]
    assert (row["gain"], row["wins"], row["losses"], row["verdict"]) == (pytest.approx(0.5), 8, 0, "nearer")
    assert found.loc["lerp", "truth_rmse"]["verdict"] == "not told apart"
    said = verdicts(gains)
    assert len(said) == 2
    assert "Nearer: pixels, root mean square (8 of 8 pairs)" in said[0]
    assert verdicts(pd.DataFrame()) == ["The run has no geodesic to compare with."]


def test_verdicts():
    assert verdict(0.1, 0.2) == "nearer"
    assert verdict(-0.2, -0.1) == "further"
    assert verdict(-0.1, 0.1) == "not told apart"
