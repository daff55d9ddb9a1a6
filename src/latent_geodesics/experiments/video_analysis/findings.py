"""What a video analysis comes to: its summary, and the words and tables of its page beside the verdicts."""

from collections.abc import Mapping, Sequence

import pandas as pd

from latent_geodesics.core.records import Status
from latent_geodesics.experiments.video_analysis.verdicts import MARGIN
from latent_geodesics.run.results import GENTLER, non_finite
from latent_geodesics.run.statistics import interval, separation

LEAD = (
    "If the frames of a video lie on a geodesic of the image density, the geodesic gradient is zero along its path "
    "through the latent space, as it is along the path that one optimises, and larger along paths that are perturbed "
    "or smoothed. This page holds these predictions (Yu et al. 2025, Figure 3) against every video."
)
VERDICTS = (
    "A prediction holds on a video when it does at the unfavourable end of the 95 % interval over its frames; near "
    f"zero and close mean within {MARGIN:g} times. It is called held when it holds on at least three quarters of the "
    "videos, not held when on at most a quarter. Controls show the motion of nothing: what holds on them just as often "
    "says nothing about motion.",
    "Perturbed and smoothed paths have longer and shorter steps than the video. The norm of the gradient is a "
    "curvature, per unit of length, so a path of longer steps can have a smaller norm although it turns more at every "
    "frame: the last rows count the turn, norm times step.",
)
NORMS = (
    "All paths of a video are measured by the same score with the same random numbers, the same noise perturbs every "
    "video, and every path has the video's two ends. The grey band is the noise floor: what the rounding of pixel "
    "values to 8 bits, which no eye sees, and the score's own draws where it draws, add to the norm."
)
NUMBERS = (
    "Means over the videos, with their 95 % bootstrap intervals where there are several. Score and curvature term are "
    "the two parts that cancel on a geodesic; the cosine between one and minus the other is 1 on a geodesic of any "
    "alpha. The detour is the length over that of the great circle between the ends; the last column the mean distance "
    "to the video's frames."
)
SWEEPS = "On how many videos the perturbed or smoothed path has a norm, or a turn, that is larger than the video's."
SEPARATIONS = (
    "The probability that a motion looks more like a geodesic than a control does, by each measure: 1 tells them "
    "apart, 0.5 does not, below 0.5 points the wrong way."
)
PICTURES = "The video as it is, and the other paths decoded: the first of each kind."
MEASURES = {
    "norm": "norm (1/[x])",
    "turn": "turn (rad/frame)",
    "noise": "noise floor (1/[x])",
    "score_term": "score term",
    "curvature_term": "curvature term",
    "cosine": "cosine",
    "step": "step ([x])",
    "detour": "detour",
    "from_video": "from video ([x])",
}
SUMMARISED = [name for name in MEASURES if name != "step"]
SEPARATING = {
    "norm": "norm of the geodesic gradient, 1/[x]: smaller on motions",
    "turn": "norm x step, radians a frame: smaller on motions",
    "cosine": "cosine of -curvature and score: larger on motions",
    "detour": "length over that of the great circle: smaller on motions",
}
GOOD = [status.value for status in Status if status.ok]


def summarise(table: pd.DataFrame, judged: pd.DataFrame, scales: pd.DataFrame) -> dict[str, float]:
    """Flat means and shares: `motions/...` and `controls/...`, and what tells the two apart."""
    summary = {"videos": float((judged["control"] == 0).sum()), "controls": float((judged["control"] == 1).sum())}
    for group, control in (("motions", 0), ("controls", 1)):
        held = judged[judged["control"] == control].drop(columns=["pair", "kind", "control"])
        summary |= {f"{group}/{name}_held": float(values.mean()) for name, values in held.items()}
        for method, rows in table[table["control"] == control].groupby("method", sort=False):
            summary |= {f"{group}/{method}/{name}": float(rows[name].mean()) for name in SUMMARISED}
    optimised = table[table["method"] == "optimised"]
    summary["optimised_converged"] = float(optimised["status"].isin(GOOD).mean())
    summary["rounding_shift"] = float(scales[scales["lag"] == 0]["distance"].mean())
    video = table[table["method"] == "video"]
    for name in SEPARATING:
        sign = -1.0 if name == "cosine" else 1.0
        ours, others = (sign * video[video["control"] == control][name].to_numpy() for control in (0, 1))
        summary[f"separation/{name}"] = separation(ours, others)
    return {name: value for name, value in summary.items() if pd.notna(value)}


def numbers_table(table: pd.DataFrame) -> pd.DataFrame:
    """The mean of each measure along each path over the motions, and over the controls."""
    rows = []
    for control, words in ((0, ""), (1, " (controls)")):
        for method, group in table[table["control"] == control].groupby("method", sort=False):
            cells = {title: _with_interval(group[name]) for name, title in MEASURES.items()}
            rows.append({"path": f"{str(method).replace('_', ' ')}{words}"} | cells)
    return pd.DataFrame(rows)


def _with_interval(values: "pd.Series[float]") -> str:
    found = interval(values.to_numpy(dtype=float))
    if found.n < 2:
        return f"{found.mean:.3g}" if found.n else "-"
    return f"{found.mean:.3g} [{found.low:.3g}, {found.high:.3g}]"


def scale_words(scales: pd.DataFrame, summary: Mapping[str, float]) -> list[str]:
    """How far frames are apart, and how far the rounding of pixels moves one."""
    motions = scales[scales["control"] == 0]
    lags = motions[motions["lag"] > 0].groupby("lag")["distance"].mean()
    text = []
    if len(lags) > 1:
        first, last = float(lags.iloc[0]), float(lags.iloc[-1])
        text.append(
            f"Neighbouring frames of the motions are {first:.1f} apart, frames {lags.index[-1]:g} steps apart "
            f"{last:.1f}: a straight and even path over that distance would have steps of "
            f"{last / float(lags.index[-1]):.1f}. Where the distance hardly grows with the lag, the frames are too far "
            "apart to show a smooth curve at all."
        )
    if "rounding_shift" in summary:
        text.append(
            "Moving every pixel value by at most half a grey level moves a frame by "
            f"{summary['rounding_shift']:.1f} in the latent space: the encoding magnifies what cannot be seen."
        )
    return text


def separation_table(summary: Mapping[str, float]) -> pd.DataFrame:
    """What tells a motion from a control; empty where there are none of either."""
    return pd.DataFrame(
        {"measure of the video's own path": words, "motion below control": summary[f"separation/{name}"]}
        for name, words in SEPARATING.items()
        if f"separation/{name}" in summary
    )


def every_video(table: pd.DataFrame, shown: Sequence[str]) -> pd.DataFrame:
    """The mean norm along the shown paths of every video, beside its noise floor and how the solver ended."""
    wanted = table[table["method"].isin(shown)]
    norms = wanted.pivot_table(index=["pair", "kind"], columns="method", values="norm", sort=False)
    norms = norms[[name for name in shown if name in norms.columns]]
    by_video = {method: rows.set_index(["pair", "kind"]) for method, rows in wanted.groupby("method", sort=False)}
    norms["noise floor"] = by_video["video"]["noise"]
    norms["cosine"] = by_video["video"]["cosine"]
    norms["solver"] = by_video["optimised"]["status"].str.replace("_", " ")
    norms.columns = [str(column).replace("_", " ") for column in norms.columns]
    return norms.reset_index()


def remarks(table: pd.DataFrame) -> list[str]:
    """What a person would not expect in the frames of a video, a sentence each."""
    if "remark" not in table:
        return []
    return [f"Of the video {name}, {said}." for name, said in table.dropna(subset="remark").groupby("pair", sort=False)[
        "remark"].first().items()]  # fmt: skip


def refusal(table: pd.DataFrame, folder: object) -> str | None:
    """What is said when the score of some path was not finite."""
    broken = table[(table["status"] == Status.NON_FINITE_SCORE.value) | table["norm"].isna()]
    words = f"{len(broken)} of {len(table)} paths ({', '.join(broken['pair'].unique())})"
    return non_finite([words] if len(broken) else [], folder, GENTLER)
