"""The videos that ship: their scenes follow from a seed and are what their kind says, and their files are whole."""

import csv
import hashlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from latent_geodesics.data import VideoData
from latent_geodesics.data.videos import read_video
from recipes.clevr.rendering.pairs import FRAMES
from recipes.clevr.rendering.scene import ClevrScene
from recipes.clevr.rendering.videos import (
    COLUMNS,
    CONTROLS,
    VIDEOS,
    Control,
    crossfade,
    cut,
    render_videos,
    save_video,
    shuffled,
)

SHIPPED = Path(__file__).parents[1] / "data" / "videos"


def first(kind, seed=0):
    plan = next(plan for plan in VIDEOS if plan.kind == kind)
    return plan.draw(np.random.default_rng(seed))


def numbered(start=0):
    """Frames that are told apart by their value."""
    return np.broadcast_to(np.arange(start, start + FRAMES, dtype=np.uint8)[:, None, None, None], (FRAMES, 4, 4, 3))


def places(clip, index):
    return [scene.camera.project(scene.objects[index].centre) for scene in clip.scenes]


@pytest.mark.parametrize("kind", ["translate_x", "rotate", "crossing", "appear", "enter"])
def test_a_clip_follows_from_its_generator(kind):
    assert first(kind) == first(kind)
    assert len(first(kind).scenes) == FRAMES >= 16


def test_crossing_objects_pass_and_hide_one_another():
    clip = first("crossing", seed=3)
    one, other = (np.array(places(clip, index)) for index in (0, 1))
    assert one[0, 0] < other[0, 0]
    assert one[-1, 0] > other[-1, 0]
    camera = clip.scenes[0].camera
    radii = sum(camera.projected_radius(item.centre, item.radius) for item in clip.scenes[0].objects)
    assert np.linalg.norm(one - other, axis=1).min() < radii
    for scene in clip.scenes:
        a, b = scene.objects
        assert np.hypot(*np.subtract(a.position, b.position)) > a.radius + b.radius


def test_what_appears_is_less_than_a_pixel_at_first_and_grows():
    clip = first("appear")
    radii = [scene.objects[0].radius for scene in clip.scenes]
    item, camera = clip.scenes[0].objects[0], clip.scenes[0].camera
    assert 2 * 128 * camera.projected_radius(item.centre, item.reach) < 1
    assert all(before < after for before, after in pairwise(radii))
    assert " and " in clip.prompt_b
    assert " and " not in clip.prompt_a


def test_what_enters_is_outside_the_frame_at_first_and_inside_at_last():
    clip = first("enter")
    item, camera = clip.scenes[0].objects[0], clip.scenes[0].camera
    radius = camera.projected_radius(item.centre, item.reach)
    x = [place[0] for place in places(clip, 0)]
    assert not -radius < x[0] < 1 + radius
    assert 0 < x[-1] < 1
    assert " and " not in clip.prompt_a


def test_controls_are_made_of_the_frames_of_others():
    generator = np.random.default_rng(0)
    values = shuffled([numbered()], generator)[:, 0, 0, 0].tolist()
    assert sorted(values) == list(range(FRAMES))
    assert (values[0], values[-1]) == (0, FRAMES - 1)
    assert all(abs(after - before) > 1 for before, after in pairwise(values))
    joined = cut([numbered(), numbered(100)], generator)[:, 0, 0, 0].tolist()
    assert joined == [*range(9), *range(109, 117)]
    fade = crossfade([numbered() * np.uint8(10)], generator)[:, 0, 0, 0].tolist()
    assert fade == [10 * value for value in range(FRAMES)]


class FakeRenderer:
    """Frames that are told apart by the number asked for so far."""

    def __init__(self):
        self.count = 0

    def render(self, scenes):
        for _ in scenes:
            self.count += 1
            yield np.full((16, 16, 3), self.count % 256, dtype=np.uint8)


def test_a_render_leaves_files_manifest_and_scenes(tmp_path):
    plans = [plan for plan in VIDEOS if plan.kind in ("rotate", "appear")][3:5]
    controls = [Control(kind="shuffled", sources=(0,), make=shuffled), Control(kind="cut", sources=(1, 0), make=cut)]
    count = render_videos(folder=tmp_path, seed=0, renderer=FakeRenderer(), videos=plans, controls=controls)
    assert count == 2 * FRAMES
    rows = list(csv.DictReader((tmp_path / "manifest.csv").open()))
    assert [tuple(row) for row in rows] == [COLUMNS] * 4
    assert [row["id"] for row in rows] == ["00-rotate", "01-appear", "02-shuffled", "03-cut"]
    assert [row["sources"] for row in rows] == ["", "", "00-rotate", "01-appear 00-rotate"]
    assert (rows[3]["prompt_a"], rows[3]["prompt_b"]) == (rows[1]["prompt_a"], rows[0]["prompt_b"])
    assert len((tmp_path / "scenes.jsonl").read_text().splitlines()) == 2
    assert [video.control for video in VideoData(manifest=tmp_path / "manifest.csv").videos] == [
        False,
        False,
        True,
        True,
    ]


def test_a_saved_video_is_read_back_bit_by_bit(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    save_video(tmp_path / "a.mp4", frames)
    read = read_video(tmp_path / "a.mp4", size=(32, 32))
    assert np.array_equal((read * 255).round().byte().permute(0, 2, 3, 1).numpy(), frames)


def test_the_shipped_videos_are_as_their_manifest_says():
    rows = list(csv.DictReader((SHIPPED / "manifest.csv").open()))
    assert [row["kind"] for row in rows] == [plan.kind for plan in (*VIDEOS, *CONTROLS)]
    motions = [row for row in rows if row["control"] == "0"]
    assert len(motions) >= 40
    assert len({row["kind"] for row in motions}) >= 10
    assert len({row["kind"] for row in rows if row["control"] == "1"}) >= 2
    for row in rows:
        assert hashlib.sha256((SHIPPED / row["file"]).read_bytes()).hexdigest() == row["sha256"]
    scenes = [json.loads(line) for line in (SHIPPED / "scenes.jsonl").read_text().splitlines()]
    assert [scene["id"] for scene in scenes] == [row["id"] for row in motions]
    assert all(ClevrScene.from_dict(scene["a"]) != ClevrScene.from_dict(scene["b"]) for scene in scenes)
    data = VideoData(manifest=SHIPPED / "manifest.csv")
    for video in (data.videos[0], data.videos[-1]):
        assert read_video(video.file, size=(128, 128)).shape == (FRAMES, 3, 128, 128)
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 8_000_000
