r"""Two sequences held against each other after the best monotone alignment of their times: dynamic time warping.

Frame by frame, a sequence that shows the right pictures a little early is charged for it, and a cross-fade, which is
half right everywhere, is not. So errors to a true sequence are also taken along a *warping path*: cells (i, j) of
frames i against true frames j, from (0, 0) to the last of both, each step one on in i, in j or in both. No frame and no
true frame is left out, and none comes before an earlier one. Of all such paths the one of least

    E = \sum_k w_k D(i_k, j_k) / \sum_k w_k,     w_k = (i_k - i_{k-1}) + (j_k - j_{k-1}),

is taken; the weights make every path's sum the same, so that long ways round gain nothing (Sakoe, Chiba 1978, symmetric
form). The first cell has the weight 2. Where the times agree this is the mean over the frames; it never exceeds it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Alignment:
    """The best warping path.

    Attributes:
        cells: The pairs (i, j), in order.
        error: E, in the unit of the distances.
        per_frame: The weighted mean over the cells of each frame i.
    """

    cells: tuple[tuple[int, int], ...]
    error: float
    per_frame: Float[Tensor, " n"]


def align(distances: Float[Tensor, "n m"]) -> Alignment:
    """The best monotone alignment of n frames with m true ones, both ends fixed.

    Args:
        distances: D(i, j), finite and at least 0.

    Raises:
        ValueError: if a distance is not finite, or a sequence is empty.
    """
    if distances.ndim != 2 or not distances.numel() or not bool(torch.isfinite(distances).all()):
        raise ValueError(f"distances must be a matrix of finite numbers; received {list(distances.shape)}")
    cost = distances.double().cpu()
    cells = _best_path(cost.tolist())
    i, j = torch.tensor(cells).T
    weights = torch.cat([torch.tensor([2]), i.diff() + j.diff()]).double()
    along = weights * cost[i, j]
    sums = torch.zeros(2, len(cost), dtype=torch.float64).index_add_(1, i, torch.stack([along, weights]))
    return Alignment(cells=cells, error=float(along.sum() / weights.sum()), per_frame=sums[0] / sums[1])


def _best_path(cost: list[list[float]]) -> tuple[tuple[int, int], ...]:
    """By dynamic programming; of equal ways the one nearest to equal times, which is the diagonal one."""
    n, m = len(cost), len(cost[0])
    best = [[float("inf")] * m for _ in range(n)]
    came: list[list[tuple[int, int]]] = [[(0, 0)] * m for _ in range(n)]
    for i in range(n):
        for j in range(m):
            if i == j == 0:
                best[i][j] = 2 * cost[i][j]
                continue
            ways = [(i - 1, j - 1, 2), (i - 1, j, 1), (i, j - 1, 1)]
            known = [
                (best[a][b] + w * cost[i][j], order, (a, b)) for order, (a, b, w) in enumerate(ways) if a >= 0 <= b
            ]
            best[i][j], _, came[i][j] = min(known)
    path = [(n - 1, m - 1)]
    while path[-1] != (0, 0):
        i, j = path[-1]
        path.append(came[i][j])
    return tuple(reversed(path))
