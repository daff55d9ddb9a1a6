"""The figures of the video analysis: the norms along the paths and kind by kind, the sweeps, the scale of a video."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from latent_geodesics.run.canvas import canvas, label, legend_below, literal
from latent_geodesics.run.statistics import interval

NORMS = {
    "figures/norms_along_the_path.png": "The geodesic gradient at every inner frame: means over the videos of a kind, "
    "shaded from the least to the largest.",
    "figures/norms_by_kind.png": "The mean along each path, a point a video.",
}
SWEEPS = {
    "figures/sweeps.png": "Means over the videos with their 95 % intervals. Zero is the video itself; the great circle "
    "is what smoothing ends in.",
}
SCALE = {
    "figures/scale.png": "Left: distance against lag, blue motions, orange controls, grey what rounding alone does. "
    "Right: the terms of the gradient along the motions when only every n-th frame is kept.",
    "figures/balance.png": "On a geodesic the two terms are equal and opposite: its point lies on the diagonal, and "
    "its cosine is 1.",
}

FAMILIES = {
    "video": ("#222222", "video"),
    "optimised": ("#0072B2", "optimised"),
    "perturbed": ("#D55E00", "perturbed"),
    "smoothed": ("#009E73", "smoothed"),
    "great_circle": ("#8C8C8C", "great circle"),
}
MOTION, CONTROL = "#0072B2", "#D55E00"
NOISE: dict[str, Any] = {"color": "#999999", "alpha": 0.3, "linewidth": 0}
COLUMNS = 5


def draw_norms(file: Path, table: pd.DataFrame, frames: pd.DataFrame, shown: Sequence[str]) -> None:
    """The norm at every inner frame along the four paths: a panel a kind, the mean over its videos and their range.

    Args:
        file: Where to.
        table: The rows of `results.csv`, with their floors.
        frames: The rows of `norms.csv`.
        shown: The methods to draw, in this order.
    """
    kinds = list(dict.fromkeys(frames["kind"]))
    columns = min(COLUMNS, len(kinds))
    lines = -(-len(kinds) // columns)
    top = 1.15 * float(frames[frames["method"].isin(shown)].groupby(["method", "kind", "frame"])["norm"].mean().max())
    size = (2.9 * columns, 2.35 * lines + 0.8) if columns > 2 else (6.4 * columns**0.5, 3.9)
    with canvas(file, size=size) as figure:
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, kind in zip(panels, kinds, strict=False):
            part = frames[frames["kind"] == kind]
            for method in shown:
                _band(axes, part[part["method"] == method], method)
            noise = table[(table["kind"] == kind) & (table["method"] == "video")]["noise"].mean()
            axes.axhspan(0, float(noise), **NOISE, label="noise floor of the video")
            control = bool(part["control"].iloc[0])
            axes.set_title(
                literal(kind.replace("_", " ")) + (" (control)" if control else ""), color=CONTROL if control else "k"
            )
        for axes in panels[len(kinds) :]:
            axes.set_axis_off()
        panels[0].set_ylim(0, top)
        legend_below(figure, panels[0])
        for axes in panels[max(len(kinds) - columns, 0) : len(kinds)]:
            axes.set_xlabel("frame")
            axes.tick_params(labelbottom=True)
        figure.supylabel("norm of the geodesic gradient (1/[x])", fontsize=9.5)


def _band(axes: Axes, rows: pd.DataFrame, method: str) -> None:
    by_frame = rows.groupby("frame")["norm"]
    mean, low, high = by_frame.mean(), by_frame.min(), by_frame.max()
    color, name = _look(method)
    axes.plot(mean.index, mean, color=color, label=name, linewidth=1.6)
    axes.fill_between(mean.index, low, high, color=color, alpha=0.08, linewidth=0)


def _look(method: str) -> tuple[str, str]:
    family = next(name for name in FAMILIES if method.startswith(name))
    color, words = FAMILIES[family]
    parameter = method.removeprefix(family).lstrip("_")
    unit = "step" if family == "perturbed" else "frame"
    plural = "" if parameter == "1" else "s"
    return color, f"{words} ({parameter} {unit}{plural})" if parameter else words


def draw_kinds(file: Path, table: pd.DataFrame, shown: Sequence[str]) -> None:
    """The mean norm along each path, a point a video, kind by kind, with the noise floor of each kind."""
    kinds = list(dict.fromkeys(table["kind"]))
    controls = table.groupby("kind")["control"].max()
    size = (0.95 * len(kinds) + 4.5, 4.2)
    with canvas(file, size=size) as figure:
        axes = figure.subplots()
        for column, kind in enumerate(kinds):
            part = table[table["kind"] == kind]
            noise = float(part[part["method"] == "video"]["noise"].mean())
            axes.fill_between(
                [column - 0.42, column + 0.42], 0, noise, **NOISE, label="noise floor" if not column else None
            )
            for place, method in enumerate(shown):
                values = part[part["method"] == method]["norm"].to_numpy(dtype=float)
                color, name = _look(method)
                x = column + 0.62 * ((place + 0.5) / len(shown) - 0.5) + np.linspace(-0.04, 0.04, max(len(values), 1))
                axes.scatter(x[: len(values)], values, s=20, color=color, alpha=0.85, label=None if column else name)
        names = [literal(kind).replace("_", "\n", 1) for kind in kinds]
        axes.set_xticks(range(len(kinds)), names, fontsize=8)
        for tick, kind in zip(axes.get_xticklabels(), kinds, strict=True):
            tick.set_color(CONTROL if controls[kind] else "k")
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
        orange = " (controls in orange)" if controls.any() else ""
        label(axes, f"mean norm along each path{orange}", "", "norm of the geodesic gradient (1/[x])")
        legend_below(figure, axes)


def draw_sweeps(file: Path, table: pd.DataFrame, alphas: pd.DataFrame, *, alpha: float) -> None:
    """Norm and turn against the amplitude of the perturbation and the width of the kernel; norm against alpha."""
    with canvas(file, size=(13.5, 6.4)) as figure:
        panels = figure.subplots(2, 3)
        for line, (column, words) in enumerate(
            {"norm": "norm (1/[x])", "turn": "norm x step (radians a frame)"}.items()
        ):
            for place, family in enumerate(("perturbed", "smoothed")):
                axes = panels[line, place]
                _sweep(axes, table, family, column)
                unit = "amplitude, in steps of the video" if family == "perturbed" else "width of the kernel, in frames"
                label(axes, f"{family}: {column}", unit, words)
        panels[0, 0].legend(fontsize=8)
        _against_alpha(panels[0, 2], alphas, alpha)
        _cosines(panels[1, 2], table)


def _sweep(axes: Axes, table: pd.DataFrame, family: str, column: str) -> None:
    """Means with their intervals over the videos; the video itself stands at zero, the great circle at the far end."""
    parameters = sorted(table[table["family"] == family]["parameter"].unique())
    for control, color, words in ((0, MOTION, "motions"), (1, CONTROL, "controls")):
        part = table[table["control"] == control]
        if part.empty:
            continue
        rows = [part[part["method"] == "video"]]
        rows += [part[(part["family"] == family) & (part["parameter"] == parameter)] for parameter in parameters]
        places = [0.0, *parameters]
        if family == "smoothed":
            rows.append(part[part["method"] == "great_circle"])
            places = list(range(len(rows)))
        intervals = [interval(row[column].to_numpy(dtype=float)) for row in rows]
        axes.plot(places, [found.mean for found in intervals], marker="o", markersize=4, color=color, label=words)
        low, high = [found.low for found in intervals], [found.high for found in intervals]
        axes.fill_between(places, low, high, color=color, alpha=0.18, linewidth=0)
    if family == "smoothed":
        words_at = ["video", *(f"{parameter:g}" for parameter in parameters), "great circle"]
        axes.set_xticks(range(len(words_at)), words_at)
    axes.set_ylim(bottom=0)


def _against_alpha(axes: Axes, alphas: pd.DataFrame, alpha: float) -> None:
    for method, color in (("video", "#222222"), ("great_circle", "#8C8C8C")):
        for control, style in ((0, "-"), (1, "--")):
            part = alphas[(alphas["method"] == method) & (alphas["control"] == control)]
            if len(part):
                mean = part.groupby("alpha")["norm"].mean()
                words = f"{method.replace('_', ' ')}, {'controls' if control else 'motions'}"
                axes.plot(mean.index, mean, style, color=color, label=words)
    axes.axvline(alpha, color="#555555", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    label(axes, "against the power of the density", "alpha (dotted: that of this run)", "norm (1/[x])")
    axes.legend(fontsize=8)


def _cosines(axes: Axes, table: pd.DataFrame) -> None:
    rows = table[table["method"] == "video"]
    kinds = list(dict.fromkeys(rows["kind"]))
    for column, kind in enumerate(kinds):
        part = rows[rows["kind"] == kind]
        color = CONTROL if part["control"].max() else MOTION
        axes.scatter(part["cosine"], [column] * len(part), s=18, color=color, alpha=0.85)
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.axvline(1, color="#009E73", linewidth=1.2)
    axes.set_yticks(range(len(kinds)), [literal(kind.replace("_", " ")) for kind in kinds], fontsize=7.5)
    axes.invert_yaxis()
    axes.set_xlim(-1.05, 1.05)
    axes.set_xticks([-1.0, -0.5, 0.0, 0.5, 1.0])
    label(axes, "does the video bend as the score asks?", "cosine (a geodesic of any alpha: 1)", "")


def draw_balance(file: Path, table: pd.DataFrame) -> None:
    """The two terms that cancel on a geodesic, of every path: a point a video."""
    with canvas(file, size=(6.2, 5.2)) as figure:
        axes = figure.subplots()
        for family, (color, words) in FAMILIES.items():
            part = table[table["family"] == family]
            for control, marker in ((0, "o"), (1, "x")):
                rows = part[part["control"] == control]
                name = words if not control else None
                axes.scatter(
                    rows["score_term"], rows["curvature_term"], s=16, c=color, marker=marker, label=name, alpha=0.7
                )
        top = float(max(table["score_term"].max(), table["curvature_term"].max())) * 1.1
        axes.plot([0, top], [0, top], color="#333333", linewidth=0.8)
        axes.set_xlim(0, 1.35 * float(table["score_term"].max()))
        axes.set_ylim(0, top)
        label(axes, "the terms that a geodesic balances", "alpha |score across the path|", "|curvature|")
        axes.legend(fontsize=8, title="crosses: controls", title_fontsize=8)


def draw_scale(file: Path, scales: pd.DataFrame) -> None:
    """How far frames are apart that lie some frames apart, and the terms of the gradient on sparser frames."""
    with canvas(file, size=(11, 4.1)) as figure:
        apart, terms = figure.subplots(1, 2)
        lags = scales[scales["lag"] > 0]
        kinds = list(dict.fromkeys(lags["kind"]))
        for kind in kinds:
            part = lags[lags["kind"] == kind]
            mean = part.groupby("lag")["distance"].mean()
            control = bool(part["control"].iloc[0])
            look = {"color": CONTROL if control else MOTION, "alpha": 0.75, "linestyle": "--" if control else "-"}
            apart.plot(mean.index, mean, marker=".", **look)
            words = literal(kind.replace("_", " "))
            apart.annotate(words, (mean.index[0], mean.iloc[0]), fontsize=6.5, ha="right", va="center",
                           xytext=(-4, 0), textcoords="offset points")  # fmt: skip
        last = lags[lags["control"] == 0].groupby("lag")["distance"].mean()
        if len(last):
            smooth = last.iloc[-1] * np.asarray(last.index, dtype=float) / last.index[-1]
            apart.plot(last.index, smooth, color="#333333", linewidth=0.9, linestyle=":", label="straight and even")
        rounding = scales[(scales["lag"] == 0)]["distance"].mean()
        if rounding > 0:
            apart.axhline(rounding, color="#999999", linewidth=1.2, label="what rounding of pixels alone does")
        apart.set_xscale("log", base=2)
        apart.set_yscale("log")
        apart.set_xlim(left=0.45)
        label(apart, "distance of frames so far apart", "lag in frames", "distance in the latent space ([x])")
        apart.legend(fontsize=8)
        strides = scales[scales["stride"].notna() & (scales["control"] == 0)].groupby("stride")
        for column, color, words in (
            ("norm", "#222222", "norm"),
            ("curvature_term", "#D55E00", "curvature term"),
            ("score_term", "#0072B2", "score term"),
        ):
            mean = strides[column].mean()
            terms.plot(mean.index, mean, marker="o", markersize=4, color=color, label=words)
        terms.set_ylim(bottom=0)
        label(terms, "the motions on every n-th frame alone", "n", "mean along the path (1/[x])")
        terms.legend(fontsize=8)
