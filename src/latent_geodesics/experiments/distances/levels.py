r"""One log-density level for every image, from the changes along the paths between them.

The change of log-density along a path, `c_ij = int g' . s du`, is `h_j - h_i` when the score is the gradient of one
log-density h; a network's is so only nearly. The levels are the least-squares fit of `h_j - h_i` to all changes, the
gradient part of their Hodge decomposition; what is left is the closure error. On three images whose paths make a loop
it shows without any fit: `c_ij + c_jk + c_ki` is zero for a gradient.

References:
    Jiang, Lim, Yao, Ye, Statistical ranking and combinatorial Hodge theory (2011), arXiv 0811.1067.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Log-densities of images, relative to a reference.

    Attributes:
        level: One an image, in nats; zero at the reference.
        misfit: For the ends of every path, `c_ij - (h_j - h_i)`, in nats.
        explained: The share of the changes' sum of squares that the levels explain; 1 for a gradient.
    """

    level: Float[np.ndarray, " n"]
    misfit: Mapping[tuple[int, int], float]
    explained: float


def fit_levels(changes: Mapping[tuple[int, int], float], *, count: int, reference: Int[np.ndarray, " r"]) -> Levels:
    """The levels of `count` images that fit the changes best.

    Args:
        changes: The ends of each path -> the change of log-density along it, in nats; all images must be connected.
        count: How many images there are.
        reference: The images whose mean level is zero.

    Raises:
        ValueError: when the paths do not connect all images, so that no common level exists.
    """
    ends, change = np.array(list(changes), dtype=int).reshape(-1, 2), np.array(list(changes.values()), dtype=float)
    incidence = np.zeros((len(ends), count))
    rows = np.arange(len(ends))
    np.add.at(incidence, (rows, ends[:, 1]), 1.0)
    np.add.at(incidence, (rows, ends[:, 0]), -1.0)
    if count > 1 and (not len(ends) or np.linalg.matrix_rank(incidence) < count - 1):
        raise ValueError("the paths do not connect all images: add one between each part and the rest.")
    level = np.linalg.lstsq(incidence, change, rcond=None)[0] if len(ends) else np.zeros(count)
    level = level - level[reference].mean()
    misfit = change - incidence @ level
    total = float(np.square(change).sum())
    explained = 1.0 - float(np.square(misfit).sum()) / total if total > 0 else 1.0
    return Levels(level=level, misfit=dict(zip(changes, misfit.tolist(), strict=True)), explained=explained)


def loop_sums(change: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " t"]:
    """`c_ij + c_jk + c_ki` for every three images, in nats; NaN where one of the changes is not known."""
    return np.array([change[i, j] + change[j, k] + change[k, i] for i, j, k in combinations(range(len(change)), 3)])
