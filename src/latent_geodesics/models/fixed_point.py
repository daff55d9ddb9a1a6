"""Fixed points of row-wise functions: `x = g(x)`, each row on its own, with Anderson mixing.

With the residual `f = g(x) - x` and the differences `dF`, `dG` of the last iterates' `f` and `g` to the newest ones,
the next iterate is `g - dG c` with the `c` that makes `|f - dF c|` least. One iterate alone gives the plain step `x
<- g(x)`. Mixing matters where the plain step contracts slowly: it needs a third of the evaluations there.

References:
    Walker, Ni 2011, Anderson acceleration for fixed-point iterations.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MEMORY = 4
# Keeps the small normal equations solvable when the last iterates are all but equal.
_RIDGE = 1e-10


class Found(NamedTuple):
    """Where each row got to, and how far from a fixed point: `|g(x) - x| / |g(x)|` of the iterate before it."""

    x: Float[Tensor, "n d"]
    error: Float[Tensor, " n"]


def solve_fixed_point(
    function: Callable[[Float[Tensor, "m d"], Int[Tensor, " m"]], Float[Tensor, "m d"]],
    start: Float[Tensor, "n d"],
    *,
    evaluations: int,
    tolerance: float,
) -> Found:
    """The fixed point of each row, or its latest iterate when it takes too many evaluations.

    Args:
        function: `g` at the given points, which belong to the rows of the given numbers.
        start: first iterate of each row.
        evaluations: the most evaluations of a row, at least 1; with 1 the result is `g(start)`.
        tolerance: a row is solved once `|g(x) - x| < tolerance |g(x)|`.
    """
    result, errors = start.clone(), start.new_full((len(start),), torch.inf)
    rows = torch.arange(len(start), device=start.device)
    x, history = start, start.new_empty(0, 2, *start.shape)
    for _ in range(evaluations):
        g = function(x, rows)
        history = torch.cat([history[-_MEMORY:], torch.stack([g, g - x])[None]])
        # NaN counts as unsolved and is left for the caller to see.
        change, size = (g - x).norm(dim=-1), g.norm(dim=-1)
        unsolved = ~(change < tolerance * size)
        x = torch.where(unsolved[:, None], _mix(history), g)
        result = x if len(rows) == len(result) else result.index_copy(0, rows, x)
        errors = errors.index_copy(0, rows, change / size)
        # Solved rows leave, so that no row depends on how long another takes; nothing else is read from the device.
        left = [row for row, open_still in enumerate(unsolved.tolist()) if open_still]
        if not left:
            break
        if len(left) < len(rows):
            kept = torch.tensor(left, device=rows.device)
            rows, x, history = rows[kept], x[kept], history[:, :, kept]
    return Found(result, errors)


def _mix(history: Float[Tensor, "m 2 n d"]) -> Float[Tensor, "n d"]:
    """The next iterate of each row from its last values `g` and residuals `f`, newest last."""
    g, f = history[-1].unbind(0)
    if len(history) == 1:
        return g
    dg, df = (history[-1:] - history[:-1]).double().movedim(2, 0).unbind(2)
    gram = df @ df.mT
    ridge = _RIDGE * gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=torch.finfo(torch.float64).tiny)
    gram = gram + ridge[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    # Not `solve`: it would raise for the whole batch when one row is not finite.
    c: Tensor = torch.linalg.solve_ex(gram, df @ f.double()[..., None]).result
    return g - (c.mT @ dg)[:, 0].to(g)
