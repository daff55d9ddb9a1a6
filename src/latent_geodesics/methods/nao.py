"""Norm-guided paths: short, and through norms that a Gaussian latent is likely to have.

A latent z ~ N(0, I) of dimension d has a norm with the chi density p(r) = r^(d-1) exp(-r^2/2) / (2^(d/2-1) Gamma(d/2)).
The path minimises

    integral of -log p(|z|) |dz|.

The integrand depends on the norm alone, so the path stays in the plane of its two ends; there it is a polygon with
evenly spaced angles whose norms are found by L-BFGS, in float64.

References:
    Samuel et al. 2023, Norm-guided latent space exploration for text-to-image generation, arXiv 2306.08687.

Deviation: the paper's latents are seeds at full noise; here they are those of noise level tau, as for every method.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.manifold import Euclidean
from latent_geodesics.core.path import KnotPath
from latent_geodesics.core.records import BoundaryProblem, Solution, Status
from latent_geodesics.methods.lines import ClosedForm, known_solution


class NormGuided(ClosedForm):
    """Creates the norm-guided method (NAO).

    Args:
        knots: Points of the polygon, at least 3.
        iterations: The most iterations of L-BFGS.
    """

    flat = True

    def __init__(self, *, knots: int = 129, iterations: int = 300) -> None:
        if knots < 3 or iterations < 1:
            raise UserError(f"the norm-guided path needs knots >= 3 and iterations >= 1, got {knots} and {iterations}.")
        self.knots, self.iterations = knots, iterations

    def solve(self, problem: BoundaryProblem) -> Solution:
        """The path of each pair, found by itself."""
        knots = torch.stack([self._knots(x0, x1) for x0, x1 in zip(problem.x0, problem.x1, strict=True)])
        return known_solution(KnotPath.through(knots=knots, manifold=Euclidean()), status=Status.OPTIMISED)

    def _knots(self, x0: Float[Tensor, " d"], x1: Float[Tensor, " d"]) -> Float[Tensor, "k d"]:
        a, b = x0.detach().cpu().double(), x1.detach().cpu().double()
        along = a / a.norm()
        across = b - (b @ along) * along
        angle = torch.atan2(across.norm(), b @ along)
        across = across / across.norm().clamp_min(torch.finfo(torch.float64).tiny)
        angles = torch.linspace(0, 1, self.knots, dtype=torch.float64) * angle
        plane = _evenly_spaced(self._polygon(a.norm(), b.norm(), angles, len(a)))
        points = plane @ torch.stack([along, across])
        return torch.cat([x0[None], points[1:-1].to(x0), x1[None]])

    def _polygon(self, r0: Tensor, r1: Tensor, angles: Float[Tensor, " k"], d: int) -> Float[Tensor, "k 2"]:
        """The cheapest polygon with these angles, in the plane of the ends."""
        inner = torch.linspace(0, 1, self.knots, dtype=torch.float64)[1:-1] * (r1 - r0) + r0
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        with torch.inference_mode(False), torch.enable_grad():
            norms = inner.clone().requires_grad_()
            optimizer = torch.optim.LBFGS([norms], max_iter=self.iterations, line_search_fn="strong_wolfe")

            def polygon() -> Float[Tensor, "k 2"]:
                return torch.cat([r0[None], norms, r1[None]])[:, None] * directions

            def cost() -> Float[Tensor, ""]:
                optimizer.zero_grad()
                total = _cost(polygon(), d)
                total.backward()  # type: ignore[no-untyped-call]
                return total

            optimizer.step(cost)  # type: ignore[no-untyped-call]
        return polygon().detach()


def _cost(points: Float[Tensor, "k m"], d: int) -> Float[Tensor, ""]:
    """The integral along a polygon, by Simpson's rule on each side: the middle alone would let the corners stray."""
    middle = (points[1:] + points[:-1]) / 2
    at_corners, at_middle = (-_log_chi(x.norm(dim=-1), d) for x in (points, middle))
    average = (at_corners[1:] + 4 * at_middle + at_corners[:-1]) / 6
    total: Tensor = (average * (points[1:] - points[:-1]).norm(dim=-1)).sum()
    return total


def _log_chi(r: Float[Tensor, " n"], d: int) -> Float[Tensor, " n"]:
    """The logarithm of the chi density with d degrees of freedom."""
    return (d - 1) * r.log() - r.square() / 2 - (d / 2 - 1) * math.log(2) - math.lgamma(d / 2)


def _evenly_spaced(points: Float[Tensor, "k 2"]) -> Float[Tensor, "k 2"]:
    """As many points on the same polygon, at equal distances along it."""
    lengths = (points[1:] - points[:-1]).norm(dim=-1)
    along = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    wanted = torch.linspace(0, 1, len(points), dtype=points.dtype) * along[-1]
    right = torch.searchsorted(along, wanted).clamp(1, len(points) - 1)
    share = (wanted - along[right - 1]) / lengths[right - 1].clamp_min(torch.finfo(points.dtype).tiny)
    return torch.lerp(points[right - 1], points[right], share.clamp(0, 1)[:, None])
