"""What a batch of videos gives: a row for each video and path, for each frame of each, and what is shown of them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from latent_geodesics.experiments.video_analysis.analysis import BatchMeasures, PathMeasures
from latent_geodesics.run.each import Rows
from latent_geodesics.run.files import file_stem, one_line
from latent_geodesics.run.sequences import save_loop, tile
from latent_geodesics.run.statistics import interval

PER_FRAME = ("norm", "score_term", "curvature_term", "cosine", "step")
TILE, GAP, HEADING = 160, 6, 22
FRAME_MS = 140


def path_rows(measures: BatchMeasures, *, encoding_seconds: float) -> Iterator[dict[str, Any]]:
    """A row of `results.csv` for each video and path.

    Norms and terms are means over the inner frames, in 1/[x]; `norm_low` and `norm_high` bound the mean's 95 %
    interval over the frames, where there are two; `turn` is the norm times the step, the angle in radians by which a
    path turns at a frame more than a geodesic would; `detour` is the length over that of the great circle; `seconds`
    of a video's own path are those of its encoding, of any other an equal share of the analysis; `remark` says what a
    person would not expect in the frames that were read, where there is such a thing.
    """
    others = max(len(measures.paths) - 1, 1)
    for index, video in _videos(measures):
        remark = measures.encoded.batch.remarks[index]
        straight = float(measures.path("great_circle").length[index])
        for path in measures.paths:
            seconds = encoding_seconds if path.family == "video" else measures.seconds / others
            numbers = _numbers(path, index, seconds=seconds, straight=straight)
            yield video | {"method": path.name} | numbers | ({"remark": remark} if remark else {})


def _numbers(path: PathMeasures, index: int, *, seconds: float, straight: float) -> dict[str, Any]:
    along = {name: values[index] for name, values in path.along.items()}
    norms = along["norm"].double().cpu().numpy()
    mean = interval(norms)
    return {
        "status": path.statuses[index],
        "seconds": seconds,
        "evaluations": path.evaluations[index],
        "family": path.family,
        "parameter": path.parameter,
        "frames": path.points.shape[1],
        "norm": mean.mean,
        "norm_low": mean.low,
        "norm_high": mean.high,
        "norm_max": float(norms.max()),
        "floor": float(along["floor"].mean()),
        "rounding_floor": float(path.rounding_floor[index]),
        "score_term": float(along["score_term"].mean()),
        "curvature_term": float(along["curvature_term"].mean()),
        "cosine": float(along["cosine"].mean()),
        "turn": float((along["norm"] * along["step"]).mean()),
        "step": float(along["step"].mean()),
        "length": float(path.length[index]),
        "detour": float(path.length[index]) / straight if straight > 0 else float("nan"),
        "from_video": float(along["from_video"].mean()),
    }


def frame_rows(measures: BatchMeasures) -> Iterator[dict[str, Any]]:
    """A row of `norms.csv` for each video, path and inner frame, numbered from 1."""
    for index, video in _videos(measures):
        for path in measures.paths:
            points = zip(*(path.along[name][index].tolist() for name in PER_FRAME), strict=True)
            for frame, numbers in enumerate(points, start=1):
                yield video | {"method": path.name, "frame": frame} | dict(zip(PER_FRAME, numbers, strict=True))


def stride_rows(measures: BatchMeasures) -> Iterator[dict[str, Any]]:
    """A row of `scales.csv` for each video and stride, of the path of every stride-th frame, and for each lag.

    `distance` is that of frames so many apart; at lag 0 it is how far the rounding of pixels moves a frame.
    """
    for index, video in _videos(measures):
        for stride, terms in measures.by_stride.items():
            shown = ("norm", "curvature_term", "score_term", "step")
            yield video | {"stride": stride} | {name: float(terms[name][index]) for name in shown}
        for lag, distances in measures.distances.items():
            yield video | {"lag": lag, "distance": float(distances[index])}


def sweep_rows(measures: BatchMeasures) -> Iterator[dict[str, Any]]:
    """A row of `alphas.csv` for each video, path and power of the density."""
    for index, video in _videos(measures):
        for name, norms in measures.by_alpha.items():
            for alpha, norm in norms.items():
                yield video | {"method": name, "alpha": alpha, "norm": float(norm[index])}


def _videos(measures: BatchMeasures) -> Iterator[tuple[int, dict[str, Any]]]:
    """The place of each video in its batch, and what is said of it in every row."""
    for index, video in enumerate(measures.encoded.batch.videos):
        yield index, {"pair": video.id, "kind": video.kind, "control": int(video.control)}


def show_paths(rows: Rows, measures: BatchMeasures, videos: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
    """Writes every second frame of some videos and of some of their paths as strips and side by side as animations.

    Returns:
        File -> caption.
    """
    encoded, batch = measures.encoded, measures.encoded.batch
    places = [index for index, video in enumerate(batch.videos) if video.id in videos]
    if not places:
        return {}
    count = encoded.points.shape[1]
    frames = sorted({round(step) for step in torch.linspace(0, count - 1, -(-count // 2)).tolist()} | {0, count - 1})
    decoded = {
        name: encoded.decode(measures.path(name).points[places][:, frames], frames, videos=places)
        for name in paths
        if name != "video"
    }
    captions = {}
    for row, place in enumerate(places):
        name = batch.videos[place].id
        shown = {"video": batch.frames[place][frames]} | {path: images[row] for path, images in decoded.items()}
        captions[rows.strip(shown, name)] = f"{name}: every second frame."
        animation = rows.file(f"images/{file_stem(name)}.webp", partial(_side_by_side, paths=shown))
        captions[animation] = f"{name}, animated."
    return captions


def _side_by_side(file: Path, paths: Mapping[str, Float[Tensor, "k 3 h w"]]) -> None:
    """Writes sequences of equally many frames as one looping WebP, a column a sequence, its name above it."""
    sheets = [_sheet(list(paths), frames) for frames in zip(*paths.values(), strict=True)]
    save_loop(file, sheets, frame_ms=FRAME_MS)


def _sheet(names: list[str], frames: tuple[Float[Tensor, "3 h w"], ...]) -> Image.Image:
    tiles = [tile(frame, TILE) for frame in frames]
    sheet = Image.new("RGB", (len(names) * (TILE + GAP) - GAP, tiles[0].height + HEADING), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for column, (name, one) in enumerate(zip(names, tiles, strict=True)):
        left, words = column * (TILE + GAP), one_line(name.replace("_", " "), most=24)
        pen.text((left + 2, HEADING // 2), words, fill="#222222", font=font, anchor="lm")
        sheet.paste(one, (left + (TILE - one.width) // 2, HEADING))
    return sheet
