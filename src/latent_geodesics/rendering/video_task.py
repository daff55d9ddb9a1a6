"""The task that renders the videos that ship."""

import time
from pathlib import Path
from typing import Any

from latent_geodesics.rendering.pool import DEFAULT_PYTHON, RenderPool
from latent_geodesics.rendering.video_files import render_videos

__all__ = ["RenderVideos"]


class RenderVideos:
    """Renders the videos that ship, with their manifest and scenes, and makes the controls of their frames.

    Args:
        seed: decides the scenes together with a video's number; another one than the training sets' and the pairs'.
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
        resolution: int = 64,
        samples: int = 12,
        workers: int = 2,
        renderer_python: str | Path = DEFAULT_PYTHON,
    ) -> None:
        self.seed, self.folder = seed, Path(folder)
        self.pool = RenderPool(renderer_python=renderer_python, workers=workers, resolution=resolution, samples=samples)

    def run(self, run: Any) -> dict[str, float]:
        """Render all videos; `frames` and `seconds` (wall time).

        Args:
            run: the run; unused, the files go to `folder`.
        """
        start = time.monotonic()
        with self.pool as pool:
            frames = render_videos(folder=self.folder, seed=self.seed, renderer=pool)
        return {"frames": float(frames), "seconds": time.monotonic() - start}
