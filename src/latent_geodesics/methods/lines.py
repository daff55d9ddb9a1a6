"""Paths in closed form: the two lines that every paper compares with, and others that are given by a formula.

They cost no evaluation of the score.
"""

from dataclasses import fields
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.manifold import Euclidean, Manifold
from latent_geodesics.core.path import Path, StraightLine, shortest_path
from latent_geodesics.core.records import BoundaryProblem, Solution, Status, Trace
from latent_geodesics.methods.base import CurveMethod, PathMethod
from latent_geodesics.methods.curves import FormulaPath, adain, slerp
from latent_geodesics.methods.encoding import EncodedPairs


class _Unsolved(CurveMethod):
    """A path that needs no solving.

    Attributes:
        flat: Whether the path leaves the sphere for the flat space around it.
    """

    flat: ClassVar[bool] = False

    def manifold(self, problem: BoundaryProblem) -> Manifold:
        """The flat space around the sphere, or the sphere."""
        return Euclidean() if self.flat else problem.manifold


class ClosedForm(_Unsolved, PathMethod):
    """A path that needs no solving, of the boundary value problem alone."""


class Lerp(ClosedForm):
    """The straight line x(u) = (1-u) x_A + u x_B. It leaves the sphere: at its middle the norm is too small."""

    flat = True

    def solve(self, problem: BoundaryProblem) -> Solution:
        """The straight line."""
        return known_solution(StraightLine(x0=problem.x0, x1=problem.x1))


class Slerp(ClosedForm):
    """The great circle between the two latents (Shoemake 1985), the angle taken over the whole flat latent."""

    def solve(self, problem: BoundaryProblem) -> Solution:
        """The great circle."""
        return known_solution(shortest_path(problem.manifold, problem.x0, problem.x1))


def known_solution(path: Path, *, status: Status = Status.CLOSED_FORM, **stats: Float[Tensor, " p"]) -> Solution:
    """A path that needs no solving, with the numbers that are told of it besides."""
    none = torch.zeros(path.pairs)
    empty = torch.empty(0, path.pairs)
    return Solution(
        path=path,
        status=(status,) * path.pairs,
        stats={"evaluations": none, "iterations": none, **stats},
        trace=Trace(**{column.name: empty for column in fields(Trace)}),
    )


class LinearCombination(ClosedForm):
    """`x(u) = (w_0 x_A + w_1 x_B) / sqrt(w_0^2 + w_1^2)` with `w = (1-u, u)`.

    If both latents are independent and N(0, I), so is every point of the path. Latents inverted from images are neither
    quite independent nor quite normal: their norm rises a little on the way where they are alike.

    References:
        Bodin et al. 2024, Linear combinations of latents in generative models, arXiv 2408.08558.
    """

    flat = True

    def solve(self, problem: BoundaryProblem) -> Solution:
        """The path by its formula."""
        x0, x1 = problem.x0[:, None], problem.x1[:, None]

        def formula(u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
            at = u.to(x0)[:, None]
            return ((1 - at) * x0 + at * x1) / ((1 - at).square() + at.square()).sqrt()

        return known_solution(FormulaPath(formula=formula, pairs=len(x0)))


class AdainSlerp(_Unsolved):
    """`AdaIN(slerp(x_A, x_B, u))`: each channel's mean and deviation move linearly from the one image's to the other's.

    A blend of two noisy latents has other colours and contrast than either; this gives them back (Zhang et al. 2023,
    arXiv 2312.07409, section 4.2, there within DiffMorpher).
    """

    flat = True

    def solution(self, pairs: EncodedPairs) -> Solution:
        """The path by its formula."""
        x0, x1, channels = pairs.problem.x0, pairs.problem.x1, pairs.model.latent_shape[0]

        def formula(u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
            return adain(slerp(x0, x1, u), x0, x1, u, channels=channels)

        return known_solution(FormulaPath(formula=formula, pairs=len(x0)))
