"""The paper's three predictions about a video that is a geodesic, each held against every video by a fixed rule.

Let N(path) be the norm of the geodesic gradient, averaged over the inner frames.

1. *near zero*: N(video) is no more than twice its noise floor.
2. *close to the optimised path*: N(video) is no more than twice the larger of N(optimised) and the noise floor.
3. *perturbed is larger*, *smoothed is larger*: N(perturbed) - N(video) > 0, and the same for N(smoothed).

A rule holds on a video when it holds at the unfavourable end of the 95 % bootstrap interval over its frames (for 3 of
the differences frame by frame). A prediction is called held when its rule holds on at least three quarters of the
videos, not held when on at most a quarter, and mixed in between.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from latent_geodesics.run.statistics import interval

MARGIN = 2.0
MOST, FEW = 0.75, 0.25
PER_FRAME = "_per_frame"
SENTENCES = {
    "near_zero": "the norm along the video is near zero (at most twice the noise floor)",
    "close_to_optimised": "it is close to that of the optimised path (at most twice it, or twice the noise floor)",
    "perturbed": "the norm along the perturbed path is larger",
    "smoothed": "the norm along the smoothed path is larger",
}


def with_floors(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `noise`: the floor of every row, from the score's draws and the rounding of pixels.

    The rounding of pixels is known along the video's own path alone; paths made from it count the draws.
    """
    noise = (table["floor"] ** 2 + table["rounding_floor"].fillna(0.0) ** 2) ** 0.5
    return table.assign(noise=noise)


def judge(table: pd.DataFrame, frames: pd.DataFrame) -> pd.DataFrame:
    """A row for each video: whether each rule held on it.

    Args:
        table: The rows of `results.csv`, `with_floors`.
        frames: Those of `norms.csv`.

    Returns:
        `pair`, `kind`, `control`, and a column of booleans for `near_zero`, `close_to_optimised` and every perturbed
        and smoothed path under its own name, for the norm and `_per_frame`.
    """
    rows = []
    for (pair, kind, control), paths in table.groupby(["pair", "kind", "control"], sort=False):
        noise, highest = _number(paths, "video", "noise"), _number(paths, "video", "norm_high")
        ceiling = MARGIN * max(noise, _number(paths, "optimised", "norm"))
        names = [str(name) for name in paths[paths["family"].isin(["perturbed", "smoothed"])]["method"]]
        of_video = frames[frames["pair"] == pair]
        turns = _larger(of_video.assign(norm=of_video["norm"] * of_video["step"]), names)
        rows.append(
            {"pair": pair, "kind": kind, "control": control}
            | {"near_zero": highest <= MARGIN * noise, "close_to_optimised": highest <= ceiling}
            | _larger(of_video, names)
            | {f"{name}{PER_FRAME}": found for name, found in turns.items()}
        )
    return pd.DataFrame(rows)


def _number(paths: pd.DataFrame, method: str, column: str) -> float:
    return float(paths[paths["method"] == method][column].iloc[0])


def _larger(frames: pd.DataFrame, names: Sequence[str]) -> dict[str, bool]:
    norms = frames.pivot_table(index="frame", columns="method", values="norm")
    return {name: interval((norms[name] - norms["video"]).to_numpy()).low > 0 for name in names}


def held(judged: pd.DataFrame, prediction: str, *, control: bool = False) -> np.ndarray:
    """One or zero for each motion, or each control: whether the rule of a prediction held on it."""
    found: np.ndarray = judged[judged["control"] == int(control)][prediction].to_numpy(dtype=float)
    return found


def verdict(found: np.ndarray) -> str:
    """`held`, `not held`, `mixed`, or `no video`, by the share of the motions on which a rule held."""
    if not len(found):
        return "no video"
    return "held" if found.mean() >= MOST else "not held" if found.mean() <= FEW else "mixed"


def verdict_table(judged: pd.DataFrame, shown: Sequence[str]) -> pd.DataFrame:
    """The verdict on each of the three predictions, the third for the shown paths, by their norms and per frame."""
    larger = [name for name in shown if name.startswith(("perturbed", "smoothed"))]
    rows = []
    for name in ("near_zero", "close_to_optimised", *larger, *(f"{name}{PER_FRAME}" for name in larger)):
        ours = held(judged, name)
        share = interval(ours)
        row = {
            "prediction": _sentence(name),
            "held on motions": _counted(ours),
            "95 % interval": f"{share.low:.0%} to {share.high:.0%}" if share.n > 1 else "-",
        }
        if judged["control"].any():
            row["on controls"] = _counted(held(judged, name, control=True))
        rows.append(row | {"verdict": verdict(ours)})
    return pd.DataFrame(rows)


def larger_table(judged: pd.DataFrame) -> pd.DataFrame:
    """On how many videos each perturbed or smoothed path has a norm, or a turn, that is larger than the video's."""
    names = [
        name for name in map(str, judged) if name.startswith(("perturbed", "smoothed")) and not name.endswith(PER_FRAME)
    ]
    groups = {"controls" if control else "motions": bool(control) for control in sorted(judged["control"].unique())}
    return pd.DataFrame(
        {"path": name.replace("_", " ")}
        | {
            f"larger {what}, {group}": _counted(held(judged, f"{name}{suffix}", control=control))
            for group, control in groups.items()
            for what, suffix in (("norm", ""), ("turn", PER_FRAME))
        }
        for name in names
    )


def _counted(found: np.ndarray) -> str:
    return f"{int(found.sum())} of {len(found)}"


def _sentence(name: str) -> str:
    if name in SENTENCES:
        return SENTENCES[name]
    family, _, parameter = name.removesuffix(PER_FRAME).partition("_")
    how = f"by {parameter} of a step" if family == "perturbed" else f"over {parameter} frames"
    unit = ", in radians a frame" if name.endswith(PER_FRAME) else ""
    return f"{SENTENCES[family]} ({how}{unit})"
