"""Scenes as data: projection, round trips, captions, sampling rules, exact motions."""

import json
import math
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from latent_geodesics.core.errors import UserError
from recipes.clevr.rendering import sampling
from recipes.clevr.rendering.motion import (
    floor_directions,
    orbited,
    risen,
    scene_between,
    scenes_between,
    translated,
)
from recipes.clevr.rendering.pairs import PLANS, draw_pair
from recipes.clevr.rendering.sampling import MIN_DISTANCE, SceneSampler, is_clear
from recipes.clevr.rendering.scene import COLORS, SIZES, Camera, ClevrScene, SceneObject, caption, random_caption

SHIPPED = Path(__file__).parents[1] / "data" / "pairs"


def cube(**changes):
    values = {"shape": "cube", "rgb": COLORS["red"], "radius": 0.7, "material": "rubber", "position": (0.0, 0.0)}
    return SceneObject(**(values | changes))


def two_objects():
    other = cube(shape="cylinder", rgb=COLORS["yellow"], radius=0.35, material="metal", position=(1.0, -0.5))
    return ClevrScene(objects=(cube(rotation=10.0, position=(-1.0, 0.25)), other))


def ends():
    """The ends of motions from `two_objects`, by what they change."""
    start = two_objects()
    moved = translated(start, (1.0, 0.5))
    return {
        "translate": moved,
        "rotate": start.with_object(0, rotation=40.0),
        "resize": start.with_object(0, radius=0.35),
        "recolour": start.with_object(1, rgb=COLORS["blue"]),
        "orbit": orbited(start, -25.0),
        "rise": risen(start, 1.5),
        "together": moved.with_object(1, rgb=COLORS["blue"]),
    }


def test_json_round_trip_is_exact():
    scene = SceneSampler(counts={2: 1.0}).scene(seed=7, index=3)
    assert ClevrScene.from_dict(json.loads(scene.to_json())) == scene


@pytest.mark.parametrize(
    "change", [{"shape": "cone"}, {"material": "wood"}, {"radius": 0.0}, {"rgb": (0.0, 0.0, 1.5)}, {"rgb": (0.0, 1.0)}]
)
def test_objects_refuse_what_clevr_does_not_have(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        cube(**change)


def test_names_are_those_of_the_nearest_published_values():
    item = cube(rgb=(0.6, 0.15, 0.2), radius=0.6)
    assert (item.color, item.size) == ("red", "large")


def test_the_camera_sees_its_target_in_the_middle_and_axes_are_orthonormal():
    camera = Camera(position=(3.0, -4.0, 5.0), target=(0.5, 0.25, 0.0), shift=0.0)
    assert camera.project(camera.target) == pytest.approx((0.5, 0.5))
    assert camera.axes() @ camera.axes().T == pytest.approx(np.eye(3))
    assert replace(camera, position=(4.0, -4.0, 5.0)).axes() != pytest.approx(camera.axes())
    assert Camera(shift=0.1).project((0.0, 0.0, 0.0)) == pytest.approx((0.5, 0.4))


def test_right_up_and_away_on_the_floor_are_right_up_and_up_in_the_image():
    camera = Camera()
    right, away = floor_directions(camera)
    middle = camera.project((0.0, 0.0, 0.0))
    to_the_right, further, above = (camera.project(point) for point in ((*right, 0.0), (*away, 0.0), (0.0, 0.0, 1.0)))
    assert to_the_right[0] > middle[0] + 0.05
    assert to_the_right[1] == pytest.approx(middle[1])
    assert further[0] == pytest.approx(middle[0])
    assert further[1] < middle[1] - 0.05
    assert above[1] < middle[1] - 0.05


def test_projection_has_the_lens_equation_s_scale():
    camera = Camera(position=(0.0, -10.0, 0.0), lens=35.0, sensor=14.0, shift=0.0)
    assert camera.project((2.0, 0.0, 1.0)) == pytest.approx((0.5 + 2.5 * 0.2, 0.5 - 2.5 * 0.1))
    assert camera.projected_radius((0.0, 0.0, 0.0), 0.8) == pytest.approx(2.5 * 0.08)


def test_captions():
    scene = two_objects()
    assert caption(scene) == "a large red rubber cube and a small yellow metal cylinder"
    assert caption(scene, order=(1, 0)) == "a small yellow metal cylinder and a large red rubber cube"
    assert caption(scene, drop={"size", "material"}) == "a red cube and a yellow cylinder"
    three = replace(scene, objects=(*scene.objects, cube(shape="sphere")))
    assert caption(three, drop={"size"}).startswith("a red rubber cube, a yellow metal cylinder and a red")


def test_captions_refuse_a_drop_of_colour_and_an_order_that_forgets():
    with pytest.raises(ValueError, match="drop may hold material, size"):
        caption(two_objects(), drop={"color"})
    with pytest.raises(ValueError, match="permutation"):
        caption(two_objects(), order=(0, 0))


def test_random_captions_keep_colour_and_shape_and_come_in_every_order():
    scene = two_objects()
    generator = np.random.default_rng(0)
    texts = {random_caption(scene, generator, drop_share=0.5) for _ in range(200)}
    assert len(texts) == 8
    assert all("red" in text and "cube" in text and "yellow" in text and "cylinder" in text for text in texts)


def test_a_sampled_scene_depends_on_seed_and_index_alone():
    sampler = SceneSampler()
    assert sampler.scene(seed=5, index=11) == SceneSampler().scene(seed=5, index=11)
    assert len({sampler.scene(seed=seed, index=index).to_json() for seed in (5, 6) for index in (0, 1)}) == 4


@pytest.mark.parametrize("large", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_sampled_scenes_are_clear(number, large):
    sampler = SceneSampler(counts={number: 1.0}, large=large)
    for index in range(20):
        scene = sampler.scene(seed=1, index=index)
        assert len(scene.objects) == number
        assert is_clear(scene)
        assert all(0.0 < value < 1.0 for pixel in scene.pixels() for value in pixel)
        for first, second in combinations(scene.objects, 2):
            gap = math.dist(first.position, second.position) - first.radius - second.radius
            assert gap >= MIN_DISTANCE


def test_three_objects_are_placed_in_milliseconds():
    sampler = SceneSampler(counts={3: 1.0})
    start = time.process_time()
    scenes = [sampler.scene(seed=3, index=index) for index in range(40)]
    assert time.process_time() - start < 10.0  # 0.2 s on a quiet core; all places at once would take many minutes
    assert scenes[:5] == [SceneSampler(counts={3: 1.0}).scene(seed=3, index=index) for index in range(5)]


def test_numbers_of_objects_have_the_shares_asked_for():
    sampler = SceneSampler(counts={1: 0.4, 2: 0.4, 3: 0.2})
    numbers = [len(sampler.scene(seed=0, index=index).objects) for index in range(200)]
    shares = [numbers.count(number) / 200 for number in (1, 2, 3)]
    assert shares == pytest.approx([0.4, 0.4, 0.2], abs=0.1)  # three standard deviations


def test_a_number_of_weight_nothing_is_as_if_it_were_not_named():
    named, unnamed = SceneSampler(counts={1: 0.5, 2: 0.5, 3: 0.0}), SceneSampler(counts={1: 0.5, 2: 0.5})
    assert [named.scene(seed=0, index=index) for index in range(8)] == [
        unnamed.scene(seed=0, index=index) for index in range(8)
    ]
    with pytest.raises(ValueError, match="one of them above 0"):
        SceneSampler(counts={1: 0.0})


def test_too_many_objects_are_refused_and_not_sought_for_ever(monkeypatch):
    monkeypatch.setattr(sampling, "ATTEMPTS", 200)
    with pytest.raises(UserError, match=r"9 objects found no clear places in 5 scenes: ask for fewer \(task.counts\)"):
        SceneSampler(large=1.0).draw(np.random.default_rng(0), count=9)
    with pytest.raises(ValueError, match="count must be >= 1, got 0"):
        SceneSampler().draw(np.random.default_rng(0), count=0)


def test_a_scene_that_finds_no_place_is_drawn_anew_with_as_many_objects(monkeypatch):
    tries = []

    def once_in_vain(items, camera, generator):
        tries.append((len(items), camera))
        return None if len(tries) == 1 else placed(items, camera, generator)

    placed = sampling._all_placed
    monkeypatch.setattr(sampling, "_all_placed", once_in_vain)
    scene = SceneSampler(counts={1: 0.3, 2: 0.3, 3: 0.4}).scene(seed=0, index=0)
    (first, near), (second, camera) = tries
    assert len(scene.objects) == first == second
    assert scene.camera == camera != near


def test_the_scenes_of_the_shipped_pairs_are_still_drawn():
    lines = (SHIPPED / "scenes.jsonl").read_text().splitlines()
    for number in (0, 5, 9, 19, 30):
        pair, record = draw_pair(PLANS[number], np.random.default_rng([1103, number])), json.loads(lines[number])
        for scene, end in ((pair.first, "a"), (pair.second, "b")):
            shipped = ClevrScene.from_dict(record[end])
            assert caption(scene) == caption(shipped)
            # another processor may round a product of matrices differently
            assert [item.position for item in scene.objects] == [
                pytest.approx(item.position, abs=1e-12) for item in shipped.objects
            ]


def test_placement_does_not_bias_sizes():
    scenes = [SceneSampler(counts={2: 1.0}, large=1.0).scene(seed=2, index=index) for index in range(5)]
    assert {item.radius for scene in scenes for item in scene.objects} == {SIZES["large"]}


def test_hidden_touching_and_cut_off_objects_are_not_clear():
    alone = ClevrScene(objects=(cube(),))
    away = floor_directions(alone.camera)[1]
    behind = cube(radius=0.35, position=(1.5 * away[0], 1.5 * away[1]))
    assert is_clear(alone)
    assert not is_clear(ClevrScene(objects=(cube(), behind)))
    assert not is_clear(ClevrScene(objects=(cube(), cube(position=(0.8, 0.8)))))
    assert not is_clear(ClevrScene(objects=(cube(position=(3.0, 3.0)),)))


def test_the_sampler_refuses_wrong_weights():
    with pytest.raises(ValueError, match="counts"):
        SceneSampler(counts={0: 1.0})
    with pytest.raises(ValueError, match="large"):
        SceneSampler(large=1.5)


@pytest.mark.parametrize("end", ends().values(), ids=ends().keys())
def test_motions_start_and_end_exactly_at_their_ends(end):
    start = two_objects()
    scenes = scenes_between(start, end, 17)
    assert (scenes[0], scenes[16]) == (start, end)
    assert scenes[8] == scene_between(start, end, 0.5)


def test_ends_are_exactly_what_they_say():
    start, found = two_objects(), ends()
    first, second = start.objects
    assert found["translate"].objects == (replace(first, position=(0.0, 0.75)), second)
    assert found["rotate"].objects == (replace(first, rotation=40.0), second)
    assert found["recolour"].objects == (first, replace(second, rgb=COLORS["blue"]))
    assert found["rise"].camera.position == (*start.camera.position[:2], start.camera.position[2] + 1.5)
    assert found["together"].objects == (replace(first, position=(0.0, 0.75)), replace(second, rgb=COLORS["blue"]))


def test_motions_are_linear_in_u():
    found = {name: scene_between(two_objects(), end, 0.25) for name, end in ends().items()}
    assert found["translate"].objects[0].position == pytest.approx((-0.75, 0.375))
    assert found["rotate"].objects[0].rotation == pytest.approx(17.5)
    assert found["resize"].objects[0].radius == pytest.approx(0.6125)
    mixed = [0.75 * a + 0.25 * b for a, b in zip(COLORS["yellow"], COLORS["blue"], strict=True)]
    assert found["recolour"].objects[1].rgb == pytest.approx(mixed)
    assert found["together"].objects[0].position == pytest.approx((-0.75, 0.375))
    assert found["together"].objects[1].rgb == pytest.approx(mixed)


def test_an_orbit_keeps_height_and_distance_and_turns_by_its_angle():
    start = two_objects()
    x, y, z = scene_between(start, orbited(start, 60.0), 0.5).camera.position
    before = start.camera.position
    assert (math.hypot(x, y), z) == pytest.approx((math.hypot(*before[:2]), before[2]))
    assert math.atan2(y, x) - math.atan2(before[1], before[0]) == pytest.approx(math.radians(30.0))


def test_motions_refuse_positions_and_indices_out_of_range():
    start = two_objects()
    with pytest.raises(ValueError, match="u must lie"):
        scene_between(start, risen(start, 1.0), 1.01)
    with pytest.raises(ValueError, match="index"):
        start.with_object(2, rotation=1.0)
    with pytest.raises(ValueError, match="half a circle"):
        orbited(start, 180.0)
    with pytest.raises(ValueError, match="count"):
        scenes_between(start, risen(start, 1.0), 1)
