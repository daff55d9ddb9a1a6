r"""Which density a path is judged by: under what prompts, where two images have two, and to what power.

A path of `p(x)` needs one density. Two images have two, `p(x | c_A)` and `p(x | c_B)`; these names say what is taken:

| name | the density at the position u |
|---|---|
| `mean` | `p(x | (c_A + c_B) / 2)`, of the mean of both embeddings |
| `union` | `p(x | c_A, c_B)`, of the tokens of both embeddings one after the other |
| `empty` | `p(x | "")`, of no prompt |
| `moving` | `p(x | (1 - u) c_A + u c_B)`, another one at each u, as published |

Under the first three the length `S = int p^-alpha |g'| du` is a number of the curve alone. Under `moving` it is not: it
changes when the same curve is run through at another pace, and so does the line integral of the score. With
`w(x, u) = p(x | u)^-alpha` and `v = g' / |g'|` the Euler-Lagrange equation of S has the part `-(d_u w) v` *along* the
curve, which no curve meets in general: S has no stationary curve at constant speed. What solvers find is the normal
part of that equation at constant Euclidean speed, as published (Yu et al. 2025, arXiv 2504.06675),

    g'' + alpha |g'|^2 P_v s(g, u) = 0,     |g'| = const,     s(x, u) = grad_x log p(x | u),

whose solution is well defined and minimises nothing. Lengths and log-densities of such paths are left empty in tables.

The power is given per dimension, so that one value means the same for latents of any size: scores of noisy latents and
the distances between them both grow as sqrt(d), so how hard alpha bends a path, its strength alpha mean|s| L, grows as
alpha d. Settings therefore give `alpha_d = alpha d`; equations have alpha itself.

| | d | alpha | alpha_d |
|---|---|---|---|
| default here, conditional score | 1,024 | 0.0029 | 3 |
| the paper's shipped setting, contrastive score | 16,384 | 0.002 | 32.8 |

The two rows do not compare: the contrastive score `(eps_- - eps_c) / 2` is that of a density ratio without 1/sigma, a
tenth as large.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_geodesics.core.errors import UserError, near_name
from latent_geodesics.core.geometries import Conformal, Geometry
from latent_geodesics.models.latent_model import LatentModel

PathCondition = Literal["mean", "union", "empty", "moving"]
NAMES: tuple[str, ...] = get_args(PathCondition)


def check_path_condition(name: str) -> None:
    """Refuses a name that is none of the above.

    Raises:
        UserError: with the names that there are.
    """
    if name not in NAMES:
        raise UserError(f"condition must be one of {', '.join(NAMES)}, got {name!r}.{near_name(str(name), NAMES)}")


def path_conditions(
    name: PathCondition,
    model: LatentModel,
    condition_a: Float[Tensor, "p l c"],
    condition_b: Float[Tensor, "p l c"],
) -> tuple[Float[Tensor, "p m c"], Float[Tensor, "p m c"] | None]:
    """The embeddings at u = 0 and at u = 1 that a density is conditioned on; no second one where it does not move.

    Args:
        name: What is taken.
        model: Whose empty prompt it is.
        condition_a: The first images' embeddings, of l tokens; `union` has 2 l.
        condition_b: The second images'.
    """
    check_path_condition(name)
    if name == "moving":
        return condition_a, condition_b
    if name == "mean":
        return (condition_a + condition_b) / 2, None
    if name == "union" and model.network.family.pooled:
        raise UserError(
            "condition=union reads the tokens of both prompts one after the other, and this model is told of a text "
            "as a whole besides: choose mean or empty"
        )
    if name == "union":
        return torch.cat([condition_a, condition_b], dim=1), None
    return model.condition([""]).to(condition_a).expand_as(condition_a), None


def moves(
    name: PathCondition, condition_a: Float[Tensor, "p l c"], condition_b: Float[Tensor, "p l c"]
) -> Bool[Tensor, " p"]:
    """Which pairs have another density at each position: none under a fixed condition, nor one whose prompts agree."""
    differ = (condition_a != condition_b).flatten(1).any(1)
    return differ if name == "moving" else torch.zeros_like(differ)


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
