"""The great circle with the channel statistics of both ends blended in."""

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.manifold import Euclidean, Manifold
from latent_geodesics.core.records import BoundaryProblem, Solution
from latent_geodesics.methods.base import CurveMethod
from latent_geodesics.methods.curves import FormulaPath, adain, slerp
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.methods.lines import known_solution
from latent_geodesics.methods.statuses import CLOSED_FORM

__all__ = ["AdainSlerp"]


class AdainSlerp(CurveMethod):
    """`AdaIN(slerp(x_A, x_B, u))`: each channel's mean and deviation move linearly from the one image's to the other's.

    A blend of two noisy latents has other colours and contrast than either; this gives them back (Zhang et al. 2023,
    arXiv 2312.07409, section 4.2, there within DiffMorpher).
    """

    def solution(self, pairs: EncodedPairs) -> Solution:
        """The path by its formula."""
        x0, x1, channels = pairs.problem.x0, pairs.problem.x1, pairs.model.latent_shape[0]

        def formula(u: Float[Tensor, " n"]) -> Float[Tensor, "p n d"]:
            return adain(slerp(x0, x1, u), x0, x1, u, channels=channels)

        return known_solution(FormulaPath(formula=formula, pairs=len(x0)))

    def manifold(self, problem: BoundaryProblem) -> Manifold:
        """The flat space around the sphere."""
        return Euclidean()

    def statuses(self, solution: Solution) -> tuple[str, ...]:
        """Nothing was solved, so nothing converged."""
        return (CLOSED_FORM,) * solution.path.pairs
