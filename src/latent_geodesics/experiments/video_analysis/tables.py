"""What a run found, as tables: a row for each video and path, and a row for each frame of each."""

from typing import Any

import pandas as pd

from latent_geodesics.experiments.video_analysis.analysis import BatchMeasures, PathMeasures
from latent_geodesics.run.statistics import interval

__all__ = ["frame_rows", "path_rows", "stride_rows", "sweep_rows", "with_floors"]


def path_rows(measures: BatchMeasures, *, encoding_seconds: float) -> list[dict[str, Any]]:
    """A row of `results.csv` for each video and path.

    Norms and terms are means over the inner frames, in 1/[x]; `norm_low` and `norm_high` bound the mean's 95 %
    interval over the frames, where there are two; `turn` is the norm times the step, the angle in radians by which a
    path turns at a frame more than a geodesic would; `detour` is the length over that of the great circle; `seconds`
    of a video's own path are those of its encoding, of any other an equal share of the analysis; `remark` says what a
    person would not expect in the frames that were read, where there is such a thing.
    """
    others = max(len(measures.paths) - 1, 1)
    rows = []
    batch = measures.encoded.batch
    for index, (video, remark) in enumerate(zip(batch.videos, batch.remarks, strict=True)):
        straight = float(measures.path("great_circle").length[index])
        for path in measures.paths:
            seconds = encoding_seconds if path.family == "video" else measures.seconds / others
            row = {"pair": video.id, "kind": video.kind, "control": int(video.control), "method": path.name}
            told = {"remark": remark} if remark else {}
            rows.append(row | _numbers(path, index, seconds=seconds, straight=straight) | told)
    return rows


def _numbers(path: PathMeasures, index: int, *, seconds: float, straight: float) -> dict[str, Any]:
    norms = path.norm[index].double().cpu().numpy()
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
        "floor": float(path.floor[index].mean()),
        "rounding_floor": float(path.rounding_floor[index]),
        "score_term": float(path.score_term[index].mean()),
        "curvature_term": float(path.curvature_term[index].mean()),
        "cosine": float(path.cosine[index].mean()),
        "turn": float((path.norm[index] * path.step[index]).mean()),
        "step": float(path.step[index].mean()),
        "length": float(path.length[index]),
        "detour": float(path.length[index]) / straight if straight > 0 else float("nan"),
        "from_video": float(path.from_video[index].mean()),
    }


def frame_rows(measures: BatchMeasures) -> list[dict[str, Any]]:
    """A row of `norms.csv` for each video, path and inner frame, numbered from 1."""
    rows = []
    for index, video in enumerate(measures.encoded.batch.videos):
        for path in measures.paths:
            columns = {
                "norm": path.norm,
                "score_term": path.score_term,
                "curvature_term": path.curvature_term,
                "cosine": path.cosine,
                "step": path.step,
            }
            for frame in range(path.norm.shape[1]):
                numbers = {name: float(values[index, frame]) for name, values in columns.items()}
                row = {"pair": video.id, "kind": video.kind, "control": int(video.control), "method": path.name}
                rows.append(row | {"frame": frame + 1} | numbers)
    return rows


def stride_rows(measures: BatchMeasures) -> list[dict[str, Any]]:
    """A row of `scales.csv` for each video and stride, of the path of every stride-th frame, and for each lag.

    `distance` is that of frames so many apart; at lag 0 it is how far the rounding of pixels moves a frame.
    """
    rows = []
    for index, video in enumerate(measures.encoded.batch.videos):
        common = {"pair": video.id, "kind": video.kind, "control": int(video.control)}
        for stride, values in measures.by_stride.items():
            norm, curvature, score, step = values[index].tolist()
            terms = {"norm": norm, "curvature_term": curvature, "score_term": score, "step": step}
            rows.append(common | {"stride": stride} | terms)
        for lag, distances in measures.lags.items():
            rows.append(common | {"lag": lag, "distance": float(distances[index])})
        rows.append(common | {"lag": 0, "distance": float(measures.rounding_shift[index])})
    return rows


def sweep_rows(measures: BatchMeasures, alphas: tuple[float, ...]) -> list[dict[str, Any]]:
    """A row of `alphas.csv` for each video, path and power of the density."""
    return [
        {"pair": video.id, "kind": video.kind, "control": int(video.control), "method": name}
        | {"alpha": alpha, "norm": float(norms[index, column])}
        for index, video in enumerate(measures.encoded.batch.videos)
        for name, norms in measures.by_alpha.items()
        for column, alpha in enumerate(alphas)
    ]


def with_floors(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `noise`: the floor of every row, from the score's draws and the rounding of pixels.

    The rounding of pixels is known along the video's own path alone; paths made from it count the draws.
    """
    noise = (table["floor"] ** 2 + table["rounding_floor"].fillna(0.0) ** 2) ** 0.5
    return table.assign(noise=noise)
