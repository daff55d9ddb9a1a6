r"""A model of the score along a path, from the last iterates: a linear one at each node.

At every node an iteration sees the score `s_j` at points `x_j`. From the differences `dX`, `dS` to the newest of them

    s(y) ~ s + c (y - x) + (dS - c dX) dX^+ (y - x)

is exact in the directions in which the node has moved, and there a secant approximation of the Jacobian of the score;
in all others it takes the mean slope `c` of the window, the least-squares answer to `dS = c dX` over all nodes. This is
the multisecant update behind Anderson mixing, at each node instead of once for all of them.

References:
    Fang and Saad, Two classes of multisecant methods for nonlinear acceleration (2009).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_geodesics.core.solvers.anderson import whiten

NEGLIGIBLE = 1e-10


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """The score around the newest points of some windows.

    Attributes:
        points: the newest points.
        scores: the scores there.
        slope: `c`, a number for each window.
        moves: `dX` at each node, a row an earlier iterate.
        rises: `dS - c dX`, likewise.
        inverse: the pseudo-inverse of `dX dX^T`.
    """

    points: Float[Tensor, "a q d"]
    scores: Float[Tensor, "a q d"]
    slope: Float[Tensor, " a"]
    moves: Float[Tensor, "a q m d"]
    rises: Float[Tensor, "a q m d"]
    inverse: Float[Tensor, "a q m m"]

    @classmethod
    def through(cls, points: Float[Tensor, "m a q d"], scores: Float[Tensor, "m a q d"]) -> "LocalModel":
        """The model of the iterates given, the newest of them last; copies of the newest add nothing."""
        moves = (points[:-1] - points[-1]).permute(1, 2, 0, 3)
        rises = (scores[:-1] - scores[-1]).permute(1, 2, 0, 3)
        moved = moves.double().square().sum((1, 2, 3))
        slope = (moves.double() * rises).sum((1, 2, 3)) / torch.where(moved > 0, moved, 1.0)
        slope = slope.to(points)
        # The moves may be of very different lengths, or zero.
        rows = moves.double()
        roots = whiten(rows @ rows.mT, max(NEGLIGIBLE, 10 * torch.finfo(moves.dtype).eps))
        return cls(
            points=points[-1],
            scores=scores[-1],
            slope=slope,
            moves=moves,
            rises=rises - slope[:, None, None, None] * moves,
            inverse=(roots @ roots.mT).to(moves),
        )

    def frozen(self, windows: Bool[Tensor, " a"]) -> "LocalModel":
        """The model that keeps the newest scores as they are in the windows of the mask."""
        kept = (~windows).to(self.slope)
        return LocalModel(
            points=self.points,
            scores=self.scores,
            slope=self.slope * kept,
            moves=self.moves,
            rises=self.rises * kept[:, None, None, None],
            inverse=self.inverse,
        )

    def __call__(self, y: Float[Tensor, "a q d"]) -> Float[Tensor, "a q d"]:
        """The score that the model expects at `y`."""
        offset = y - self.points
        expected = self.scores + self.slope[:, None, None] * offset
        if self.moves.shape[2]:
            shares = self.inverse @ (self.moves @ offset[..., None])
            expected = expected + (self.rises.mT @ shares)[..., 0]
        return expected
