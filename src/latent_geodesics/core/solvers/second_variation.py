r"""The second variation of the length at a path, from the scores at its knots and at those of earlier iterates.

For a displacement `d` across a path of constant speed in the geometry of a weight `w` on Euclidean lengths,

    int w / |g'| (|d'|^2 + d^T C d) du,   C = |g'|^2 (-H + a a^T + a k^T + k a^T - k k^T),

with `a = -grad log w`, `H` its derivative and `k` the curvature of the path; on a sphere less the square of the angle.
`H` at a knot is the matrix that explains best how the score differed there between iterates, the nearest of them first,
and how it changes along the path. It is taken on few directions of `R^d` a pair, in which the path moves and is pulled,
and is a number on all others.

References:
    Levenberg, A method for the solution of certain non-linear problems in least squares (1944); do Carmo, Riemannian
    Geometry (1992), chapter 9 (the second variation).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import cholesky_banded, eig_banded, eigh
from torch import Tensor

from latent_geodesics.core.manifold import norm, normal_to, unit
from latent_geodesics.core.solvers.collocation import Collocation
from latent_geodesics.core.solvers.group import Group, History, Place

LARGEST_EXPONENT = 30.0
MOST_UNKNOWNS, DIRECTIONS = 384, (2, 10)
LEAST_CURVATURE = 0.3
FAINT = 1e-2
NEAR = 0.1  # a residual, as a share of the pull, below which the variation is that of a geodesic


@dataclass(frozen=True, kw_only=True)
class Variation:
    """The second variation at a path.

    Attributes:
        step: what removes the defect, where the variation is positive, and else descends.
        least: its least eigenvalue, in a scale in which that of a straight line in a uniform density is `pi^2`;
            negative where the path is not the shortest among its neighbours, and 0.3 where it is that or more.
        mode: the displacement that belongs to it, of unit size; zero where it is 0.3 or more.
    """

    step: Float[Tensor, "a n d"]
    least: Float[Tensor, " a"]
    mode: Float[Tensor, "a n d"]


def second_variation(group: Group) -> Variation:
    """The second variation where pairs are, from their iterates, and the step that it gives."""
    grid, seen, strength, place = group.grid, group.place.seen, group.strength, group.place
    across = grid.geometry.constant_speed
    velocity, weight, defect = seen.velocity, seen.weight(strength)[..., None], seen.turn(strength)
    squared = velocity.square().sum(-1, keepdim=True)
    curve = normal_to(velocity, seen.bend) if across else seen.bend
    basis = _basis(defect, place, group.past)
    ends = group.end_scores
    along = grid.first[1:-1] @ torch.cat([ends[:, :1], place.score, ends[:, 1:]], 1)
    hessian, rest = _hessians(grid, place, group.past, basis, along)
    hold = weight[..., 0] * seen.hold
    content = -hold[..., None, None] * hessian
    spring = grid.geometry.spring(strength, velocity, seen.pull, seen.log_density[:, 1:-1])
    if spring is not None:
        content = content + _outer(spring @ basis, spring @ basis)
    if across:
        a, k = ((part / squared) @ basis for part in (weight * seen.force, curve))
        # Far from a solution, where `k` may be anything, this keeps the variation positive: steps are surer without.
        bent = (place.relative < NEAR)[:, None, None, None] * _outer(k, k)
        content = content + squared[..., None] * (_outer(a, a) + _outer(a, k) + _outer(k, a) - bent)
    direction = unit(velocity) @ basis if across else torch.zeros_like(velocity @ basis)
    stretch = grid.geometry.stretch(strength[:, None], seen.log_density)
    system = _system(grid, stretch, content, direction, defect @ basis)
    least, mode = system.least(most=LEAST_CURVATURE)
    shift = (LEAST_CURVATURE - 1.2 * least).clamp(min=0) * (least < LEAST_CURVATURE)
    inside, mode, least, shift = (part.to(defect) for part in (system.solve(shift), mode, least, shift))
    step = inside @ basis.mT
    if basis.shape[-1] < velocity.shape[-1]:
        outside = defect - (defect @ basis) @ basis.mT
        drift = (stretch @ grid.first.T)[:, 1:-1, None]
        operator = -(grid.second[1:-1, 1:-1] + drift * grid.first[1:-1, 1:-1])
        confined = operator + torch.diag_embed(hold.clamp(min=0) * rest + (shift - grid.turned)[:, None])
        # Not `solve`: it would wait for the device to say whether a matrix is singular, and this one is not.
        step = step + torch.linalg.inv_ex(confined).inverse @ outside
    mode = mode @ basis.mT
    if across:
        step, mode = normal_to(velocity, step), normal_to(velocity, mode)
    return Variation(step=step, least=least, mode=mode)


def _outer(a: Float[Tensor, "*b k"], b: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k k"]:
    return a[..., :, None] * b[..., None, :]


def _basis(defect: Float[Tensor, "a n d"], place: Place, past: History) -> Float[Tensor, "a d k"]:
    """The directions in which a pair moves and is pulled most, over all of its knots."""
    pairs, knots, size = defect.shape
    count = min(max(MOST_UNKNOWNS // knots, DIRECTIONS[0]), DIRECTIONS[1])
    if size <= count:
        return torch.eye(size).to(defect).expand(pairs, size, size)
    rows = [defect, *(past.offsets - place.offsets)]
    tiny = torch.finfo(defect.dtype).tiny
    every = torch.cat([part / part.abs().amax((1, 2), keepdim=True).clamp(min=tiny) for part in rows], 1)
    # Either product has the eigenvalues that count; on a fine grid the knots are many, and the smaller one is taken.
    by_knots = every.shape[1] < size
    product = every @ every.mT if by_knots else every.mT @ every
    values, vectors = _largest(product.cpu().double(), count)
    kept = values > 1e-6 * values[:, -1:]
    if not by_knots:
        return (vectors * kept[:, None]).to(every)
    scale = torch.where(kept, values, 1.0).rsqrt() * kept
    found: Tensor = every.mT @ (vectors * scale[:, None]).to(every)
    return found


def _largest(matrices: Float[Tensor, "a m m"], count: int) -> tuple[Float[Tensor, "a k"], Float[Tensor, "a m k"]]:
    """The largest eigenvalues of symmetric matrices, rising, and their vectors; all would take three times as long."""
    pairs, size = matrices.shape[:2]
    count = min(count, size)
    values, vectors = matrices.new_zeros(pairs, count), matrices.new_zeros(pairs, size, count)
    for pair, matrix in enumerate(matrices.numpy()):
        # Of an iterate that is none yet, or of a pair that has not moved, the rows are zero and say nothing.
        some = np.flatnonzero(matrix.diagonal())
        first = max(len(some) - count, 0)
        if len(some):
            part, places = matrix[np.ix_(some, some)], (first, len(some) - 1)
            found = eigh(part, subset_by_index=places, driver="evx", check_finite=False)
            values[pair, count - len(some) + first :] = torch.from_numpy(found[0])
            vectors[pair, some, count - len(some) + first :] = torch.from_numpy(found[1])
    return values, vectors


def _hessians(
    grid: Collocation,
    place: Place,
    past: History,
    basis: Float[Tensor, "a d k"],
    along: Float[Tensor, "a n d"],
) -> tuple[Float[Tensor, "a n k k"], Float[Tensor, "a n"]]:
    """The derivative of the pull at each knot: on the directions of the basis, and minus it, a number, elsewhere."""
    seen, size = place.seen, norm(place.seen.velocity)[..., None]
    tangent = grid.manifold.tangent
    knots = grid.knots(place.offsets)
    dx = past.offsets - place.offsets
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
) -> "SmallSystem":
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


@dataclass(frozen=True, kw_only=True)
class SmallSystem:
    """The equation of a step across a path on a few directions of space, in float64 on the CPU.

    Twice the same operator `-(w d')' / w + C` is made: by splines, exact to a high order, for the step; and by
    differences between neighbours, which are symmetric once scaled by the root of the weight, for its least eigenvalue.
    Displacements along the path are ruled out by making them stiff.

    Attributes:
        first: from values at all knots to slopes there.
        second: from values at all knots to second derivatives there.
        stretch: the logarithm of the weight `w` at all knots.
        content: `C` at the interior knots.
        direction: that of the path, of unit size or less; zero where displacements along it count as others do.
        defect: what the step has to remove.
        turned: what the curvature of the manifold takes from the operator.
    """

    first: Float[Tensor, "k k"]
    second: Float[Tensor, "k k"]
    stretch: Float[Tensor, "a k"]
    content: Float[Tensor, "a n q q"]
    direction: Float[Tensor, "a n q"]
    defect: Float[Tensor, "a n q"]
    turned: Float[Tensor, " a"]

    def least(self, *, most: float = math.inf) -> tuple[Float[Tensor, " a"], Float[Tensor, "a n q"]]:
        """The least eigenvalue and its displacement, of unit size; of a larger one than `most`, that and zero.

        Whether it is larger takes a tenth of the time that it takes to find it.
        """
        inner, square = self.stretch[:, 1:-1], (len(self.first) - 1) ** 2
        after, before = (
            ((other - inner) / 2).clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()
            for other in (self.stretch[:, 2:], self.stretch[:, :-2])
        )
        across, own = self._across_and_own()
        size = own.shape[-1]
        own = own + (square * (after + before) - self.turned[:, None])[..., None, None] * across
        beside = -square * across[:, 1:] @ across[:, :-1]
        level = ((inner.amin(-1, keepdim=True) - inner) / 2).clamp(min=-LARGEST_EXPONENT).exp()
        values, modes = [], []
        for row in range(len(own)):
            bands = _banded(own[row].numpy(), beside[row].numpy())
            if _all_above(bands, most):
                value, vector = np.array([most]), np.zeros((bands.shape[1], 1))
            else:
                value, vector = eig_banded(bands, lower=True, select="i", select_range=(0, 0))
            values.append(float(value[0]))
            modes.append(torch.from_numpy(vector[:, 0]).reshape(-1, size))
        mode = torch.stack(modes) * level[..., None]
        norms = mode.square().sum((1, 2), keepdim=True).sqrt()
        return torch.tensor(values, dtype=torch.float64), mode / norms.clamp(min=torch.finfo(norms.dtype).tiny)

    def solve(self, shift: Float[Tensor, " a"]) -> Float[Tensor, "a n q"]:
        """The displacement that removes the defect, with a shift added to the operator; zero where there is none."""
        drift = (self.stretch @ self.first.T)[:, 1:-1, None]
        whole = self._blocks(-(self.second[1:-1, 1:-1] + drift * self.first[1:-1, 1:-1]))
        whole = whole + shift[:, None, None] * torch.eye(whole.shape[-1]).to(whole)
        found = torch.zeros_like(self.defect)
        # One after another, by numpy: torch's batched one fails in MKL where several threads share many matrices.
        for row, (matrix, defect) in enumerate(zip(whole.numpy(), self.defect.flatten(1).numpy(), strict=True)):
            try:
                found[row] = torch.from_numpy(np.linalg.solve(matrix, defect)).reshape(found.shape[1:])
            except np.linalg.LinAlgError:
                continue
        return found

    def _across_and_own(self) -> tuple[Float[Tensor, "a n q q"], Float[Tensor, "a n q q"]]:
        """What projects across the path at each knot, and `C` there, with what is along the path made stiff."""
        along = self.direction[..., :, None] * self.direction[..., None, :]
        across = torch.eye(along.shape[-1]).to(along) - along
        stiff = (math.pi * along.shape[1]) ** 2 * along
        return across, across @ ((self.content + self.content.mT) / 2) @ across + stiff

    def _blocks(self, operator: Float[Tensor, "a n n"]) -> Float[Tensor, "a m m"]:
        """The matrix over all knots and directions."""
        pairs, count, size = self.direction.shape
        across, own = self._across_and_own()
        operator = operator - self.turned[:, None, None] * torch.eye(count).to(own)
        whole = torch.einsum("aij,aikm,ajml->aikjl", operator, across, across)
        index = torch.arange(count)
        whole[:, index, :, index, :] += own.movedim(1, 0)
        return whole.reshape(pairs, count * size, count * size)


def _all_above(bands: "np.ndarray[Any, Any]", level: float) -> bool:
    """Whether all eigenvalues of a banded matrix lie above a level, by a Cholesky factorisation."""
    if math.isinf(level):
        return False
    shifted = bands.copy()
    shifted[0] -= level
    try:
        cholesky_banded(shifted, lower=True, overwrite_ab=True, check_finite=False)
    except np.linalg.LinAlgError:
        return False
    return True


def _banded(own: "np.ndarray[Any, Any]", beside: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """A symmetric matrix of blocks on its diagonal and below it, as scipy keeps its lower bands."""
    count, size = own.shape[:2]
    bands = np.zeros((2 * size, count * size))
    for i in range(size):
        for j in range(size):
            if i >= j:
                bands[i - j, j::size] = own[:, i, j]
            bands[size + i - j, j : (count - 1) * size : size] = beside[:, i, j]
    return bands
