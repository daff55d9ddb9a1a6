"""Random anisotropic mixtures by strength, a density for each pair, with the shortest length found independently.

Strength is `alpha mean|s| span` on the straight line: how much the density bends a path, whatever its unit or
dimension. In the plane the truth is fast marching's; in more dimensions that of L-BFGS on polygons from many starts.
"""

import math

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator
from scipy.optimize import minimize

import latent_geodesics as lg

LEAST_SCALE, LARGEST_SCALE = 0.3, 1.5


class Mixtures(lg.Density):
    """`alpha_i log p_i`, with a mixture of Gaussians `p_i` for each pair; solved with alpha = 1."""

    def __init__(self, means, precisions, levels, alpha):
        self.means, self.precisions, self.levels, self.alpha = means, precisions, levels, alpha

    def _terms(self, x):
        rows = (len(x), *[1] * (x.ndim - 2))
        dx = x[..., None, :] - self.means.reshape(*rows, *self.means.shape[1:])
        pull = torch.einsum("p...kd,pkde->p...ke", dx, self.precisions)
        return self.levels.reshape(*rows, -1) - 0.5 * (dx * pull).sum(-1), pull

    def log_prob(self, x, u):
        power = self.alpha.reshape(-1, *[1] * (x.ndim - 2))
        return power * torch.logsumexp(self._terms(x)[0], -1)

    def score(self, x, u):
        logs, pull = self._terms(x)
        power = self.alpha.reshape(-1, *[1] * (x.ndim - 1))
        return -power * (torch.softmax(logs, -1)[..., None] * pull).sum(-2)

    def restrict(self, pairs):
        parts = (self.means[pairs], self.precisions[pairs], self.levels[pairs], self.alpha[pairs])
        return Mixtures(*parts).share_evaluations(self)


def random_mixtures(pairs, *, d=2, seed=0, strengths=(0.5, 50.0)):
    """A field of random mixtures, its two ends and their strengths, spread evenly in the logarithm.

    Means fill a ball of radius 3, each axis of a component has a scale of its own between 0.3 and 1.5; every other pair
    of ends is drawn from components, and the others from the ball.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, uniform=False):
        return (torch.rand if uniform else torch.randn)(*shape, generator=generator, dtype=torch.float64)

    def in_ball(*shape):
        direction = torch.nn.functional.normalize(draw(*shape, d), dim=-1)
        return 3 * direction * draw(*shape, 1, uniform=True) ** (1 / d)

    count = 6
    means = in_ball(pairs, count)
    scales = LEAST_SCALE * (LARGEST_SCALE / LEAST_SCALE) ** draw(pairs, count, d, uniform=True)
    axes = torch.linalg.qr(draw(pairs, count, d, d))[0]
    precisions = axes @ torch.diag_embed(scales**-2) @ axes.mT
    weights = torch.where(draw(pairs, count, uniform=True) < 0.75, draw(pairs, count, uniform=True) + 0.1, 1e-12)
    levels = weights.log() - scales.log().sum(-1)
    chosen = torch.stack([torch.randperm(count, generator=generator)[:2] for _ in range(pairs)])
    rows = torch.arange(pairs)[:, None]
    within = means[rows, chosen] + ((axes * scales[..., None, :])[rows, chosen] @ draw(pairs, 2, d, 1))[..., 0]
    ends = torch.where((rows % 2 == 0)[..., None], within, in_ball(pairs, 2))
    plain = Mixtures(means, precisions, levels, torch.ones(pairs, dtype=torch.float64))
    low, high = strengths
    wanted = low * (high / low) ** draw(pairs, uniform=True)
    field = Mixtures(means, precisions, levels, wanted / strength(plain, ends[:, 0], ends[:, 1]))
    return field, ends[:, 0], ends[:, 1], wanted


def strength(field, x0, x1):
    """The mean of the score's norm on the straight line times the length of the line."""
    u = torch.linspace(0, 1, 401, dtype=torch.float64)
    line = torch.lerp(x0[:, None], x1[:, None], u[:, None])
    return field.score(line, u.expand(line.shape[:-1])).norm(dim=-1).mean(-1) * (x1 - x0).norm(dim=-1)


def exact_length(path, field, pieces=4000):
    """`int p^-1 |g'| du` relative to the start, from the density itself by the midpoint rule."""
    u = (torch.arange(pieces, dtype=torch.float64) + 0.5) / pieces
    x, v = path.point(u).double(), path.velocity(u).double()
    start = path.point(torch.zeros(1, dtype=torch.float64)).double()
    fall = field.log_prob(start, start[..., 0]) - field.log_prob(x, x[..., 0])
    return (fall.exp() * v.norm(dim=-1)).mean(-1)


def by_fast_marching(field, x0, x1, *, points=500, levels=3):
    """The distance of each pair in the plane, relative to the start as `exact_length` is; good to 2e-3.

    Where the arrivals from both ends add up to least. Close to an end, where they rise steeply, a grid of the same
    points on a twelfth of the width begins the front of the wider one.
    """
    found = []
    for pair in range(len(x0)):
        some, ends = field.restrict(torch.tensor([pair])), torch.stack([x0[pair], x1[pair]])
        around = torch.cat([ends, some.means[0]])
        middle, width = (around.amax(0) + around.amin(0)) / 2, float((around.amax(0) - around.amin(0)).max()) + 2.0
        steps = (torch.arange(points, dtype=torch.float64) / (points - 1) - 0.5) * width
        axes = [middle[axis] + steps for axis in (0, 1)]
        heights = some.log_prob(ends[None], ends[None, :, 0])[0]
        try:
            first, second = (_arrivals(some, end, at, axes, levels - 1) for end, at in zip(ends, heights, strict=True))
        except ValueError:  # a front too narrow for the wider grid; rare, and no reason to leave the others out
            found.append(math.nan)
            continue
        found.append(float(np.min(first + second * float((heights[0] - heights[1]).exp()))))
    return torch.tensor(found, dtype=torch.float64)


def _arrivals(field, source, level, axes, finer):
    """How long from the source to each point of a grid, at a speed of the density's that is one at the source.

    Speeds below 1e-16 are taken for walls.
    """
    step = float(axes[0][1] - axes[0][0])
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    speed = (field.log_prob(grid[None], grid[None, ..., 0])[0] - level).clamp(-80, 12).exp().numpy()
    if not finer:
        circle = (grid - source).norm(dim=-1).numpy() - 4 * step
        return 4 * step + _march(circle, speed, step)
    half = len(axes[0]) * step / 24
    inner = torch.linspace(-half, half, len(axes[0]) | 1, dtype=torch.float64)
    near = _arrivals(field, source, level, [source[0] + inner, source[1] + inner], finer - 1)
    edge = np.concatenate([near[0], near[-1], near[:, 0], near[:, -1]])
    reached = RegularGridInterpolator(
        [np.asarray(source[axis] + inner) for axis in (0, 1)], np.minimum(near, 1e300), bounds_error=False
    )(grid.numpy())
    start = 0.95 * float(edge.min())
    front = np.where(np.isnan(reached), start, reached - start)
    return start + _march(np.minimum(front, start), speed, step)


def _march(front, speed, step):
    """Times from the zero of `front`; where they hardly differ the second order is rounding, and leads anywhere."""
    import skfmm

    first, second = (np.ma.filled(skfmm.travel_time(front, speed, dx=step, order=order), np.inf) for order in (1, 2))
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(second - first) < 0.2 * first, second, first)


def by_minimisation(field, x0, x1, *, starts=8, segments=48, seed=0):
    """The least length of each pair among polygons that L-BFGS finds from random bulges of the line; good to 1e-3."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.linspace(0, 1, segments + 1, dtype=torch.float64)
    found = []
    for pair in range(len(x0)):
        some, a, b = field.restrict(torch.tensor([pair])), x0[pair], x1[pair]
        level, span = some.log_prob(a[None, None], a[None, None, 0])[0, 0], (b - a).norm()
        least = math.inf
        for start in range(starts):
            bulge = torch.randn(2, len(a), generator=generator, dtype=torch.float64)
            bulge = 0.35 * bulge / bulge.norm(dim=-1, keepdim=True) * span * (start > 0)
            shape = torch.stack([(math.pi * u).sin(), 0.5 * (2 * math.pi * u).sin()], -1)
            knots = torch.lerp(a, b, u[:, None]) + shape @ bulge
            least = min(least, _shortened(some, knots, level))
        found.append(least)
    return torch.tensor(found, dtype=torch.float64)


def _shortened(field, knots, level):
    """The length of a polygon after L-BFGS on `E = int p^-2 |g'|^2`, whose root is the length where it is least."""

    def costs(inner, points=3):
        nodes, weights = (torch.tensor(part) for part in np.polynomial.legendre.leggauss(points))
        nodes, weights = (nodes + 1) / 2, weights / 2
        whole = torch.cat([knots[:1], inner, knots[-1:]])
        steps = whole.diff(dim=0)
        x = whole[:-1, None] + nodes[:, None] * steps[:, None]
        fall = level - field.log_prob(x.reshape(1, -1, x.shape[-1]), x.new_zeros(1, x.shape[0] * len(nodes)))
        return (fall.clamp(-60, 60).exp().reshape(-1, len(nodes)) @ weights) * steps.norm(dim=-1)

    shape = knots[1:-1].shape

    def energy(flat):
        inner = torch.tensor(flat).reshape(shape).requires_grad_(True)
        # The logarithm keeps the scale of the steps where the length changes by orders of magnitude.
        value = (costs(inner).square().sum() * len(knots)).log() / 2
        (gradient,) = torch.autograd.grad(value, inner)
        return float(value.detach()), gradient.flatten().numpy()

    result = minimize(energy, knots[1:-1].flatten().numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 800})
    # Measured finely: a long segment may have passed what a few points of it do not see.
    return float(costs(torch.tensor(result.x).reshape(shape), points=64).sum())
