"""What an extrapolation run comes to: its summary, and the tables and words of its page."""

import numpy as np
import pandas as pd

from latent_geodesics.core.records import Status
from latent_geodesics.experiments.extrapolation.figures import path_title
from latent_geodesics.experiments.extrapolation.rows import BASELINES
from latent_geodesics.metrics.plausibility import LEFT_PLAUSIBLE, LEFT_PLAUSIBLE_SENTENCE, RealLatents
from latent_geodesics.run.results import non_finite

LEAD = (
    "Each path leaves an image with a given velocity and follows the geodesic of the density, at constant speed on the "
    "sphere of noisy latents. The great circle and the straight line carry the same velocity on without knowing the "
    "density. Animations are in images/."
)
DIVING = (
    "A geodesic that is left to itself turns away from probable points, not towards them: its acceleration is "
    "-α|v|²P(s), against the score s, as a ray of light bends towards the slower medium. Between two given ends it is "
    "the path that crosses improbable regions least; beyond them nothing holds it."
)
COLUMNS = {
    "velocity": "velocity",
    "method": "method",
    "plausible_until": "plausible up to u",
    "log_density_end": "log-density at the end, nats above the start",
    "closure": "closure, nats",
    "level_end": "without prompt, nats above the median real image",
    "noise_end": "noise seen at the end, |σs|/√d",
    "strayed": "end off the great circle's, of the length",
    "residual_mean": "residual",
    "evaluations": "score evaluations",
    "sequential": "of them one after another",
    "seconds": "seconds",
}
WORDS = ["pair", "velocity", "method", "status", "origin"]


def means_table(results: pd.DataFrame) -> pd.DataFrame:
    """The means over the images, a row for each velocity and method."""
    means = results.groupby(["velocity", "method"], sort=False)[list(COLUMNS)[2:]].mean().reset_index()
    return means.assign(method=means["method"].map(path_title)).rename(columns=COLUMNS)


def endings_table(results: pd.DataFrame) -> pd.DataFrame:
    """How many paths of each method ended in each way."""
    named = results.assign(method=results["method"].map(path_title))
    return named.groupby(["method", "status"], sort=False).size().reset_index(name="paths")


def status_words(results: pd.DataFrame) -> list[str]:
    """What each status in the table means."""
    own = {
        LEFT_PLAUSIBLE: LEFT_PLAUSIBLE_SENTENCE,
        Status.CLOSED_FORM.value: "The path is known in closed form, and plausible all along: nothing was integrated.",
    }
    return [
        f"{status.replace('_', ' ')}: {own[status] if status in own else Status(status).sentence}"
        for status in dict.fromkeys(endings_table(results)["status"])
    ]


def plausible_words(real: RealLatents) -> list[str]:
    """What counts as plausible, by the reference images."""
    low, high = real.shell
    return [
        f"{len(real.levels)} real images were carried to the noise level of the paths. Without a prompt, their "
        f"log-densities range from {float(real.levels.min()):.0f} to {float(real.levels.max()):+.0f} nats around "
        f"their median, and their norms |x|/√d from {float(real.norms.min()):.3f} to {float(real.norms.max()):.3f}.",
        f"A point is plausible while its log-density is at least {real.least_level:.0f} nats (the least of theirs, "
        f"less {real.misclosure:.0f} nats by which line integrals of the network's score around triangles of real "
        f"images fail to close) and its norm lies between {low:.3f} and {high:.3f}.",
    ]


def refusal(results: pd.DataFrame, folder: object) -> str | None:
    """What is said when the score of some path was not finite."""
    broken = int((results["status"] == Status.NON_FINITE_SCORE.value).sum())
    named = [f"{broken} of {len(results)} paths"] if broken else []
    return non_finite(named, folder, "try a larger tau, a smaller alpha, or a shorter path")


def summarise(results: pd.DataFrame) -> dict[str, float]:
    """The means `<velocity>/<method>/<column>` over the images, and what holds over all paths."""
    summary: dict[str, float] = {"images": float(results["pair"].nunique()), "paths": float(len(results))}
    for (velocity, method), rows in results.groupby(["velocity", "method"], sort=False):
        for column in results.columns.difference(WORDS, sort=False):
            values = rows[column].to_numpy(dtype=float)
            if np.isfinite(values).any():
                summary[f"{velocity}/{method}/{column}"] = float(np.nanmean(values))
    integrated = results[~results["method"].isin(BASELINES)]
    summary["finished_share"] = float((integrated["reached"] == 1).mean())
    summary["left_plausible_share"] = float((integrated["status"] == LEFT_PLAUSIBLE).mean())
    summary["apart_worst"] = float(integrated["apart"].max())
    if integrated["returned"].notna().any():
        summary["returned_worst"] = float(integrated["returned"].max())
    for method, rows in integrated.groupby("method", sort=False):
        for column in ("sequential", "evaluations"):
            summary[f"{method!s}/{column}"] = float(rows[column].mean())
    return summary | _against_great_circles(integrated, results[results["method"] == "slerp"])


def _against_great_circles(integrated: pd.DataFrame, circles: pd.DataFrame) -> dict[str, float]:
    """The share of geodesics that end at a lower log-density than the great circle with the same velocity."""
    if circles.empty:
        return {}
    first = integrated[integrated["method"] == integrated["method"].iloc[0]]
    both = first.merge(circles, on=["pair", "velocity"], suffixes=("", "_circle"))
    lower = both["log_density_end"] < both["log_density_end_circle"]
    return {"geodesic_ends_lower_than_great_circle": float(lower.mean())}
