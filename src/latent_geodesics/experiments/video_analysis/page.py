"""The report of a video analysis: the verdicts first, then what they rest on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from latent_geodesics.experiments.video_analysis.tables import with_floors
from latent_geodesics.experiments.video_analysis.verdicts import MARGIN, PER_FRAME, verdicts
from latent_geodesics.run.names import file_stem
from latent_geodesics.run.pages import Picture, Section, settings_of, write_page
from latent_geodesics.run.statistics import interval

__all__ = ["Findings", "write_findings"]

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
SEPARATIONS = {
    "norm": "norm of the geodesic gradient, 1/[x]: smaller on motions",
    "turn": "norm x step, radians a frame: smaller on motions",
    "cosine": "cosine of -curvature and score: larger on motions",
    "detour": "length over that of the great circle: smaller on motions",
}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a report tells.

    Attributes:
        table: The rows of `results.csv`.
        judged: Which rule held on which video.
        scales: The rows of `scales.csv`.
        summary: The run's summary.
        pictures: The videos that pictures show.
        shown: The four paths that stand in the figures.
    """

    table: pd.DataFrame
    judged: pd.DataFrame
    scales: pd.DataFrame
    summary: Mapping[str, float]
    pictures: Sequence[str]
    shown: Sequence[str]

    @property
    def predictions(self) -> list[str]:
        """The three predictions, the third for the paths that the figures show."""
        larger = [name for name in self.shown if name.startswith(("perturbed", "smoothed"))]
        return ["near_zero", "close_to_optimised", *larger, *(f"{name}{PER_FRAME}" for name in larger)]


def write_findings(
    folder: Path, findings: Findings, *, density: str, config: Mapping[str, Any], finished: bool
) -> None:
    """Writes `report.html`.

    Args:
        folder: The run's folder, where the pictures already are.
        findings: What to tell.
        density: The density that the geometry is made of, in words.
        config: The run's configuration.
        finished: Whether every video was looked at.
    """
    counts = findings.judged["control"].value_counts()
    lead = (
        "If the frames of a video lie on a geodesic of the image density, the geodesic gradient is zero along its "
        "path through the latent space, as it is along the path that one optimises, and larger along paths that are "
        "perturbed or smoothed. This page holds these predictions (Yu et al. 2025, Figure 3) against every video."
    )
    if not finished:
        lead += " The run was interrupted: only the videos that were finished are counted."
    facts = {
        "motions": int(counts.get(0, 0)),
        "controls": int(counts.get(1, 0)),
        "density": density,
    } | settings_of(config, "tau", "alpha", "seed")
    sections = [
        _verdict_section(findings),
        _norm_section(findings),
        _table_section(findings),
        _sweep_section(findings),
        _scale_section(findings),
        *_separation_section(findings),
        _every_section(findings),
        *_picture_section(findings),
    ]
    write_page(folder, title="Is a video a geodesic?", lead=lead, facts=facts, sections=sections)


def _verdict_section(findings: Findings) -> Section:
    motions = verdicts(findings.judged, findings.predictions, control=False)
    controls = verdicts(findings.judged, findings.predictions, control=True)
    rows = [
        {
            "prediction": ours.sentence,
            "held on motions": f"{ours.held} of {ours.videos}",
            "95 % interval": f"{ours.share.low:.0%} to {ours.share.high:.0%}" if ours.videos > 1 else "-",
            "on controls": f"{others.held} of {others.videos}",
            "verdict": ours.word,
        }
        for ours, others in zip(motions, controls, strict=True)
    ]
    text = [
        "A prediction holds on a video when it does at the unfavourable end of the 95 % interval over its frames; "
        f"near zero and close mean within {MARGIN:g} times. It is called held when it holds on at least three "
        "quarters of the videos, not held when on at most a quarter. Controls show the motion of nothing: what "
        "holds on them just as often says nothing about motion.",
        "Perturbed and smoothed paths have longer and shorter steps than the video. The norm of the gradient is a "
        "curvature, per unit of length, so a path of longer steps can have a smaller norm although it turns more at "
        "every frame: the last rows count the turn, norm times step.",
    ]
    return Section(title="Verdicts", text=text, table=pd.DataFrame(rows))


def _norm_section(findings: Findings) -> Section:
    return Section(
        title="The norm along the paths",
        text=[
            "All paths of a video are measured by the same score with the same random numbers, the same noise "
            "perturbs every video, and every path has the video's two ends. The grey band is the noise floor: what "
            "the rounding of pixel values to 8 bits, which no eye sees, and the score's own draws where it draws, "
            "add to the norm.",
        ],
        pictures=[
            Picture(
                file="figures/norms_along_the_path.png",
                caption="The geodesic gradient at every inner frame: means over the videos of a kind, shaded from the "
                "least to the largest.",
            ),
            Picture(file="figures/norms_by_kind.png", caption="The mean along each path, a point a video."),
        ],
    )


def _table_section(findings: Findings) -> Section:
    table = with_floors(findings.table)
    rows = []
    for control, words in ((0, ""), (1, " (controls)")):
        part = table[table["control"] == control]
        for method, group in part.groupby("method", sort=False):
            cells = {name: _with_interval(group[column]) for column, name in MEASURES.items()}
            rows.append({"path": f"{str(method).replace('_', ' ')}{words}"} | cells)
    text = [
        "Means over the videos with their 95 % bootstrap intervals. Score and curvature term are the two parts that "
        "cancel on a geodesic; the cosine between one and minus the other is 1 on a geodesic of any alpha. The "
        "detour is the length over that of the great circle between the ends; the last column the mean distance to "
        "the video's frames."
    ]
    return Section(title="Numbers", text=text, table=pd.DataFrame(rows))


def _with_interval(values: "pd.Series[float]") -> str:
    found = interval(values.to_numpy(dtype=float))
    if found.n < 2:
        return f"{found.mean:.3g}" if found.n else "-"
    return f"{found.mean:.3g} [{found.low:.3g}, {found.high:.3g}]"


def _sweep_section(findings: Findings) -> Section:
    names = [
        column
        for column in findings.judged.columns
        if column.startswith(("perturbed", "smoothed")) and not column.endswith(PER_FRAME)
    ]
    rows = []
    for name in names:
        cells: dict[str, Any] = {"path": name.replace("_", " ")}
        for control, group in ((False, "motions"), (True, "controls")):
            norm, turn = verdicts(findings.judged, [name, f"{name}{PER_FRAME}"], control=control)
            cells[f"larger norm, {group}"] = f"{norm.held} of {norm.videos}"
            cells[f"larger turn, {group}"] = f"{turn.held} of {turn.videos}"
        rows.append(cells)
    return Section(
        title="Amplitudes, kernels and alpha",
        text=[
            "On how many videos the perturbed or smoothed path has a norm, or a turn, that is larger than the video's."
        ],
        pictures=[
            Picture(
                file="figures/sweeps.png",
                caption="Means over the videos with their 95 % intervals. Zero is the video itself; the great circle "
                "is what smoothing ends in.",
            )
        ],
        table=pd.DataFrame(rows),
    )


def _scale_section(findings: Findings) -> Section:
    summary = findings.summary
    motions = findings.scales[findings.scales["control"] == 0]
    lags = motions[motions["lag"] > 0].groupby("lag")["distance"].mean()
    text = []
    if len(lags) > 1:
        first, last = float(lags.iloc[0]), float(lags.iloc[-1])
        even = last / float(lags.index[-1])
        text.append(
            f"Neighbouring frames of the motions are {first:.1f} apart, frames {lags.index[-1]:g} steps apart "
            f"{last:.1f}: a straight and even path over that distance would have steps of {even:.1f}. Where the "
            "distance hardly grows with the lag, the frames are too far apart to show a smooth curve at all."
        )
    if "rounding_shift" in summary:
        text.append(
            "Moving every pixel value by at most half a grey level moves a frame by "
            f"{summary['rounding_shift']:.1f} in the latent space: the encoding magnifies what cannot be seen."
        )
    return Section(
        title="At which scale is this measured?",
        text=text,
        pictures=[
            Picture(
                file="figures/scale.png",
                caption="Left: distance against lag, blue motions, orange controls, grey what rounding alone does. "
                "Right: the terms of the gradient along the motions when only every n-th frame is kept.",
            ),
            Picture(
                file="figures/balance.png",
                caption="On a geodesic the two terms are equal and opposite: its point lies on the diagonal, and its "
                "cosine is 1.",
            ),
        ],
    )


def _separation_section(findings: Findings) -> list[Section]:
    rows = [
        {"measure of the video's own path": words, "motion below control": findings.summary[f"separation/{column}"]}
        for column, words in SEPARATIONS.items()
        if f"separation/{column}" in findings.summary
    ]
    if not rows:
        return []
    text = [
        "The probability that a motion looks more like a geodesic than a control does, by each measure: 1 tells "
        "them apart, 0.5 does not, below 0.5 points the wrong way."
    ]
    return [Section(title="What tells a motion from a control?", text=text, table=pd.DataFrame(rows))]


def _picture_section(findings: Findings) -> list[Section]:
    if not findings.pictures:
        return []
    pictures = [
        picture
        for name in findings.pictures
        for picture in (
            Picture(file=f"images/{file_stem(name)}.png", caption=f"{name}: every second frame."),
            Picture(file=f"images/{file_stem(name)}.webp", caption=f"{name}, animated."),
        )
    ]
    text = ["The video as it is, and the other paths decoded: the first of each kind."]
    return [Section(title="What the paths look like", text=text, pictures=pictures)]


def _every_section(findings: Findings) -> Section:
    table = with_floors(findings.table)
    wanted = table[table["method"].isin(findings.shown)]
    norms = wanted.pivot_table(index=["pair", "kind"], columns="method", values="norm", sort=False)
    norms = norms[[name for name in findings.shown if name in norms.columns]]
    video = table[table["method"] == "video"].set_index(["pair", "kind"])
    norms["noise floor"] = video["noise"]
    norms["cosine"] = video["cosine"]
    norms.columns = [str(column).replace("_", " ") for column in norms.columns]
    status = table[table["method"] == "optimised"].set_index(["pair", "kind"])["status"]
    norms["solver"] = status.str.replace("_", " ")
    text = ["Mean norm along each path, 1/[x]."]
    if "remark" in video.columns:
        told = video["remark"].dropna().groupby(level="pair", sort=False).first()
        text += [f"Of the video {name}, {remark}." for name, remark in told.items()]
    return Section(title="Every video", text=text, table=norms.reset_index())
