"""Worker processes that render: the parent's side of `cycles_worker`.

A worker is one process of the renderer's interpreter with one thread; a pool keeps several and gives each its next
frame as soon as it has finished one. Frames travel as uncompressed PNG files in a temporary folder.
"""

import json
import os
import queue
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from latent_geodesics.core.errors import UserError
from recipes.clevr.rendering.scene import ClevrScene

DEFAULT_PYTHON = Path(".venv-render/bin/python")
WORKER = Path(__file__).with_name("cycles_worker.py")


class Renderer(Protocol):
    """Whatever turns scenes into frames; `RenderPool` does so with Cycles."""

    def render(self, scenes: Sequence[ClevrScene]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """The frame of each scene, in the order of the scenes."""
        ...


class _Worker:
    """One process; `frame` blocks until the frame is there."""

    def __init__(self, *, python: Path, script: Path, folder: Path, number: int) -> None:
        self.file = folder / f"frame-{number}.png"
        self.log = folder / f"worker-{number}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(python), str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # an interrupt at the terminal is the parent's to handle
            )

    def frame(self, scene: ClevrScene, *, resolution: int, samples: int) -> UInt8[np.ndarray, "h w 3"]:
        request = {"scene": scene.to_dict(), "resolution": resolution, "samples": samples, "path": str(self.file)}
        answer = self._ask(json.dumps(request))
        if answer is None:
            words = self._last_words()
            remedy = "run `make render-env`" if "'bpy'" in words else "run again, with fewer workers if memory is short"
            raise UserError(f"The renderer died on scene {scene.to_json()}: {words}; {remedy}.")
        if "error" in answer:
            raise UserError(f"The renderer cannot render scene {scene.to_json()}: {answer['error']}; change it.")
        with Image.open(self.file) as image:
            return np.asarray(image.convert("RGB"))

    def _ask(self, request: str) -> dict[str, str] | None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self.process.stdout.readline()
        answer: dict[str, str] | None = json.loads(line) if line else None
        return answer

    def _last_words(self) -> str:
        code = self.process.wait()
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"exit code {code}, {lines[-1] if lines else 'no message'}"

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            return


class RenderPool:
    """Renders scenes with several single-threaded Cycles processes; a context manager.

    Args:
        renderer_python: interpreter that has `bpy`; a relative path is taken from the current directory.
        workers: number of processes, >= 1.
        resolution: side of the square frames, pixels.
        samples: paths per pixel, before denoising.
        script: the worker's script.

    Raises:
        UserError: when the interpreter does not exist, when a worker dies or cannot render a scene.
    """

    def __init__(
        self,
        *,
        renderer_python: str | Path = DEFAULT_PYTHON,
        workers: int = 2,
        resolution: int = 128,
        samples: int = 8,
        script: str | Path = WORKER,
    ) -> None:
        for name, value in {"workers": workers, "resolution": resolution, "samples": samples}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.python = Path(renderer_python)
        self.workers, self.resolution, self.samples, self.script = workers, resolution, samples, Path(script)

    def __enter__(self) -> "RenderPool":
        if not self.python.exists():
            raise UserError(
                f"The renderer's interpreter {self.python} does not exist: run `make render-env`, or set "
                "task.renderer_python to a Python that has bpy."
            )
        self._folder = tempfile.TemporaryDirectory(prefix="render-")
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all = [
            _Worker(python=self.python, script=self.script, folder=Path(self._folder.name), number=number)
            for number in range(self.workers)
        ]
        for worker in self._all:
            self._idle.put(worker)
        return self

    def __exit__(self, *raised: object) -> None:
        for worker in self._all:
            worker.close()
        self._folder.cleanup()

    def render(self, scenes: Sequence[ClevrScene]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """The frames in the order of the scenes, each as soon as it and those before it are there."""
        executor = ThreadPoolExecutor(self.workers)
        try:
            yield from executor.map(self._one, scenes)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _one(self, scene: ClevrScene) -> UInt8[np.ndarray, "h w 3"]:
        worker = self._idle.get()
        try:
            return worker.frame(scene, resolution=self.resolution, samples=self.samples)
        finally:
            self._idle.put(worker)
