r"""The geometry of a density along a path, as pure functions.

With `p` the density, `s = grad log p` and `alpha` the power on `p` (an inverse temperature):

- length: `S[g] = int p(g)^-alpha |g'| du`, the metric `p^(-2 alpha) I`;
- its gradient: `-p^-alpha |g'| P_v (alpha s + g'' / |g'|^2)`, with `P_v = I - v v^T` and `v = g' / |g'|`, on a sphere
  projected on the tangent space;
- log-density along the path: `log p(g(b)) - log p(g(a)) = int_a^b g' . s du`; `closure` says whether a score has one.

Where a function takes `alpha`, it also takes a `Geometry` (`geometries`), and measures by that.

Quadrature is Gauss-Legendre on the pieces between a path's breaks; `density_profile` also states the error that its
quadrature makes. Log-densities are in nats.

References:
    Yu et al., Probability Density Geodesics in Image Diffusion Latent Space (2025), arXiv 2504.06675.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.fields import Density, ScoreField
from latent_geodesics.core.geometries import Conformal, Geometry, Sight
from latent_geodesics.core.manifold import Manifold, norm, normal_to, unit
from latent_geodesics.core.path import Path, gauss_kronrod, gauss_legendre

__all__ = [
    "DensityProfile",
    "Estimate",
    "as_geometry",
    "closure",
    "curvature_along",
    "density_profile",
    "length",
    "norm",
    "normal_to",
    "relative_length",
    "relative_log_density",
    "residual",
    "score_along",
    "unit",
]

ROUNDINGS = 50


@dataclass(frozen=True)
class Estimate:
    """Integrals with the error of their quadrature, both in one unit."""

    value: Float[Tensor, " p"]
    error: Float[Tensor, " p"]


@dataclass(frozen=True)
class DensityProfile:
    """The density along paths, by the line integral of the score.

    Attributes:
        u: the positions 0 and 1 and the nodes of the quadrature between them, in increasing order, five a piece.
        widths: the length in `u` of each piece.
        log_density: `log p(g(u))` less its value at the start of the path (`closed` changes that level), in nats.
        error: by how much the quadrature may be off, in nats: over the pieces so far, the sum of the differences
            between two Gauss-Kronrod rules, or of the rounding where that is larger. The score's own error comes on
            top.
        speed: `|g'|`.
        rates: `g' . s` at the nodes of each piece; None where it is not known.
    """

    u: Float[Tensor, " m"]
    widths: Float[Tensor, " k"]
    log_density: Float[Tensor, "p m"]
    error: Float[Tensor, "p m"]
    speed: Float[Tensor, "p m"]
    rates: Float[Tensor, "p k 5"] | None = None

    @property
    def change(self) -> Estimate:
        """`log p` at the end of each path less that at its start."""
        return Estimate(self.log_density[:, -1] - self.log_density[:, 0], self.error[:, -1])

    def closed(self, start: Float[Tensor, " p"], end: Float[Tensor, " p"]) -> "DensityProfile":
        """The profile with given log-densities at both ends; the misfit is spread evenly over `u`.

        So are the legs of a traverse closed in surveying. Run backwards the path has the same profile, run backwards.
        """
        first, misfit = self.log_density[:, :1], self.misfit(start, end)
        spread = misfit[:, None] * self.u.to(misfit)
        return replace(self, log_density=self.log_density - first + start.to(misfit)[:, None] + spread)

    def misfit(self, start: Float[Tensor, " p"], end: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """By how much the line integral misses given log-densities at both ends, in nats.

        Zero, up to `error`, for the score of a density. Where no log-density is known, the line integral along another
        path between the same ends takes its place: see `closure`.
        """
        change = self.change.value
        return end.to(change) - start.to(change) - change

    def length(self, alpha: float | Geometry) -> Estimate:
        """The length, with the log-density of this profile: `int e^(-alpha log p) |g'| du`, or that of a geometry.

        Its error holds that of `log p` too, as far as it enters by a factor equal in all directions.
        """
        geometry = as_geometry(alpha)
        inside = geometry.refer(self.log_density)[:, 1:-1]
        rates = torch.zeros_like(inside) if self.rates is None else self.rates.flatten(1)
        cost = geometry.line_element(geometry.strength, speed=self.speed[:, 1:-1], rate=rates, log_density=inside)
        value, error, _ = _kronrod(cost.reshape(len(cost), len(self.widths), -1), self.widths)
        total = value.sum(-1)
        return Estimate(total, error.sum(-1) + geometry.power * self.error[:, -1] * total)


def density_profile(path: Path, field: ScoreField, *, pieces: int = 1) -> DensityProfile:
    """The density along paths with its quadrature error, by Gauss-Kronrod rules on the pieces between their breaks.

    Args:
        path: the paths.
        field: the score; evaluated at five points on each piece.
        pieces: the least number of pieces; a path has one between any two of its breaks.
    """
    cells = _refine(path.breaks, pieces)
    rule, _, _ = gauss_kronrod()
    widths = cells.diff()
    nodes = (cells[:-1, None] + widths[:, None] * rule).flatten()
    u = torch.cat([nodes.new_zeros(1), nodes, nodes.new_ones(1)])
    speed = norm(path.velocity(u))
    rates = _power_along(path, field, nodes).double().reshape(path.pairs, len(widths), -1)
    whole, error, rounding = _kronrod(rates, widths)
    before, wrong = whole.cumsum(-1), torch.maximum(error, rounding * torch.finfo(speed.dtype).eps).cumsum(-1)
    inner = torch.einsum("pkj,ij->pki", rates, _cumulative(rule).to(rates)) * widths.to(rates)[:, None]
    inner = inner + (before - whole)[..., None]
    none = torch.zeros_like(before[:, :1])
    return DensityProfile(
        u=u,
        widths=widths,
        log_density=torch.cat([none, inner.flatten(-2), before[:, -1:]], dim=-1),
        error=torch.cat([none, wrong.repeat_interleave(len(rule), dim=-1), wrong[:, -1:]], dim=-1),
        speed=speed.double(),
        rates=rates,
    )


def closure(path: Path, field: ScoreField, reference: Path, *, pieces: int = 16) -> Estimate:
    """The line integral of the score along paths less that along others between the same ends, in nats.

    Zero, up to its error, if the score is the gradient of one log-density; what a network gives is not quite, and where
    the condition moves along the path it is not at all. Costs five evaluations on each piece of either path.

    Args:
        path: the paths.
        field: the score.
        reference: the other paths, such as the shortest ones of the manifold.
        pieces: the least number of pieces of each.
    """
    ours, theirs = (density_profile(each, field, pieces=pieces).change for each in (path, reference))
    return Estimate(ours.value - theirs.value, ours.error + theirs.error)


def length(
    path: Path, density: Density, alpha: float | Geometry, *, order: int = 16, pieces: int = 16
) -> Float[Tensor, " p"]:
    """`int p(g)^-alpha |g'| du`, or the length that a geometry gives.

    Args:
        path: the paths.
        density: `p`, whose log-density is needed up to a constant `c`; the length then carries a factor `e^(-alpha c)`.
        alpha: the power on `p`, or a geometry.
        order: points of the Gauss rule on each piece.
        pieces: the least number of pieces.
    """
    cells = _refine(path.breaks, pieces)
    nodes, weights = _quadrature(cells, order)
    x, v = path.point(nodes), path.velocity(nodes)
    geometry = as_geometry(alpha)
    log_p = density.log_prob(x, _broadcast(nodes, x)).double()
    if geometry.needs_density:
        ends = path.point(cells[[0, -1]])
        outer = density.log_prob(ends, _broadcast(cells[[0, -1]], ends)).double()
        log_p = geometry.refer(torch.cat([outer[:, :1], log_p, outer[:, 1:]], -1))[:, 1:-1]
    speed = norm(v).double()
    rate = (density.score(x, _broadcast(nodes, x)) * v).sum(-1).double() if geometry.needs_curvature else speed
    cost = geometry.line_element(geometry.strength, speed=speed, rate=rate, log_density=log_p)
    return (cost * weights.to(log_p)).sum(-1).to(x.dtype)


def relative_length(path: Path, field: ScoreField, alpha: float | Geometry, *, order: int = 4) -> Float[Tensor, " p"]:
    """`int p~(g)^-alpha |g'| du`, with `p~ = p / p(g(0))` from the line integral of the score; or that of a geometry.

    The distance relative to the start point: it needs no log-density. Costs `order` evaluations on each piece between
    the path's breaks.
    """
    geometry = as_geometry(alpha)
    nodes, weights = _quadrature(path.breaks, order)
    power = _power_along(path, field, nodes)
    widths = path.breaks.diff().to(power)
    rates = power.reshape(*power.shape[:-1], len(widths), order)
    steps = _cumulative(gauss_legendre(order)[0]).to(power)
    inner = torch.einsum("pkj,ij->pki", rates, steps) * widths[:, None]
    before = (rates @ _quadrature(path.breaks[[0, -1]], order)[1].to(power)) * widths
    whole = before.cumsum(-1)
    before = whole - before
    log_p = (inner + before[..., None]).flatten(-2).double()
    log_p = geometry.refer(torch.cat([torch.zeros_like(log_p[:, :1]), log_p, whole[:, -1:].double()], -1))[:, 1:-1]
    speed = norm(path.velocity(nodes)).double()
    cost = geometry.line_element(geometry.strength, speed=speed, rate=power.double(), log_density=log_p)
    return (cost * weights.to(log_p)).sum(-1).to(power.dtype)


def relative_log_density(
    path: Path, field: ScoreField, u: Float[Tensor, " n"], *, order: int = 4
) -> Float[Tensor, "p n"]:
    """`log p(g(u)) - log p(g(0)) = int_0^u g' . s du`, in nats.

    For a field that varies along the path this is the line integral of the score that holds at each position; it is
    then no difference of one log-density, and depends on the path.

    Args:
        path: the paths.
        field: the score; evaluated at `order` points on each piece between neighbours among `u` and the path's breaks.
        u: positions in [0, 1], in any order.
        order: points of the Gauss rule on each piece.
    """
    at = u.detach().to("cpu", torch.float64)
    breaks = path.breaks
    edges = torch.unique(torch.cat([breaks[breaks < at.max()], at, at.new_zeros(1)]))
    if len(edges) == 1:
        return torch.zeros_like(path.point(u)[..., 0])
    nodes, weights = _quadrature(edges, order)
    steps = _power_along(path, field, nodes) * weights.to(path.point(u[:1]))
    steps = steps.reshape(*steps.shape[:-1], len(edges) - 1, order).sum(-1)
    total = torch.nn.functional.pad(steps.cumsum(-1), (1, 0))
    return total[..., torch.searchsorted(edges, at).to(total.device)]


def residual(
    path: Path,
    field: ScoreField,
    manifold: Manifold,
    alpha: float | Float[Tensor, " p"] | Geometry,
    u: Float[Tensor, " n"],
) -> Float[Tensor, "p n"]:
    """`|P_v (alpha s + g'' / |g'|^2)|`, the norm of the geodesic gradient; zero on a geodesic; its unit is 1/[x].

    In another geometry `|P_v (w f + g'' / |g'|^2)|`, of its weight `w` and its force `f`: how far the path is from
    turning as it should.

    Args:
        path: the paths.
        field: the score `s`; evaluated once at each position. A geometry that asks for `v^T H v` takes two more
            evaluations at each, one that asks for `log p` those of `relative_log_density`.
        manifold: the space of the path; on a sphere score and acceleration are projected on the tangent space.
        alpha: the power on `p`, one number or one for each pair; or a geometry.
        u: positions in [0, 1].
    """
    x, v = path.point(u), path.velocity(u)
    geometry = as_geometry(alpha)
    own = geometry.strength if isinstance(alpha, Geometry) else alpha
    strength = torch.as_tensor(own, dtype=x.dtype, device=x.device).reshape(-1, 1)
    acceleration = manifold.tangent(x, path.acceleration(u))
    s = manifold.tangent(x, score_along(field, x, u))
    sight = Sight(
        velocity=v,
        pull=s,
        curvature=curvature_along(path, field, u) - (s * acceleration).sum(-1) if geometry.needs_curvature else None,
        log_density=_referred(geometry, path, field, u) if geometry.needs_density else None,
    )
    bend = acceleration / v.square().sum(-1, keepdim=True)
    power = geometry.weight(strength, geometry.gauge(sight))
    return norm(normal_to(v, power[..., None] * geometry.force(sight) + bend))


def as_geometry(alpha: float | Float[Tensor, " p"] | Geometry) -> Geometry:
    """The geometry itself, or that of a power on `p`."""
    if isinstance(alpha, Geometry):
        return alpha
    return Conformal(alpha=1.0 if isinstance(alpha, Tensor) else alpha)


def curvature_along(path: Path, field: ScoreField, u: Float[Tensor, " n"]) -> Float[Tensor, "p n"]:
    """`d(s . g') / du`, the second derivative of the log-density along paths, by differences.

    Args:
        path: the paths.
        field: the score; evaluated at three points at each position, apart by the cube root of the rounding of `x`.
        u: positions in [0, 1].
    """
    like = path.point(u[:1])
    step = torch.finfo(like.dtype).eps ** (1 / 3)
    at = u.detach().to("cpu", torch.float64)
    # At an end the three points lie on one side of it.
    middle = at.clamp(step, 1 - step)
    nodes = torch.stack([middle - step, middle, middle + step], -1)
    inside = ((at - middle) / step)[:, None]
    weights = torch.cat([inside - 0.5, -2 * inside, inside + 0.5], -1) / step
    rates = _power_along(path, field, nodes.flatten()).double().reshape(len(like), len(at), 3)
    curvature: Tensor = (rates * weights.to(rates)).sum(-1)
    return curvature.to(like)


def _referred(geometry: Geometry, path: Path, field: ScoreField, u: Float[Tensor, " n"]) -> Float[Tensor, "p n"]:
    """The log-density at positions, relative to what the geometry refers it to."""
    at = u.detach().to("cpu", torch.float64)
    every = torch.cat([at.new_zeros(1), at, at.new_ones(1)])
    return geometry.refer(relative_log_density(path, field, every))[:, 1:-1]


def score_along(field: ScoreField, x: Float[Tensor, "p n d"], u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
    """The score at points whose position on the path is `u`, the same for all pairs."""
    return field.score(x, _broadcast(u, x))


def _power_along(path: Path, field: ScoreField, u: Float[Tensor, " n"]) -> Float[Tensor, "p n"]:
    """`g' . s`, the rate at which the log-density changes along the path."""
    return (path.velocity(u) * score_along(field, path.point(u), u)).sum(-1)


def _broadcast(u: Float[Tensor, " n"], x: Float[Tensor, "p n d"]) -> Float[Tensor, "p n"]:
    return u.to(x).expand(x.shape[:-1])


def _refine(breaks: Float[Tensor, " m"], pieces: int) -> Float[Tensor, " k"]:
    """The breaks, and enough evenly spaced ones between them to make at least `pieces` pieces."""
    each = -(-pieces // (len(breaks) - 1))
    steps = torch.arange(each, dtype=torch.float64) / each
    inner = breaks[:-1, None] + breaks.diff()[:, None] * steps
    return torch.cat([inner.flatten(), breaks[-1:]])


def _quadrature(edges: Float[Tensor, " m"], order: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the composite Gauss rule on the pieces between `edges`."""
    nodes, weights = gauss_legendre(order)
    widths = edges.diff()[:, None]
    return (edges[:-1, None] + widths * nodes).flatten(), (widths * weights).flatten()


def _kronrod(values: Float[Tensor, "p k 5"], widths: Float[Tensor, " k"]) -> tuple[Tensor, Tensor, Tensor]:
    """On each piece: the integral, its difference from the lower rule, and the size that its rounding goes with."""
    _, weights, lower = (rule.to(values) for rule in gauss_kronrod())
    widths = widths.to(values)
    whole = (values @ weights) * widths
    return whole, (whole - (values @ lower) * widths).abs(), ROUNDINGS * (values.abs() @ weights) * widths


def _cumulative(nodes: Float[Tensor, " q"]) -> Float[Tensor, "q q"]:
    """The matrix from values at nodes of [0, 1] to the integrals of their interpolant from 0 to each node."""
    powers = torch.arange(len(nodes), dtype=torch.float64)
    integrals = nodes[:, None] ** (powers + 1) / (powers + 1)
    matrix: Tensor = integrals @ torch.linalg.inv(nodes[:, None] ** powers)
    return matrix
