r"""Classical multidimensional scaling: points whose Euclidean distances are as near as possible to given ones.

With `J = I - 1 1^T / n`, the eigenvectors of `-J D^2 J / 2`, each times the root of its eigenvalue. Negative
eigenvalues say that no points in flat space have these distances.

References:
    Torgerson, Multidimensional scaling: I (1952); Borg, Groenen, Modern Multidimensional Scaling (2005), chapter 12.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Points in a plane, or in more dimensions, with how faithful they are.

    Attributes:
        points: A row an image, in the unit of the distances; the signs make the largest entry of an axis positive.
        shares: Of each axis, its eigenvalue over the sum of all their sizes.
        negative: The share of negative eigenvalues in the same sum; 0 for distances of points in flat space.
        stress: Kruskal's stress-1, `sqrt(sum (d - d^)^2 / sum d^2)`, of the distances of these points.
    """

    points: Float[np.ndarray, "n k"]
    shares: Float[np.ndarray, " k"]
    negative: float
    stress: float


def classical_mds(distances: Float[np.ndarray, "n n"], *, axes: int = 2) -> Embedding:
    """The embedding of a symmetric matrix of distances.

    Raises:
        ValueError: when the matrix is not square, symmetric, finite and zero on its diagonal.
    """
    d = np.asarray(distances, dtype=float)
    if d.ndim != 2 or d.shape[0] != d.shape[1] or not np.isfinite(d).all():
        raise ValueError(f"distances must be a finite square matrix; received the shape {d.shape}.")
    if not np.allclose(d, d.T) or not np.allclose(np.diag(d), 0.0):
        raise ValueError("distances must be symmetric and zero on the diagonal.")
    centring = np.eye(len(d)) - 1.0 / len(d)
    values, vectors = np.linalg.eigh(-0.5 * centring @ np.square(d) @ centring)
    missing = max(0, axes - len(d))  # a matrix of fewer images than axes has none beyond
    values, vectors = np.pad(values[::-1], (0, missing)), np.pad(vectors[:, ::-1], ((0, 0), (0, missing)))
    shown = np.clip(values[:axes], 0.0, None)
    points = vectors[:, :axes] * np.sqrt(shown)
    largest = points[np.abs(points).argmax(0), np.arange(axes)]
    points = points * np.where(largest < 0, -1.0, 1.0)
    size, total = np.abs(values).sum() or 1.0, np.square(d).sum()
    between = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return Embedding(
        points=points,
        shares=shown / size,
        negative=float(np.clip(-values, 0.0, None).sum() / size),
        stress=float(np.sqrt(np.square(d - between).sum() / total)) if total > 0 else 0.0,
    )
