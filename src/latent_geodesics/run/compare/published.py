"""Figures that others published, each with its source, to stand beside ours; what is not known is not here.

They are not comparable by themselves: sources differ in frames, networks and scales. Where a source prints parts of a
data set and the whole, a mean over pairs must be the mean of the parts, weighted by their pairs; one that is not is
flagged.
"""

from importlib import resources
from typing import Any

import pandas as pd

WHOLE = "overall"
# FID is not a mean over pairs, so it need not be the mean of its parts.
MEANS = ("ppl", "pdv")
ROUNDING = 0.02
FLAG = "does not add up: its parts give {:.2f}"


def published_figures(dataset: str) -> pd.DataFrame:
    """The figures known for a data set: method, metric, split, value, flag, source; empty if none is known.

    `flag` says which figure its own parts contradict.
    """
    with resources.files("latent_geodesics.run.compare").joinpath("published.csv").open(encoding="utf-8") as lines:
        figures = pd.read_csv(lines)
    figures = figures[figures["dataset"] == dataset].reset_index(drop=True)
    figures["flag"] = [_flag(row, figures) for _, row in figures.iterrows()]
    return figures[["method", "metric", "split", "pairs", "value", "flag", "source"]]


def _flag(row: "pd.Series[Any]", figures: pd.DataFrame) -> str:
    if row["split"] != WHOLE or row["metric"] not in MEANS:
        return ""
    same = (figures["method"] == row["method"]) & (figures["metric"] == row["metric"])
    parts = figures[same & (figures["source"] == row["source"]) & (figures["split"] != WHOLE)]
    if parts["pairs"].sum() != row["pairs"]:
        return ""
    mean = float((parts["value"] * parts["pairs"]).sum() / parts["pairs"].sum())
    return "" if abs(mean / float(row["value"]) - 1) <= ROUNDING else FLAG.format(mean)
