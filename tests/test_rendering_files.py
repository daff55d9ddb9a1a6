"""Rendering without a renderer: the worker protocol, shards that resume, the files of the pairs; and one real frame."""

import csv
import hashlib
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latent_geodesics.core.errors import UserError
from recipes.clevr.rendering.dataset import load_shards, render_shards, scene_record, write_shard
from recipes.clevr.rendering.pairs import COLUMNS, FRAMES, PLANS, draw_pair, render_pairs
from recipes.clevr.rendering.pool import DEFAULT_PYTHON, RenderPool
from recipes.clevr.rendering.sampling import SceneSampler, is_clear
from recipes.clevr.rendering.scene import COLORS, ClevrScene, SceneObject, caption
from recipes.clevr.rendering.task import RenderClevr

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "data" / "pairs"

# answers as the renderer does, with a frame of one value: a tenth of the first object's x
FAKE_WORKER = """
import json, sys
from PIL import Image
for line in sys.stdin:
    request = json.loads(line)
    x = request["scene"]["objects"][0]["position"][0]
    if x == 98:
        print(json.dumps({"error": "no such thing"}), flush=True)
        continue
    if x == 99:
        sys.exit("out of memory")
    Image.new("RGB", (request["resolution"],) * 2, (int(x), request["samples"], 0)).save(request["path"])
    print(json.dumps({"path": request["path"]}), flush=True)
"""


class FakeRenderer:
    """Frames of one value, the number of frames asked for so far; fails when told to."""

    def __init__(self, fail_after=10**9):
        self.count, self.fail_after = 0, fail_after

    def render(self, scenes):
        for _ in scenes:
            self.count += 1
            if self.count > self.fail_after:
                raise UserError("The renderer died.")
            yield np.full((4, 4, 3), self.count, dtype=np.uint8)


def scene_at(index):
    item = SceneObject(shape="sphere", rgb=COLORS["blue"], radius=0.7, material="metal", position=(float(index), 0.0))
    return ClevrScene(objects=(item,))


def shards(folder, renderer, *, count=10, seed=3, size=4, counts=None):
    settings = {"resolution": 4, "counts": counts or {1: 1.0}}
    return render_shards(
        folder=folder,
        scene=scene_at,
        seed=seed,
        renderer=renderer,
        first=0,
        count=count,
        shard_size=size,
        settings=settings,
    )


@pytest.fixture
def fake_pool(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(FAKE_WORKER)
    return RenderPool(renderer_python=sys.executable, workers=2, resolution=8, samples=5, script=script)


def test_frames_come_in_the_order_of_the_scenes(fake_pool):
    with fake_pool as pool:
        frames = list(pool.render([scene_at(index) for index in range(12)]))
        again = list(pool.render([scene_at(7)]))
    assert [tuple(frame[0, 0]) for frame in frames] == [(index, 5, 0) for index in range(12)]
    assert frames[0].shape == (8, 8, 3)
    assert again[0][0, 0, 0] == 7


def test_a_worker_that_dies_is_reported_with_its_scene_and_last_words(fake_pool):
    with fake_pool as pool, pytest.raises(UserError, match=r"died on scene .*99\.0.*exit code 1, out of memory"):
        list(pool.render([scene_at(0), scene_at(99), scene_at(1)]))


def test_a_scene_that_cannot_be_rendered_is_reported(fake_pool):
    with fake_pool as pool, pytest.raises(UserError, match="no such thing"):
        list(pool.render([scene_at(98)]))


def test_no_process_outlives_the_pool(fake_pool):
    with fake_pool as pool:
        processes = [worker.process for worker in pool._all]
    assert all(process.poll() is not None for process in processes)


def test_a_missing_interpreter_names_the_remedy():
    with pytest.raises(UserError, match="make render-env"), RenderPool(renderer_python="no/such/python"):
        pass


def test_an_interpreter_without_bpy_names_the_remedy():
    pool = RenderPool(renderer_python=sys.executable, workers=1)
    with pool, pytest.raises(UserError, match="make render-env"):
        list(pool.render([scene_at(0)]))


@pytest.mark.parametrize("name", ["workers", "resolution", "samples"])
def test_the_pool_refuses_nothing_at_all(name):
    with pytest.raises(ValueError, match=name):
        RenderPool(**{name: 0})


def test_shards_hold_every_frame_and_its_record(tmp_path):
    assert shards(tmp_path, FakeRenderer()) == 10
    loaded = list(load_shards(tmp_path))
    assert [shard.frames.shape for shard in loaded] == [(4, 4, 4, 3), (4, 4, 4, 3), (2, 4, 4, 3)]
    assert [frame[0, 0, 2] for shard in loaded for frame in shard.frames] == list(range(1, 11))
    records = [record for shard in loaded for record in shard.records]
    assert [record["index"] for record in records] == list(range(10))
    assert records[5]["caption"] == "a large blue metal sphere"
    assert ClevrScene.from_dict(records[5]["scene"]) == scene_at(5)
    assert tuple(records[5]["objects"][0]["pixel"]) == pytest.approx(scene_at(5).pixels()[0])


def test_a_killed_render_goes_on_at_the_first_missing_shard(tmp_path):
    with pytest.raises(UserError):
        shards(tmp_path, FakeRenderer(fail_after=6))
    names = ["settings.json", "shard-00000.jsonl", "shard-00000.zip"]
    assert [path.name for path in sorted(tmp_path.iterdir())] == names
    renderer = FakeRenderer()
    assert shards(tmp_path, renderer) == 6
    assert renderer.count == 6
    assert shards(tmp_path, renderer) == 0


def test_a_shard_gives_back_the_very_bytes_of_its_frames_and_its_files_are_pictures(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    records = [scene_record(scene_at(index), index=index, seed=0) for index in (4, 5)]
    write_shard(tmp_path, 2, frames, records)
    (loaded,) = load_shards(tmp_path)
    assert np.array_equal(loaded.frames, frames)
    with zipfile.ZipFile(tmp_path / "shard-00002.zip") as archive, archive.open("000005.webp") as file:
        assert np.array_equal(np.asarray(Image.open(file)), frames[1])


def test_frames_made_otherwise_are_not_mixed(tmp_path):
    shards(tmp_path, FakeRenderer())
    with pytest.raises(UserError, match=r"seed = 3 and not 4.*task\.folder"):
        shards(tmp_path, FakeRenderer(), seed=4)
    with pytest.raises(UserError, match=r"counts = \{'1': 1.0\} and not \{'2': 1.0\}"):
        shards(tmp_path, FakeRenderer(), counts={2: 1.0})
    with pytest.raises(UserError, match="shard_size = 4 and not 5"):
        shards(tmp_path, FakeRenderer(), size=5)
    with pytest.raises(UserError, match="shard-00002"):
        shards(tmp_path, FakeRenderer(), count=12)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(UserError, match="seed = None and not 3"):
        shards(tmp_path, FakeRenderer())


def test_the_task_keeps_what_decides_its_frames(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(FAKE_WORKER)

    def task(**options):
        made = RenderClevr(
            seed=1, count=3, folder=tmp_path / "frames", renderer_python=sys.executable, workers=1, **options
        )
        made.pool.script = script
        return made

    assert task(resolution=8).run(None)["frames"] == 3
    assert next(load_shards(tmp_path / "frames")).frames.shape == (3, 8, 8, 3)
    assert task(resolution=8).run(None)["frames"] == 0
    for options in ({"resolution": 16}, {"samples": 4}, {"counts": {3: 1.0}}):
        with pytest.raises(UserError, match=next(iter(options))):
            task(**({"resolution": 8} | options)).run(None)


@pytest.mark.parametrize("sizes", [[(4, 4)] * 3, [(4, 4)] * 3 + [(4, 5)]], ids=["fewer_than_records", "two_sizes"])
def test_a_shard_of_another_layout_is_refused(tmp_path, sizes):
    shards(tmp_path, FakeRenderer(), count=4)
    with zipfile.ZipFile(tmp_path / "shard-00000.zip", "w") as archive:
        for number, size in enumerate(sizes):
            with archive.open(f"{number}.webp", "w") as file:
                Image.new("RGB", size).save(file, "WEBP")
    with pytest.raises(UserError, match=r"shard-00000\.zip.*render it again"):
        list(load_shards(tmp_path))


def test_shards_that_are_not_compressed_are_read_as_well(tmp_path):
    shards(tmp_path, FakeRenderer(), count=4)
    (written,) = load_shards(tmp_path)
    np.save(tmp_path / "shard-00000.npy", written.frames)
    (tmp_path / "shard-00000.zip").unlink()
    (found,) = load_shards(tmp_path)
    assert np.array_equal(found.frames, written.frames)
    assert found.records == written.records
    np.save(tmp_path / "shard-00000.npy", written.frames.astype(np.float32))
    with pytest.raises(UserError, match="render it again"):
        list(load_shards(tmp_path))


def test_an_empty_folder_has_no_shards(tmp_path):
    with pytest.raises(UserError, match="render the frames first"):
        list(load_shards(tmp_path))


def test_pairs_follow_from_the_seed_and_every_frame_is_clear():
    plans = [next(plan for plan in PLANS if plan.group == group) for group in ("rotate", "two_changed", "material")]
    for number, plan in enumerate(plans):
        pair, again = (draw_pair(plan, np.random.default_rng([0, number])) for _ in range(2))
        assert pair == again
        assert pair.first != pair.second
        assert all(is_clear(scene) for scene in (pair.first, pair.second, *pair.between))
        if pair.between:
            assert (pair.between[0], pair.between[-1], len(pair.between)) == (pair.first, pair.second, FRAMES)


def test_the_files_of_pairs_are_complete(tmp_path):
    plans = [PLANS[1], next(plan for plan in PLANS if plan.group == "shape")]
    assert render_pairs(folder=tmp_path, seed=0, renderer=FakeRenderer(), plans=plans) == FRAMES + 2
    rows = list(csv.DictReader((tmp_path / "manifest.csv").open()))
    assert [tuple(row) for row in rows] == [COLUMNS, COLUMNS]
    assert len(list((tmp_path / rows[0]["frames"]).glob("*.png"))) == FRAMES
    assert rows[1]["frames"] == ""
    check_row(tmp_path, rows[0])


def check_row(folder, row):
    for end in "ab":
        data = (folder / row[f"image_{end}"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row[f"sha256_{end}"]
    if row["frames"]:
        ends = sorted((folder / row["frames"]).glob("*.png"))
        assert len(ends) == FRAMES
        assert ends[0].read_bytes() == (folder / row["image_a"]).read_bytes()
        assert ends[-1].read_bytes() == (folder / row["image_b"]).read_bytes()


def test_the_shipped_pairs_are_as_their_manifest_says():
    rows = list(csv.DictReader((SHIPPED / "manifest.csv").open()))
    scenes = [json.loads(line) for line in (SHIPPED / "scenes.jsonl").read_text().splitlines()]
    assert len(rows) == len(PLANS) >= 32
    assert {row["difficulty"] for row in rows} == {"1", "2", "3", "4"}
    for row, record, plan in zip(rows, scenes, PLANS, strict=True):
        check_row(SHIPPED, row)
        assert (row["id"], row["group"]) == (record["id"], plan.group)
        assert row["prompt_a"] == caption(ClevrScene.from_dict(record["a"]))
        assert row["prompt_b"] == caption(ClevrScene.from_dict(record["b"]))
        with Image.open(SHIPPED / row["image_a"]) as image:
            assert (image.size, image.mode) == ((128, 128), "RGB")


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / DEFAULT_PYTHON).exists(), reason="no renderer: make render-env")
def test_cycles_puts_a_red_sphere_where_the_projection_says():
    camera_scene = SceneSampler(counts={1: 1.0}, large=1.0).scene(seed=4, index=0)
    item = SceneObject(shape="sphere", rgb=COLORS["red"], radius=0.7, material="rubber", position=(0.4, -0.6))
    scene = ClevrScene(objects=(item,), camera=camera_scene.camera, lights=camera_scene.lights)
    with RenderPool(renderer_python=ROOT / DEFAULT_PYTHON, workers=1) as pool:
        frame, again = (next(iter(pool.render([scene]))).astype(float) for _ in range(2))
    assert np.array_equal(frame, again)
    rows, columns = np.nonzero(frame[..., 0] > frame[..., 1] + 60)
    centre = ((columns.mean() + 0.5) / 128, (rows.mean() + 0.5) / 128)
    assert centre == pytest.approx(scene.pixels()[0], abs=0.02)
    width = (columns.max() - columns.min() + 1) / 128
    assert width / 2 == pytest.approx(scene.camera.projected_radius(item.centre, item.radius), abs=0.02)
