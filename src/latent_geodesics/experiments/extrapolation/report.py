"""What an extrapolation run comes to: its summary and its report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from latent_geodesics.core.records import Status
from latent_geodesics.methods.departure import Setting
from latent_geodesics.methods.statuses import CLOSED_FORM
from latent_geodesics.methods.velocities import InitialVelocity
from latent_geodesics.metrics.plausibility import LEFT_PLAUSIBLE, LEFT_PLAUSIBLE_SENTENCE, RealLatents
from latent_geodesics.run.pages import Picture, Section, settings_of, write_page
from latent_geodesics.run.runner import Run

__all__ = ["BASELINES", "summarise_extrapolation", "write_extrapolation_report"]

BASELINES = ("slerp", "lerp")
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
DIVING = (
    "A geodesic that is left to itself turns away from probable points, not towards them: its acceleration is "
    "-α|v|²P(s), against the score s, as a ray of light bends towards the slower medium. Between two given ends it is "
    "the path that crosses improbable regions least; beyond them nothing holds it."
)


def write_extrapolation_report(
    run: Run,
    table: pd.DataFrame,
    *,
    setting: Setting,
    real: RealLatents,
    velocities: Mapping[str, InitialVelocity],
    pages: Sequence[Section],
    whole: bool = True,
) -> None:
    """Writes `report.html`.

    Args:
        run: The run, whose folder holds the pictures.
        table: A row for each image, velocity and method.
        setting: What all paths have in common.
        real: The reference images.
        velocities: Name -> initial velocity.
        pages: A section for each image and velocity.
        whole: Whether every path was followed.
    """
    config = run.config
    facts: dict[str, Any] = {
        "images": table["pair"].nunique(),
        "paths": len(table) if whole else f"{len(table)}: not finished",
    }
    facts |= settings_of(config, "condition", "tau", "alpha", "guidance", "frames", "seed")
    facts |= {"reference images": len(real.levels), "density": setting.score.density}
    means = table.groupby(["velocity", "method"], sort=False)[list(COLUMNS)[2:]].mean().reset_index()
    endings = table.groupby(["method", "status"], sort=False).size().reset_index(name="paths")
    meanings = [f"{status.replace('_', ' ')}: {_meaning(status)}" for status in endings["status"].unique()]
    kinds = [f"{name}: {velocity.words}." for name, velocity in velocities.items()]
    sections = [
        Section(title="Means over the images", text=kinds, table=means.rename(columns=COLUMNS)),
        Section(title="What counts as plausible", text=_plausible_words(real)),
        Section(
            title="How far each path stays plausible",
            text=[DIVING],
            pictures=[Picture(file="figures/overview.png", caption="A dot a path; higher log-density is better.")],
        ),
        Section(title="How the paths ended", text=meanings, table=endings),
        *pages,
    ]
    write_page(
        run.folder,
        title="Extrapolation along probability-density geodesics",
        lead="Each path leaves an image with a given velocity and follows the geodesic of the density, at constant "
        "speed on the sphere of noisy latents. The great circle and the straight line carry the same velocity on "
        "without knowing the density. Animations are in images/.",
        facts=facts,
        sections=sections,
    )


def summarise_extrapolation(table: pd.DataFrame) -> dict[str, float]:
    """Means over the images, and what holds over all paths."""
    summary: dict[str, float] = {"images": float(table["pair"].nunique()), "paths": float(len(table))}
    words = ["pair", "velocity", "method", "status", "origin"]
    for (velocity, method), rows in table.groupby(["velocity", "method"], sort=False):
        for column in table.columns.difference(words, sort=False):
            values = rows[column].to_numpy(dtype=float)
            if np.isfinite(values).any():
                summary[f"{velocity}/{method}/{column}"] = float(np.nanmean(values))
    integrated = table[~table["method"].isin(BASELINES)]
    summary["finished_share"] = float((integrated["reached"] == 1).mean())
    summary["left_plausible_share"] = float((integrated["status"] == LEFT_PLAUSIBLE).mean())
    summary["apart_worst"] = float(integrated["apart"].max())
    if integrated["returned"].notna().any():
        summary["returned_worst"] = float(integrated["returned"].max())
    for method, rows in integrated.groupby("method", sort=False):
        summary[f"{method!s}/sequential"] = float(rows["sequential"].mean())
        summary[f"{method!s}/evaluations"] = float(rows["evaluations"].mean())
    return summary | _against_great_circles(integrated, table[table["method"] == "slerp"])


def _against_great_circles(integrated: pd.DataFrame, circles: pd.DataFrame) -> dict[str, float]:
    """The share of geodesics that end at a lower log-density than the great circle with the same velocity."""
    if circles.empty:
        return {}
    first = integrated[integrated["method"] == integrated["method"].iloc[0]]
    both = first.merge(circles, on=["pair", "velocity"], suffixes=("", "_circle"))
    lower = both["log_density_end"] < both["log_density_end_circle"]
    return {"geodesic_ends_lower_than_great_circle": float(lower.mean())}


def _plausible_words(real: RealLatents) -> list[str]:
    low, high = real.shell
    return [
        f"{len(real.levels)} real images were carried to the noise level of the paths. Without a prompt, their "
        f"log-densities range from {float(real.levels.min()):.0f} to {float(real.levels.max()):+.0f} nats around "
        f"their median, and their norms |x|/√d from {float(real.norms.min()):.3f} to {float(real.norms.max()):.3f}.",
        f"A point is plausible while its log-density is at least {real.least_level:.0f} nats (the least of theirs, "
        f"less {real.misclosure:.0f} nats by which line integrals of the network's score around triangles of real "
        f"images fail to close) and its norm lies between {low:.3f} and {high:.3f}.",
    ]


def _meaning(status: str) -> str:
    if status == LEFT_PLAUSIBLE:
        return LEFT_PLAUSIBLE_SENTENCE
    if status == CLOSED_FORM:
        return "The path is known in closed form, and plausible all along: nothing was integrated."
    return Status(status).sentence
