"""The videos that ship: which they are, and how they follow from a seed.

A video has `FRAMES` frames at u = k / (FRAMES - 1). Most show one exact motion of one thing (ten kinds); in
`crossing` two objects pass each other and the nearer hides the farther, in `appear` an object grows from nothing, in
`enter` it slides in from outside the frame. The controls are made from the frames of those and are no motion of
anything: `shuffled` (the inner frames in another order), `cut` (the first half of one video and the second of
another), `crossfade` (the mean of the first and the last frame, pixel by pixel, with weights 1 - u and u).

`manifest.csv` has a row a video: `id`, `kind`, `control` (1 for a video that shows no motion of anything, else 0),
`file` (relative to the manifest), `prompt_a`, `prompt_b` (what its first and its last frame show), `frames` (their
number), `sources` (for a control the ids of the videos that it was made from), `seed` and `sha256` (of the file).
`scenes.jsonl` has `{"id", "a", "b"}` a line for each rendered video, its first and last scene as `ClevrScene.from_dict`
reads them.

The files are MP4 with lossless H.264 in RGB, so that a frame read back is the frame rendered, bit by bit.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from latent_geodesics.run.files import replacing
from recipes.clevr.rendering.dataset import write_ends, write_manifest
from recipes.clevr.rendering.motion import floor_directions, scenes_between, translated
from recipes.clevr.rendering.pairs import FRAMES, PLANS, PairPlan, draw_pair
from recipes.clevr.rendering.pool import Renderer
from recipes.clevr.rendering.sampling import MIN_DISTANCE, SceneSampler, is_clear
from recipes.clevr.rendering.scene import SIZES, ClevrScene, caption

ATTEMPTS = 20_000
SPECK = 0.005  # radius of an object that is not there yet, world units: a third of a pixel wide
CLOSEST = 0.75  # of the sum of their radii in the image: how near two objects come that are to hide one another
SAMPLER = SceneSampler(counts={1: 0.5, 2: 0.5}, large=0.8)

Frames = UInt8[np.ndarray, "n h w 3"]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The scenes of one video, and what its first and its last frame show, in words."""

    scenes: tuple[ClevrScene, ...]
    prompt_a: str
    prompt_b: str


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """A video to be drawn: its kind, and how its scenes follow from a generator."""

    kind: str
    draw: Callable[[np.random.Generator], Clip]


@dataclass(frozen=True, kw_only=True)
class Control:
    """A video made of the frames of others.

    Args:
        kind: what it is.
        sources: numbers of the videos whose frames it takes, in the order in which `make` gets them.
        make: its frames from theirs and a generator.
    """

    kind: str
    sources: tuple[int, ...]
    make: Callable[[Sequence[Frames], np.random.Generator], Frames]


def shuffled(sources: Sequence[Frames], generator: np.random.Generator) -> Frames:
    """Both ends in their places, the frames between in an order in which no two neighbours stay neighbours."""
    (frames,) = sources
    while True:
        order = np.array([0, *(1 + generator.permutation(len(frames) - 2)), len(frames) - 1])
        if (np.abs(np.diff(order)) > 1).all():
            shuffle: Frames = frames[order]
            return shuffle


def cut(sources: Sequence[Frames], generator: np.random.Generator) -> Frames:
    """The first half of one video, then the second half of another."""
    first, second = sources
    half = (len(first) + 1) // 2
    return np.concatenate([first[:half], second[half:]])


def crossfade(sources: Sequence[Frames], generator: np.random.Generator) -> Frames:
    """The first frame fades into the last: (1 - u) a + u b in each pixel, rounded."""
    (frames,) = sources
    u = np.linspace(0.0, 1.0, len(frames))[:, None, None, None]
    fade: Frames = np.rint((1.0 - u) * frames[0] + u * frames[-1]).astype(np.uint8)
    return fade


def _clip(start: ClevrScene, end: ClevrScene, *, shown: ClevrScene | None = None) -> Clip:
    """The clip of a motion; `shown` is what its first frame shows where that is not its first scene."""
    scenes = tuple(scenes_between(start, end, FRAMES))
    return Clip(scenes=scenes, prompt_a=caption(shown or start), prompt_b=caption(end))


def _drawn(attempt: Callable[[np.random.Generator], Clip | None], generator: np.random.Generator) -> Clip:
    """The first attempt that succeeds."""
    for _ in range(ATTEMPTS):
        clip = attempt(generator)
        if clip is not None:
            return clip
    raise ValueError(f"no clear clip in {ATTEMPTS} attempts")


def _as_pair(plan: PairPlan, generator: np.random.Generator) -> Clip:
    """A motion of the kinds that the shipped pairs know."""
    pair = draw_pair(plan, generator)
    return Clip(scenes=pair.between, prompt_a=caption(pair.first), prompt_b=caption(pair.second))


def _crossing(generator: np.random.Generator) -> Clip | None:
    """Two large objects pass each other side by side, each by as much, the nearer in front of the farther."""
    scene = SceneSampler(large=1.0).draw(generator, count=2)
    right, away = (np.array(direction) for direction in floor_directions(scene.camera))
    reach, depth, shift = generator.uniform(0.9, 1.15), generator.uniform(1.7, 2.0), generator.uniform(-0.4, 0.4)
    near = -reach * right + (shift - depth / 2) * away
    far = reach * right + (shift + depth / 2) * away
    start = scene.with_object(0, position=_pair(near)).with_object(1, position=_pair(far))
    way = 2 * reach * right
    end = translated(translated(start, _pair(way)), _pair(-way), index=1)
    clip = _clip(start, end)
    one, other = (item.color for item in start.objects)
    passes = min(_nearness(scene) for scene in clip.scenes) < CLOSEST
    return clip if passes and one != other and is_clear(start) and is_clear(end) else None


def _appear(generator: np.random.Generator) -> Clip | None:
    """The first of two objects grows from nothing to a large one on its place."""
    end = SAMPLER.draw(generator, count=2).with_object(0, radius=SIZES["large"])
    if not is_clear(end):
        return None
    return _clip(end.with_object(0, radius=SPECK), end, shown=replace(end, objects=end.objects[1:]))


def _enter(generator: np.random.Generator) -> Clip | None:
    """The first of two objects slides in from beyond the nearer side of the frame, past the other."""
    end = SAMPLER.draw(generator, count=2)
    item = end.objects[0]
    side = math.copysign(1.0, end.camera.project(item.centre)[0] - 0.5)
    right = np.array(floor_directions(end.camera)[0])
    for distance in np.arange(0.5, 6.0, 0.1):
        start = end.with_object(0, position=_pair(np.array(item.position) + side * distance * right))
        outside = start.objects[0]
        x, radius = end.camera.project(outside.centre)[0], end.camera.projected_radius(outside.centre, outside.reach)
        if not -radius < x < 1.0 + radius:
            reached = translated(start, _pair(-side * distance * right))
            clip = _clip(start, reached, shown=replace(end, objects=end.objects[1:]))
            return clip if all(_apart(scene) for scene in clip.scenes) else None
    return None


def _pair(vector: np.ndarray) -> tuple[float, float]:
    return (float(vector[0]), float(vector[1]))


def _nearness(scene: ClevrScene) -> float:
    """The distance in the image of two objects' centres, as a share of the sum of their radii there."""
    first, second = scene.objects
    radii = sum(scene.camera.projected_radius(item.centre, item.radius) for item in scene.objects)
    return math.dist(scene.camera.project(first.centre), scene.camera.project(second.centre)) / radii


def _apart(scene: ClevrScene) -> bool:
    """Whether no object touches or hides another."""
    gaps = (
        math.dist(one.position, other.position) - one.radius - other.radius
        for one, other in combinations(scene.objects, 2)
    )
    return min(gaps) >= MIN_DISTANCE and _nearness(scene) >= 1.0


# number of objects and amount, in world units and degrees; a turn stays below a cube's symmetry of 90 degrees
MOVED: Mapping[str, Sequence[tuple[int, float]]] = {
    "translate_x": ((1, 1.0), (1, 1.7), (2, 1.2), (2, 1.7)),
    "translate_depth": ((1, 1.6), (1, 2.8), (2, 1.8), (2, 2.5)),
    "rotate": ((1, 30.0), (1, 60.0), (2, 45.0), (2, 60.0)),
    "resize": ((1, 0.0), (1, 0.0), (2, 0.0), (2, 0.0)),
    "recolour": ((1, 0.0), (1, 0.0), (2, 0.0), (2, 0.0)),
    "orbit": ((1, 30.0), (2, 20.0), (2, 30.0), (2, 40.0)),
    "rise": ((1, 1.5), (1, 2.0), (2, 1.0), (2, 1.5)),
}
"""The motions of the kinds that the shipped pairs know; a resize and a recolour have no amount."""
POSED = {"crossing": _crossing, "appear": _appear, "enter": _enter}
_TEMPLATES: Mapping[str, PairPlan] = {plan.group: plan for plan in reversed(PLANS)}

VIDEOS: tuple[VideoPlan, ...] = (
    *(
        VideoPlan(kind=kind, draw=partial(_as_pair, replace(_TEMPLATES[kind], objects=objects, amount=amount)))
        for kind, motions in MOVED.items()
        for objects, amount in motions
    ),
    *(VideoPlan(kind=kind, draw=partial(_drawn, attempt)) for kind, attempt in POSED.items() for _ in range(4)),
)

CONTROLS: tuple[Control, ...] = (
    *(Control(kind="shuffled", sources=(number,), make=shuffled) for number in (1, 5, 18, 23)),
    *(Control(kind="cut", sources=pair, make=cut) for pair in ((0, 22), (14, 5), (29, 10), (17, 26))),
    *(Control(kind="crossfade", sources=(number,), make=crossfade) for number in (1, 5, 23, 36)),
)


COLUMNS = ("id", "kind", "control", "file", "prompt_a", "prompt_b", "frames", "sources", "seed", "sha256")
FRAME_RATE = 12


def render_videos(
    *,
    folder: Path,
    seed: int,
    renderer: Renderer,
    videos: Sequence[VideoPlan] = VIDEOS,
    controls: Sequence[Control] = CONTROLS,
) -> int:
    """Draw the clip of each plan from (seed, its number), render it, make the controls, and write manifest and scenes.

    Returns:
        The number of frames rendered.
    """
    clips = [video.draw(np.random.default_rng([seed, number])) for number, video in enumerate(videos)]
    kinds = [video.kind for video in videos] + [control.kind for control in controls]
    names = [f"{number:02d}-{kind}" for number, kind in enumerate(kinds)]
    rows: list[dict[str, Any]] = []
    rendered: list[Frames] = []
    for number, clip in enumerate(tqdm(clips, desc="render", unit="video")):
        rendered.append(np.stack(list(renderer.render(clip.scenes))))
        row = {"id": names[number], "kind": videos[number].kind, "control": 0, "sources": "", "seed": seed}
        rows.append(row | _prompts(clip, clip) | _written(folder, names[number], rendered[-1]))
    for number, control in enumerate(controls, start=len(videos)):
        frames = control.make([rendered[source] for source in control.sources], np.random.default_rng([seed, number]))
        row = {"id": names[number], "kind": control.kind, "control": 1, "seed": seed}
        row |= {"sources": " ".join(names[source] for source in control.sources)}
        first, last = (clips[control.sources[end]] for end in (0, -1))
        rows.append(row | _prompts(first, last) | _written(folder, names[number], frames))
    write_manifest(folder, COLUMNS, rows)
    write_ends(folder, {name: (clip.scenes[0], clip.scenes[-1]) for name, clip in zip(names, clips, strict=False)})
    return sum(map(len, rendered))


def save_video(file: Path, frames: Frames) -> None:
    """Writes frames as a lossless MP4; what is there under that name is replaced."""
    with replacing(file) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=FRAME_RATE, options={"crf": "0", "preset": "veryslow"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _prompts(first: Clip, last: Clip) -> dict[str, str]:
    return {"prompt_a": first.prompt_a, "prompt_b": last.prompt_b}


def _written(folder: Path, name: str, frames: Frames) -> dict[str, Any]:
    file = folder / f"{name}.mp4"
    save_video(file, frames)
    return {"file": file.name, "frames": len(frames), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
