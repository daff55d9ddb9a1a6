"""Linear combinations of latents that stay distributed as latents."""

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.manifold import Euclidean, Manifold
from latent_geodesics.core.records import BoundaryProblem, Solution
from latent_geodesics.methods.curves import FormulaPath
from latent_geodesics.methods.lines import ClosedForm, known_solution

__all__ = ["LinearCombination"]


class LinearCombination(ClosedForm):
    """`x(u) = (w_0 x_A + w_1 x_B) / sqrt(w_0^2 + w_1^2)` with `w = (1-u, u)`.

    If both latents are independent and N(0, I), so is every point of the path. Latents inverted from images are neither
    quite independent nor quite normal: their norm rises a little on the way where they are alike.

    References:
        Bodin et al. 2024, Linear combinations of latents in generative models, arXiv 2408.08558.
    """

    def solve(self, problem: BoundaryProblem) -> Solution:
        """The path by its formula."""
        x0, x1 = problem.x0[:, None], problem.x1[:, None]

        def formula(u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
            at = u.to(x0)[:, None]
            return ((1 - at) * x0 + at * x1) / ((1 - at).square() + at.square()).sqrt()

        return known_solution(FormulaPath(formula=formula, pairs=len(x0)))

    def manifold(self, problem: BoundaryProblem) -> Manifold:
        """The flat space around the sphere."""
        return Euclidean()
