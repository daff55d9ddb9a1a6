"""The geodesic of the density, in whichever geometry and by whichever boundary solver is given.

It is that of the run's problem, or, by `Reposed`, of one that has latents, a density and a power of its own.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.records import BoundaryProblem, Solution
from latent_geodesics.core.solvers import BoundarySolver
from latent_geodesics.methods.base import CurveMethod, Meter, Morph, PathMethod, TimedMethod
from latent_geodesics.methods.conditions import (
    GeometryChoice,
    PathCondition,
    check_path_condition,
    geometry_of,
    power_of_density,
)
from latent_geodesics.methods.encoding import EncodedPairs, PairEncoder
from latent_geodesics.methods.timing import Timing
from latent_geodesics.models.scores import Score


class Geodesic(PathMethod):
    """The path whose length in a geometry is stationary, of one density: int p^-alpha |g'| du, or another geometry's.

    At constant speed it satisfies g'' + alpha |g'|^2 P_v s(g) = 0 (Yu et al. 2025, arXiv 2504.06675). Under a condition
    that moves along the path (see `methods.conditions`) that is but the normal part of the Euler-Lagrange equation: its
    solution is still what is found, but it minimises nothing, and has no length.

    Args:
        solver: What finds it; with `ControlPointDescent` this is the paper's descent, on whatever score the run has.
            The paper's method with its own score and settings is `Reposed`.
        sphere: Whether it must stay on the sphere on which noisy latents lie; without it the same ends are joined
            through the flat space around the sphere.
        geometry: The geometry; the problem's own if not given.
    """

    def __init__(self, *, solver: BoundarySolver, sphere: bool = True, geometry: GeometryChoice = None) -> None:
        self.solver, self.flat, self.geometry = solver, not sphere, geometry

    def solve(self, problem: BoundaryProblem) -> Solution:
        """Runs the solver on all pairs of the batch together."""
        if self.flat or self.geometry is not None:
            own = problem.geometry
            problem = BoundaryProblem(
                field=problem.field,
                manifold=self.manifold(problem),
                x0=problem.x0,
                x1=problem.x1,
                geometry=own if self.geometry is None else geometry_of(self.geometry, own.power),
            )
        return self.solver.solve(problem)


class Reposed(TimedMethod):
    """Encodes the images anew by settings of its own, and runs a path method there.

    Published settings come together: a score, its power, an inversion, embeddings. With those of `conf/method/
    geodesic_published.yaml` this is the method of Yu et al. 2025 (arXiv 2504.06675) as its code has it, beside the same
    descent on the run's own score. What is encoded here counts in the cost.

    Deviation of those settings: every re-noised point draws its own diffusion time, where the published code draws one
    for ten points. The levels of tau and the steps of DDIM are the run's.

    Args:
        method: What draws the path.
        score: The score that makes the geometry.
        alpha_d: Power of the density times the dimension; None where `alpha` is given.
        alpha: The power itself.
        condition: What the density is conditioned on; see `methods.conditions`.
        guidance: Classifier-free guidance at decoding; None is the run's.
        refinements: Refinements of a step of the inversion; 0 is the published inversion, None the model's own.
        own_norms: Whether path points are taken back to the norms of the two inverted images before they are decoded;
            without, all are decoded on the common sphere, as published.
        textual_inversion: Options of `LatentModel.invert_text`; empty for the prompts' own embeddings.
        seed: Where the random numbers of textual inversion start.
    """

    def __init__(
        self,
        *,
        method: CurveMethod,
        score: Score,
        alpha_d: float | None = None,
        alpha: float | None = None,
        condition: PathCondition = "mean",
        guidance: float | None = None,
        refinements: int | None = None,
        own_norms: bool = True,
        textual_inversion: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        power_of_density(alpha_d=alpha_d, alpha=alpha, dimension=1)  # which refuses what is no power
        check_path_condition(condition)
        self.method, self.guidance, self.own_norms = method, guidance, own_norms
        self.settings: dict[str, Any] = {
            "score": score,
            "alpha_d": alpha_d,
            "alpha": alpha,
            "condition": condition,
            "refinements": refinements,
            "textual_inversion": dict(textual_inversion or {}),
            "seed": seed,
        }

    def timed_morph(self, pairs: EncodedPairs, u: Float[Tensor, " n"], timing: Timing | None) -> Morph:
        """Encodes, solves and decodes."""
        meter = Meter(pairs.model)
        posed = self.pose(pairs)
        morph = self.method.timed_morph(posed, u, timing)
        cost = meter.cost(len(pairs.batch))
        return replace(
            morph,
            posed=posed,
            **(cost | {"seconds_solving": cost["seconds"] - morph.seconds_decoding}),
        )

    def pose(self, pairs: EncodedPairs) -> EncodedPairs:
        """The same images as the problem of these settings, at the run's noise level."""
        guidance = pairs.guidance if self.guidance is None else self.guidance
        encoder = PairEncoder(model=pairs.model, tau=pairs.tau, guidance=guidance, **self.settings)
        posed = encoder.encode(pairs.batch).sound
        if self.own_norms:
            return posed
        radius: Float[Tensor, " p"] = torch.linalg.vector_norm(posed.problem.x0, dim=-1)
        return replace(posed, norms_a=radius, norms_b=radius)
