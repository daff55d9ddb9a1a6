r"""The second variation of the length at a path, from the scores at its knots and at those of earlier iterates.

For a displacement `d` across a path of constant speed in the geometry of a weight `w` on Euclidean lengths,

    int w / |g'| (|d'|^2 + d^T C d) du,   C = |g'|^2 (-H + a a^T + a k^T + k a^T),

with `a = -grad log w`, `H` its derivative and `k` the curvature of the path; on a sphere less the square of the angle.
`H` at a knot is the matrix that explains best how the score differed there between iterates, the nearest of them first,
and how it changes along the path. It is taken on few directions of `R^d` a pair, in which the path moves and is pulled,
and is a number on all others.

References:
    Levenberg, A method for the solution of certain non-linear problems in least squares (1944); do Carmo, Riemannian
    Geometry (1992), chapter 9 (the second variation).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latent_geodesics.core.solvers.collocation import Collocation, Linearisation
from latent_geodesics.core.solvers.small_system import SmallSystem
from latent_geodesics.core.vectors import norm, normal_to, unit

__all__ = ["Past", "Sighting", "Variation", "second_variation"]

MOST_UNKNOWNS, DIRECTIONS = 384, (2, 10)
LEAST_CURVATURE = 0.3
FAINT = 1e-2


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """An iterate and the score at its knots.

    Attributes:
        offsets: of the interior knots.
        score: the score there, in 1/[x].
    """

    offsets: Float[Tensor, "a n d"]
    score: Float[Tensor, "a n d"]

    def restrict(self, rows: Int[Tensor, " b"]) -> "Sighting":
        """That of some pairs."""
        return Sighting(offsets=self.offsets[rows], score=self.score[rows])

    def where(self, mask: Bool[Tensor, " a"], other: "Sighting") -> "Sighting":
        """This one for the pairs of the mask, the other for the rest."""
        mask = mask[:, None, None]
        return Sighting(
            offsets=torch.where(mask, self.offsets, other.offsets), score=torch.where(mask, self.score, other.score)
        )


@dataclass(frozen=True, kw_only=True)
class Past:
    """Earlier iterates, the newest last; an iterate that stands in for none is the newest itself and says nothing.

    Attributes:
        offsets: of the interior knots.
        score: the score there, in 1/[x].
    """

    offsets: Float[Tensor, "m a n d"]
    score: Float[Tensor, "m a n d"]

    @staticmethod
    def none(here: Sighting, size: int) -> "Past":
        """No iterates yet."""
        return Past(
            offsets=here.offsets.expand(size, *here.offsets.shape).clone(),
            score=here.score.expand(size, *here.score.shape).clone(),
        )

    def where(self, mask: Bool[Tensor, " a"], other: "Past") -> "Past":
        """Those of this one for the pairs of the mask, the other's for the rest."""
        mask = mask[None, :, None, None]
        return Past(
            offsets=torch.where(mask, self.offsets, other.offsets), score=torch.where(mask, self.score, other.score)
        )

    def restrict(self, rows: Int[Tensor, " b"]) -> "Past":
        """Those of some pairs."""
        return Past(offsets=self.offsets[:, rows], score=self.score[:, rows])

    def refine(self, grid: Collocation, coarse: Sighting, here: Sighting) -> "Past":
        """The same on a finer grid; of the score what changed is interpolated, since that vanishes at the ends.

        Args:
            grid: the finer grid.
            coarse: the newest iterate on the coarser one.
            here: the same on the finer one.
        """
        return Past(
            offsets=here.offsets + grid.refine(self.offsets - coarse.offsets),
            score=here.score + grid.refine(self.score - coarse.score),
        )


@dataclass(frozen=True, kw_only=True)
class Variation:
    """The second variation at a path.

    Attributes:
        step: what removes the defect, where the variation is positive, and else descends.
        least: its least eigenvalue, in a scale in which that of a straight line in a uniform density is `pi^2`;
            negative where the path is not the shortest among its neighbours.
        mode: the displacement that belongs to it, of unit size.
    """

    step: Float[Tensor, "a n d"]
    least: Float[Tensor, " a"]
    mode: Float[Tensor, "a n d"]


def second_variation(
    grid: Collocation,
    seen: Linearisation,
    here: Sighting,
    past: Past,
    strength: Float[Tensor, " a"],
    end_scores: Float[Tensor, "a 2 d"],
) -> Variation:
    """The second variation at an iterate, and the step that it gives.

    Args:
        grid: the grid of the iterate.
        seen: the iterate as the score shows it.
        here: its knots.
        past: earlier iterates on this grid.
        strength: that of the geometry for each pair.
        end_scores: the score at both ends.
    """
    across = grid.geometry.constant_speed
    velocity, weight = seen.velocity, seen.weight(strength)[..., None]
    defect = seen.bend + weight * seen.force
    squared = velocity.square().sum(-1, keepdim=True)
    curve = normal_to(velocity, seen.bend) if across else seen.bend
    if across:
        defect = normal_to(velocity, defect)
    basis = _basis(defect, here, past)
    along = grid.first[1:-1] @ torch.cat([end_scores[:, :1], here.score, end_scores[:, 1:]], 1)
    hessian, rest = _hessians(grid, seen, here, past, basis, along)
    hold = weight[..., 0] * seen.hold
    content = -hold[..., None, None] * hessian
    if across:
        a, k = ((part / squared) @ basis for part in (weight * seen.force, curve))
        content = content + squared[..., None] * (_outer(a, a) + _outer(a, k) + _outer(k, a))
    direction = unit(velocity) @ basis if across else torch.zeros_like(velocity @ basis)
    stretch = grid.geometry.stretch(strength[:, None], seen.log_density)
    system = _system(grid, stretch, content, direction, defect @ basis)
    least, mode = system.least()
    shift = (LEAST_CURVATURE - 1.2 * least).clamp(min=0) * (least < LEAST_CURVATURE)
    inside, mode, least, shift = (part.to(defect) for part in (system.solve(shift), mode, least, shift))
    step = inside @ basis.mT
    if basis.shape[-1] < velocity.shape[-1]:
        outside = defect - (defect @ basis) @ basis.mT
        drift = (stretch @ grid.first.T)[:, 1:-1, None]
        operator = -(grid.second[1:-1, 1:-1] + drift * grid.first[1:-1, 1:-1])
        confined = operator + torch.diag_embed(hold * rest + (shift - grid.turned)[:, None])
        # Not `solve`: it would wait for the device to say whether a matrix is singular, and this one is not.
        step = step + torch.linalg.inv_ex(confined).inverse @ outside
    mode = mode @ basis.mT
    if across:
        step, mode = normal_to(velocity, step), normal_to(velocity, mode)
    return Variation(step=step, least=least, mode=mode)


def _outer(a: Float[Tensor, "*b k"], b: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k k"]:
    return a[..., :, None] * b[..., None, :]


def _basis(defect: Float[Tensor, "a n d"], here: Sighting, past: Past) -> Float[Tensor, "a d k"]:
    """The directions in which a pair moves and is pulled most, over all of its knots."""
    pairs, knots, size = defect.shape
    count = min(max(MOST_UNKNOWNS // knots, DIRECTIONS[0]), DIRECTIONS[1])
    if size <= count:
        return torch.eye(size).to(defect).expand(pairs, size, size)
    rows = [defect, *(past.offsets - here.offsets)]
    tiny = torch.finfo(defect.dtype).tiny
    every = torch.cat([part / part.abs().amax((1, 2), keepdim=True).clamp(min=tiny) for part in rows], 1)
    values, vectors = torch.linalg.eigh((every @ every.mT).cpu().double())
    values, vectors = values[:, -count:], vectors[..., -count:]
    kept = values > 1e-6 * values[:, -1:]
    scale = torch.where(kept, values, 1.0).rsqrt() * kept
    found: Tensor = every.mT @ (vectors * scale[:, None]).to(every)
    return found


def _hessians(
    grid: Collocation,
    seen: Linearisation,
    here: Sighting,
    past: Past,
    basis: Float[Tensor, "a d k"],
    along: Float[Tensor, "a n d"],
) -> tuple[Float[Tensor, "a n k k"], Float[Tensor, "a n"]]:
    """The derivative of the pull at each knot: on the directions of the basis, and minus it, a number, elsewhere."""
    size = norm(seen.velocity)[..., None]
    tangent = grid.manifold.tangent
    knots = grid.knots(here.offsets)
    dx = past.offsets - here.offsets
    pulls = [tangent(grid.knots(*then), score) for *then, score in zip(past.offsets, past.score, strict=True)]
    ds = torch.stack(pulls) - seen.pull
    least = 1e-9 if dx.dtype == torch.float64 else 1e-5
    far = norm(dx)
    near = torch.where(far > least * grid.span[:, None], far, torch.inf)
    weights = [torch.ones_like(far[0]), *(near.amin(0) / near).nan_to_num(0.0).square()]
    ways = [seen.velocity / size, *(dx / near[..., None])]
    changes = [tangent(knots, along) / size, *(ds / near[..., None])]
    way, change = (torch.stack(part, -2) for part in (ways, changes))  # a n m d
    weight = torch.stack(weights, -1)[..., None]
    moved = weight[..., 1:, 0]
    rates = (way * change).sum(-1)[..., 1:]
    mean = (moved * rates).sum(-1) / moved.sum(-1).clamp(min=torch.finfo(moved.dtype).tiny)
    x, y = (part @ basis[:, None] for part in (way, change))
    eye = FAINT * torch.eye(basis.shape[-1]).to(x)
    gram, cross = x.mT @ (weight * x) + eye, y.mT @ (weight * x) + mean[..., None, None] * eye
    matrix = cross @ torch.linalg.inv_ex(gram).inverse
    return (matrix + matrix.mT) / 2, -mean.clamp(max=0)


def _system(
    grid: Collocation,
    stretch: Float[Tensor, "a k"],
    content: Float[Tensor, "a n q q"],
    direction: Float[Tensor, "a n q"],
    defect: Float[Tensor, "a n q"],
) -> SmallSystem:
    """What is left of the equation on a few directions, brought to the CPU by one copy, in float64."""
    parts = (stretch, content, direction, defect, grid.turned)
    columns = [part.flatten(1) if part.ndim > 1 else part[:, None] for part in parts]
    table = torch.cat([column.double() for column in columns], 1).cpu()
    read = [
        part.reshape(like.shape)
        for part, like in zip(torch.split(table, [column.shape[1] for column in columns], 1), parts, strict=True)
    ]
    stretch, content, direction, defect, turned = read
    return SmallSystem(
        first=grid.slopes, second=grid.bends, stretch=stretch, content=content, direction=direction, defect=defect,
        turned=turned,
    )  # fmt: skip
