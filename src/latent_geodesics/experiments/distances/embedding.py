r"""Classical multidimensional scaling: points whose Euclidean distances are as near as possible to given ones.

With `J = I - 1 1^T / n`, the eigenvectors of `-J D^2 J / 2`, each times the root of its eigenvalue. Negative
eigenvalues say that no points in flat space have these distances.

References:
    Torgerson, Multidimensional scaling: I (1952); Borg, Groenen, Modern Multidimensional Scaling (2005), chapter 12.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = ["Embedding", "classical_mds"]


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
    n = len(d)
    centring = np.eye(n) - 1.0 / n
    values, vectors = np.linalg.eigh(-0.5 * centring @ np.square(d) @ centring)
    values, vectors = values[::-1], vectors[:, ::-1]
    shown = np.pad(values, (0, max(0, axes - n)))[:axes]
    points = np.zeros((n, axes))
    points[:, : min(axes, n)] = vectors[:, :axes] * np.sqrt(np.clip(values[:axes], 0.0, None))
    largest = points[np.abs(points).argmax(0), np.arange(axes)]
    points = points * np.where(largest < 0, -1.0, 1.0)
    size = np.abs(values).sum()
    size = size if size > 0 else 1.0
    between = np.linalg.norm(points[:, None] - points[None], axis=-1)
    total = np.square(d).sum()
    return Embedding(
        points=points,
        shares=np.clip(shown, 0.0, None) / size,
        negative=float(np.clip(-values, 0.0, None).sum() / size),
        stress=float(np.sqrt(np.square(d - between).sum() / total)) if total > 0 else 0.0,
    )
