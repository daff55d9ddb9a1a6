"""The figure of a sequence: how fast each method's path goes, from key to key."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from latent_geodesics.run.canvas import canvas, label, legend_below, literal, method_color
from latent_geodesics.run.files import title_of


def draw_speeds(file: Path, speeds: Mapping[str, np.ndarray], at: np.ndarray, *, times: Sequence[float]) -> None:
    """Draws the speed of each path over its mean, along the time; the keys are vertical lines.

    Args:
        file: The picture.
        speeds: Method -> its speeds.
        at: The times that they are at.
        times: When the keys are reached.
    """
    with canvas(file, size=(9, 3.2)) as figure:
        axes = figure.subplots()
        for method, speed in speeds.items():
            color = method_color(method, list(speeds))
            axes.plot(at, speed / max(float(speed.mean()), 1e-12), color=color, label=literal(title_of(method)))
        for time in times:
            axes.axvline(time, color="#BBBBBB", linewidth=0.8, zorder=0)
        axes.set_ylim(0, 1.05 * axes.dataLim.ymax)
        label(axes, "Speed of the latent, from key to key", "time", "over its mean")
        legend_below(figure, axes)
