r"""From paths to distances: `d(a, b) = int (p / p_ref)^-alpha |g'| du` along the geodesic, with one reference for all.

Along each path the score gives `log p` up to a constant; the levels of its two ends (`levels`) fix it. What the line
integral misses of their difference, since a network's score is not quite a gradient, is spread evenly over the path,
so that the distance is the same in both directions. The reference is one number for all pairs: another one multiplies
every distance by the same factor and changes neither ranks nor neighbours nor the shape of the embedding.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from latent_geodesics.core.geometry import DensityProfile
from latent_geodesics.experiments.distances.levels import Levels, fit_levels
from latent_geodesics.experiments.distances.store import Leg
from latent_geodesics.experiments.distances.survey import Ends, Survey

__all__ = ["Measured", "distance_along", "measure"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The distances of a survey.

    Attributes:
        levels: The log-density of every picture; NaN where paths with a finite score do not reach all pictures.
        distance: Of each solved pair of pictures; NaN where the score was not finite.
        error: What the quadrature along the path may make of it.
        misfit: By how much the change along the path misses the levels of its ends, in nats.
    """

    levels: Levels
    distance: dict[Ends, float]
    error: dict[Ends, float]
    misfit: dict[Ends, float]


def measure(survey: Survey, *, pictures: int, alpha: float, reference: np.ndarray) -> Measured:
    """The levels of all pictures and the distance of every solved pair.

    Args:
        survey: The paths.
        pictures: How many pictures there are.
        alpha: Power of the density.
        reference: The pictures whose mean log-density is the reference.
    """
    paths = {ends: leg for ends, leg in survey.geodesics.items() if np.isfinite(leg.log_density).all()}
    legs = [*paths.items(), *survey.great_circles.items()]
    legs = [(ends, leg) for ends, leg in legs if np.isfinite(leg.change)]
    ends = np.array([ends for ends, _ in legs], dtype=int).reshape(-1, 2)
    change = np.array([leg.change for _, leg in legs])
    try:
        levels = fit_levels(ends, change, count=pictures, reference=reference)
    except ValueError:
        unknown = np.full(pictures, np.nan)
        levels = Levels(level=unknown, misfit=np.full(len(legs), np.nan), explained=float("nan"))
    distance, error = dict.fromkeys(survey.geodesics, np.nan), dict.fromkeys(survey.geodesics, np.nan)
    for pair, leg in paths.items():
        distance[pair], error[pair] = distance_along(leg, levels.level[pair[0]], levels.level[pair[1]], alpha)
    found = {pair: float(value) for (pair, _), value in zip(legs, levels.misfit, strict=True)}
    return Measured(
        levels=levels,
        distance=distance,
        error=error,
        misfit={pair: found.get(pair, np.nan) for pair in survey.geodesics},
    )


def distance_along(leg: Leg, start: float, end: float, alpha: float) -> tuple[float, float]:
    """The length of a path whose ends have given log-densities, and the error of its quadrature."""
    profile = DensityProfile(
        u=torch.from_numpy(leg.u),
        widths=torch.from_numpy(leg.widths),
        log_density=_row(leg.log_density),
        error=_row(leg.error),
        speed=_row(leg.speed),
    )
    ends = (torch.tensor([value], dtype=torch.float64) for value in (start, end))
    found = profile.closed(*ends).length(alpha)
    return float(found.value[0]), float(found.error[0])


def _row(values: Float[np.ndarray, " m"]) -> Float[torch.Tensor, "1 m"]:
    return torch.from_numpy(values)[None]
