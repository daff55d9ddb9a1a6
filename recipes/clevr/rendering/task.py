"""The tasks that render: a numbered set of random CLEVR scenes, and the pairs that ship."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.clevr.rendering.dataset import SHARD, render_shards
from recipes.clevr.rendering.pairs import render_pairs
from recipes.clevr.rendering.pool import DEFAULT_PYTHON, RenderPool
from recipes.clevr.rendering.sampling import SceneSampler
from recipes.clevr.rendering.videos import render_videos


class Rendering(ABC):
    """Renders scenes that follow from a seed into a folder.

    Args:
        seed: decides the scenes together with a number; each set of frames has one of its own.
        folder: where the files go; what is there under the same names is replaced.
        resolution: side of the square frames, pixels.
        samples: paths per pixel before denoising.
        workers: renderer processes, one thread each.
        renderer_python: interpreter that has `bpy`.
    """

    def __init__(
        self,
        *,
        seed: int,
        folder: str | Path,
        resolution: int = 128,
        samples: int = 8,
        workers: int = 2,
        renderer_python: str | Path = DEFAULT_PYTHON,
    ) -> None:
        self.seed, self.folder = seed, Path(folder)
        self.pool = RenderPool(renderer_python=renderer_python, workers=workers, resolution=resolution, samples=samples)

    @abstractmethod
    def render(self, pool: RenderPool) -> int:
        """Renders everything that is missing; the number of frames."""

    def run(self, run: Any) -> dict[str, float]:
        """Render what is missing; `frames` (rendered now) and `seconds` (wall time).

        Args:
            run: the run; unused, the files go to `folder`.
        """
        start = time.monotonic()
        with self.pool as pool:
            frames = self.render(pool)
        return {"frames": float(frames), "seconds": time.monotonic() - start}


class RenderClevr(Rendering):
    """Renders frames `first` to `first + count` of a seed into shards; a killed run goes on where it stopped.

    Args:
        count: number of frames, >= 1.
        first: index of the first frame, a multiple of `shard_size`.
        shard_size: frames a shard.
        counts: weight of each number of objects; by default 0.4, 0.4 and 0.2 for one, two and three.
        options: those of `Rendering`.
    """

    def __init__(
        self,
        *,
        count: int,
        first: int = 0,
        shard_size: int = SHARD,
        counts: Mapping[int, float] | None = None,
        **options: Any,
    ) -> None:
        if count < 1 or first < 0 or shard_size < 1:
            raise ValueError(f"count and shard_size must be >= 1 and first >= 0, got {count}, {shard_size}, {first}")
        super().__init__(**options)
        self.count, self.first, self.shard_size = count, first, shard_size
        self.sampler = SceneSampler(counts=dict(counts or {1: 0.4, 2: 0.4, 3: 0.2}))

    def render(self, pool: RenderPool) -> int:
        """The shards that are not there."""
        settings = {"resolution": pool.resolution, "samples": pool.samples, "counts": self.sampler.counts}
        return render_shards(
            folder=self.folder,
            scene=lambda index: self.sampler.scene(seed=self.seed, index=index),
            seed=self.seed,
            renderer=pool,
            first=self.first,
            count=self.count,
            shard_size=self.shard_size,
            settings=settings,
        )


class RenderPairs(Rendering):
    """Renders the pairs that ship, with their true frames."""

    def render(self, pool: RenderPool) -> int:
        """All pairs."""
        return render_pairs(folder=self.folder, seed=self.seed, renderer=pool)


class RenderVideos(Rendering):
    """Renders the videos that ship, and makes the controls of their frames."""

    def render(self, pool: RenderPool) -> int:
        """All videos."""
        return render_videos(folder=self.folder, seed=self.seed, renderer=pool)
