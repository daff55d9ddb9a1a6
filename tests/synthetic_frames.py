"""Shards of flat discs on grey, drawn from real scene records: what a training needs, without a renderer."""

import numpy as np

from recipes.clevr.rendering.dataset import scene_record, write_shard
from recipes.clevr.rendering.sampling import SceneSampler

SIDE = 32


def write_discs(folder, *, seed, count):
    sampler = SceneSampler()
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    frames, records = [], []
    for index in range(count):
        scene = sampler.scene(seed=seed, index=index)
        frame = np.full((SIDE, SIDE, 3), 0.5)
        for item, (x, y) in zip(scene.objects, scene.pixels(), strict=True):
            radius = scene.camera.projected_radius(item.centre, item.radius)
            frame[(columns - x) ** 2 + (rows - y) ** 2 < radius**2] = item.rgb
        frames.append((frame * 255).astype(np.uint8))
        records.append(scene_record(scene, index=index, seed=seed))
    write_shard(folder, 0, frames, records)
    return folder
