r"""The geodesic gradient along paths of frames, `G = P_v (alpha s) + b`: zero everywhere on a geodesic of `p^alpha`.

`s` is the score (its part tangent to the sphere), `b` the curvature vector, `P_v` takes out the direction of the
path; `f = P_v s`. Norms are in 1/[x]. The cosine `-b.f / (|b| |f|)` is 1 on a geodesic of any alpha, and near 0 for a
path that knows nothing of the density.

A score that draws random numbers is sampled several times, with the same numbers for every path: with `M` draws of `f`
and `V` the trace of their covariance, `alpha sqrt(V / M)` is the part of the noise floor that the draws make.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.fields import ScoreField
from latent_geodesics.core.geometry import norm, normal_to
from latent_geodesics.core.manifold import Sphere
from latent_geodesics.experiments.video_analysis.derivatives import Derivatives
from latent_geodesics.models.scores import Renoised, Score

DRAW_SPACING = 1_000_003  # between the seeds of draws, so that no user's next seed meets another draw of this one


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """The two parts of the geodesic gradient at the inner frames of paths; every alpha shares them.

    Attributes:
        curvature: `b`, in 1/[x].
        force: `f`, the mean over the draws, in 1/[x].
        variance: Of that mean the trace of its covariance; zero for a score that draws nothing.
        step: The mean distance to both neighbours, in [x].
    """

    curvature: Float[Tensor, "v w m d"]
    force: Float[Tensor, "v w m d"]
    variance: Float[Tensor, "v w m"]
    step: Float[Tensor, "v w m"]

    def norm(self, alpha: float) -> Float[Tensor, "v w m"]:
        """`|G|`."""
        return norm(self.curvature + alpha * self.force)

    def sampling_floor(self, alpha: float) -> Float[Tensor, "v w m"]:
        """The norm that the draws alone would show where the gradient is zero."""
        return alpha * self.variance.sqrt()

    def noise_against(self, other: "Gradient", alpha: float) -> Float[Tensor, "v w m"]:
        """The norm of the noise of one measurement, from two whose noises are independent: `|G - G'| / sqrt(2)`."""
        mine, its = (gradient.curvature + alpha * gradient.force for gradient in (self, other))
        return norm(mine - its) / 2**0.5

    @property
    def cosine(self) -> Float[Tensor, "v w m"]:
        """Of the angle between `-b` and `f`; NaN where one of them is zero."""
        return -(self.curvature * self.force).sum(-1) / (norm(self.curvature) * norm(self.force))

    def terms(self, alpha: float) -> dict[str, Float[Tensor, "v w m"]]:
        """What is said of the inner frames, by name: norm, terms, cosine, step, floor of the draws."""
        return {
            "norm": self.norm(alpha),
            "score_term": alpha * norm(self.force),
            "curvature_term": norm(self.curvature),
            "cosine": self.cosine,
            "step": self.step,
            "floor": self.sampling_floor(alpha),
        }

    def of(self, *, paths: Sequence[int]) -> "Gradient":
        """That of some of the paths."""
        return Gradient(**{entry.name: getattr(self, entry.name)[:, list(paths)] for entry in fields(self)})


def independent_draws(score: Score, draws: int) -> list[Score]:
    """A score as `draws` scores that differ in their random numbers alone; one that draws none stays one.

    The numbers of each depend on the position of a frame alone, so all paths share them.

    Raises:
        UserError: when a score that draws random numbers is to be drawn fewer than two times.
    """
    if not isinstance(score, Renoised):
        return [score]
    if draws < 2:
        raise UserError(
            f"task.analyser.draws must be at least 2, so that the noise of {score.density} is known; got {draws}."
        )
    return [
        replace(score, seed=score.seed + DRAW_SPACING * number, draws=1, common_random_numbers=True)
        for number in range(1, draws + 1)
    ]


def measure_gradient(
    paths: Float[Tensor, "v w n d"],
    *,
    sphere: Sphere,
    fields: Sequence[ScoreField],
    derivatives: Derivatives,
    strides: Sequence[int] = (1,),
) -> dict[int, Gradient]:
    """The geodesic gradient along paths, at every frame and on the sub-paths of every second, fourth... frame.

    Args:
        paths: The frames of `w` paths for each video.
        sphere: The sphere that they lie on, with one radius or one for each video.
        fields: The score, once for each draw; all paths are scored in one call of each.
        derivatives: How a path is differentiated.
        strides: Take every frame (1), every second (2)...; the score is evaluated once for all of them.

    Returns:
        Stride -> the gradient at the inner points of the path of every stride-th frame.
    """
    v, w, n = paths.shape[:3]
    inner = paths[:, :, 1:-1]
    u = torch.linspace(0, 1, n, dtype=paths.dtype, device=paths.device)[1:-1].expand(v, w, -1)
    scores = [sphere.tangent(inner, field.score(inner, u)) for field in fields]
    return {
        stride: _assemble(paths[:, :, ::stride], [s[:, :, stride - 1 :: stride] for s in scores], sphere, derivatives)
        for stride in strides
    }


def _assemble(
    paths: Float[Tensor, "v w k d"],
    scores: Sequence[Float[Tensor, "v w i d"]],
    sphere: Sphere,
    derivatives: Derivatives,
) -> Gradient:
    bend = derivatives.bend(paths, sphere)
    inner, count = bend.step.shape[-1], len(scores)
    # The last score may belong to the end of the path of every stride-th frame.
    forces = torch.stack([normal_to(bend.direction, score[:, :, :inner]) for score in scores])
    mean = forces.mean(0)
    variance = (forces - mean).square().sum(-1).sum(0) / (count * max(count - 1, 1))
    return Gradient(curvature=bend.curvature, force=mean, variance=variance, step=bend.step)
