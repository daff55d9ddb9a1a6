"""The errors of a run as tables: a row a frame, a row a pair and method, a row a method; and what can be said of them.

Means over a pair take its inner frames alone, since the ends are given to every method. Intervals are percentiles over
resampled pairs, those of one cluster together; differences between two methods are taken pair by pair, so that what
makes a pair hard cancels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from latent_geodesics.run.files import title_of
from latent_geodesics.run.pages import interval_text
from latent_geodesics.run.statistics import Interval, resampled_means

ERRORS = {
    "truth_rmse": "pixels, root mean square",
    "truth_clevr": "perceptual distance",
    "truth_rmse_aligned": "pixels, times aligned",
    "truth_clevr_aligned": "perceptual distance, times aligned",
    "truth_place": "place in the image, pixels",
    "truth_floor": "place on the floor, world units",
    "truth_color": "colour",
    "truth_radius": "size, log ratio",
    "truth_missed": "objects missed a frame",
    "truth_extra": "objects too many a frame",
}
OF_PATHS = {
    "noise_norm": "|eps| / sqrt(d) in the middle",
    "noise_norm_ends": "|eps| / sqrt(d) at the ends",
    "closure": "closure, nats",
}
"""What tables say of a method's path: whether it stays where noisy images lie, and how well its score closes."""
TAILS = (2.5, 97.5)


def inner_means(frames: pd.DataFrame) -> pd.DataFrame:
    """A row a pair and method: the mean of every error over the inner frames that can be measured.

    Args:
        frames: A row a frame: `pair`, `group`, `method`, `u` and the errors.
    """
    inner = frames[(frames["u"] > 0) & (frames["u"] < 1)]
    columns = [name for name in ERRORS if name in frames]
    return inner.groupby(["pair", "group", "method"], sort=False)[columns].mean().reset_index()


def method_means(pairs: pd.DataFrame, *, draws: int, generator: np.random.Generator) -> pd.DataFrame:
    """A row a method and error: `mean` over the pairs, its 95 % interval `low` to `high`, and `pairs` behind it."""
    rows, clusters = [], _clusters(pairs)
    for method in dict.fromkeys(pairs["method"]):
        for error in (name for name in ERRORS if name in pairs):
            values = pairs[pairs["method"] == method].set_index("pair")[error].dropna()
            if len(values):
                low, high = _interval(values, clusters, draws, generator)
                row = {"method": method, "error": error, "mean": values.mean(), "low": low, "high": high}
                rows.append(row | {"pairs": len(values)})
    return pd.DataFrame(rows)


def compare_methods(
    pairs: pd.DataFrame, *, method: str, others: Sequence[str], draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """A row for each other method and error: by how much `method` is nearer to the truth, pair by pair.

    Columns: `other`, `error`, `gain` (the other's error less the method's, a mean over pairs), `low`, `high`, `wins`
    (pairs on which the method is strictly nearer), `losses`, `pairs` and `verdict`.
    """
    rows, clusters = [], _clusters(pairs)
    ours = pairs[pairs["method"] == method].set_index("pair")
    for other in others:
        theirs = pairs[pairs["method"] == other].set_index("pair")
        for error in (name for name in ERRORS if name in pairs):
            gain = (theirs[error] - ours[error]).dropna()
            if not len(gain):
                continue
            low, high = _interval(gain, clusters, draws, generator)
            rows.append(
                {
                    "other": other,
                    "error": error,
                    "gain": gain.mean(),
                    "low": low,
                    "high": high,
                    "wins": int((gain > 0).sum()),
                    "losses": int((gain < 0).sum()),
                    "pairs": len(gain),
                    "verdict": verdict(low, high),
                }
            )
    return pd.DataFrame(rows)


def verdict(low: float, high: float) -> str:
    """What an interval of a gain says."""
    return "nearer" if low > 0 else "further" if high < 0 else "not told apart"


def _clusters(pairs: pd.DataFrame) -> "pd.Series[Any]":
    """What each pair belongs to; itself, where the table does not say."""
    named = pairs["cluster"] if "cluster" in pairs else pairs["pair"]
    return named.groupby(pairs["pair"]).first()


def _interval(
    values: "pd.Series[float]", clusters: "pd.Series[Any]", draws: int, generator: np.random.Generator
) -> tuple[float, float]:
    kin = clusters.reindex(values.index).astype(str).to_numpy()
    low, high = np.percentile(resampled_means(values.to_numpy(float), kin, draws=draws, generator=generator), TAILS)
    return float(low), float(high)


def verdicts(gains: pd.DataFrame) -> list[str]:
    """A sentence for each rival: on which errors the geodesic is nearer to the truth, further, or neither."""
    if gains.empty:
        return ["The run has no geodesic to compare with."]
    sentences = []
    for other, rows in gains.groupby("other", sort=False):
        parts = []
        for words in ("nearer", "further", "not told apart"):
            named = [
                f"{ERRORS[row['error']]} ({row['wins']} of {row['pairs']} pairs)"
                for _, row in rows[rows["verdict"] == words].iterrows()
            ]
            if named:
                parts.append(f"{words}: {'; '.join(named)}")
        said = ". ".join(part[0].upper() + part[1:] for part in parts)
        sentences.append(f"Geodesic against {title_of(str(other))}. {said}.")
    return sentences


def means_table(means: pd.DataFrame, references: Sequence[str], table: pd.DataFrame) -> pd.DataFrame:
    """A row a method, a column an error: mean and interval; the methods first; then what is known of their paths."""
    known = [name for name in OF_PATHS if name in table]
    of_paths = table.groupby("method")[known].mean()
    methods = list(dict.fromkeys(means["method"]))
    ordered = [name for name in methods if name not in references] + [name for name in methods if name in references]
    rows = []
    for method in ordered:
        of_method = means[means["method"] == method].set_index("error")
        cells = {"method": title_of(method)}
        for error in ERRORS:
            if error in of_method.index:
                row = of_method.loc[error]
                mean = Interval(mean=row["mean"], low=row["low"], high=row["high"], n=0)
                cells[ERRORS[error]] = interval_text(mean)
        paths = {OF_PATHS[name]: of_paths.loc[method, name] for name in known}
        rows.append(cells | {title: f"{value:.3g}" for title, value in paths.items() if np.isfinite(value)})
    return pd.DataFrame(rows).fillna("-")


def summary_of(pairs: int, means: pd.DataFrame, gains: pd.DataFrame) -> dict[str, float]:
    """`<method>/<error>` -> mean over the pairs, and on what share of them the geodesic is nearer than each other."""
    errors = {f"{row['method']}/{row['error']}": float(row["mean"]) for row in means.to_dict("records")}
    wins = {
        f"geodesic/{row['error']}_better_than_{row['other']}": float(row["wins"] / row["pairs"])
        for row in gains.to_dict("records")
    }
    return {"pairs": float(pairs)} | errors | wins
