"""The power on the density, per dimension, so that one value means the same for latents of any size.

Scores of noisy latents and the distances between them both grow as sqrt(d), so how hard alpha bends a path, its
strength alpha mean|s| L, grows as alpha d. Settings therefore give `alpha_d = alpha d`; equations have alpha itself.

| | d | alpha | alpha_d |
|---|---|---|---|
| default here, conditional score | 1,024 | 0.0029 | 3 |
| the paper's shipped setting, contrastive score | 16,384 | 0.002 | 32.8 |

The two rows do not compare: the contrastive score `(eps_- - eps_c) / 2` is that of a density ratio without 1/sigma, a
tenth as large.
"""

from collections.abc import Callable

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.geometries import Conformal, Geometry

GeometryChoice = Geometry | Callable[..., Geometry] | None
"""A geometry, one that is still to be told the power alpha, or none: that of p^alpha."""


def power_of_density(*, alpha_d: float | None, alpha: float | None, dimension: int) -> float:
    """The power alpha on the density of latents.

    Args:
        alpha_d: The power per dimension, alpha = alpha_d / d; finite and at least 0. None where `alpha` is given.
        alpha: The power itself, in place of `alpha_d`; None for none.
        dimension: d, the size of a flat latent.

    Raises:
        UserError: for a number that is no finite one of at least 0.
    """
    name, value = ("alpha_d", alpha_d) if alpha is None else ("alpha", alpha)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise UserError(f"{name} must be a finite number of at least 0, got {value!r}.")
    return float(value / dimension if alpha is None else value)


def geometry_of(choice: GeometryChoice, power: float) -> Geometry:
    """The geometry that was chosen, with the power alpha on the density where it has one."""
    if choice is None:
        return Conformal(alpha=power)
    return choice if isinstance(choice, Geometry) else choice(alpha=power)
