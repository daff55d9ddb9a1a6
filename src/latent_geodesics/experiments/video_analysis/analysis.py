"""All paths of a batch of videos, and the geodesic gradient along each.

For every video: the path of its frames; the optimised one, which the solver reaches from it; perturbed ones, of several
amplitudes, each drawn several times; smoothed ones, of several widths; and the great circle between its ends. The same
noise perturbs every video at every amplitude, and a score that draws random numbers uses the same for all paths.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.fields import ScoreField
from latent_geodesics.core.geometry import norm
from latent_geodesics.experiments.video_analysis.derivatives import Arcs, Derivatives
from latent_geodesics.experiments.video_analysis.encoding import EncodedVideos
from latent_geodesics.experiments.video_analysis.gradient import Gradient, independent_draws, measure_gradient
from latent_geodesics.experiments.video_analysis.optimised import Optimised, Optimiser
from latent_geodesics.experiments.video_analysis.variations import great_circle, perturbed, smoothed, tangent_noise
from latent_geodesics.models.renoising import Renoised
from latent_geodesics.models.scores import Score

__all__ = ["Again", "Analyser", "BatchMeasures", "PathMeasures"]

OPTIMISED_SEED = 7_919  # the optimised path is found with other draws than it is judged by


@dataclass(frozen=True, kw_only=True)
class PathMeasures:
    """One path of every video of a batch, measured; means over its draws where it has several.

    Attributes:
        name: Of the path, for tables: `video`, `optimised`, `perturbed_0.3`...
        family: The name without its parameter.
        parameter: Amplitude in steps or width in frames; 0 for a path without one.
        points: The path; the first draw where it has several.
        statuses: How each was come by.
        evaluations: Points at which the score was evaluated to find and to measure it, for each video.
        norm: `|G|` at the inner frames, in 1/[x].
        floor: The norm that the score's own draws would show without a gradient.
        rounding_floor: The norm that the rounding of pixels makes; measured along the video's own path, NaN elsewhere.
        score_term: `alpha |P_v s|`.
        curvature_term: `|b|`.
        cosine: Between `-b` and `P_v s`.
        step: Distance of neighbouring frames, in [x].
        from_video: Distance to the video's frame, in [x].
        length: Of the whole path, the sum of its arcs, in [x].
    """

    name: str
    family: str
    parameter: float
    points: Float[Tensor, "v n d"]
    statuses: tuple[str, ...]
    evaluations: tuple[int, ...]
    norm: Float[Tensor, "v m"]
    floor: Float[Tensor, "v m"]
    rounding_floor: Float[Tensor, " v"]
    score_term: Float[Tensor, "v m"]
    curvature_term: Float[Tensor, "v m"]
    cosine: Float[Tensor, "v m"]
    step: Float[Tensor, "v m"]
    from_video: Float[Tensor, "v m"]
    length: Float[Tensor, " v"]


@dataclass(frozen=True, kw_only=True)
class BatchMeasures:
    """What a batch of videos measured.

    Attributes:
        paths: Every path, the video's own first.
        by_alpha: For each path family's first members and each alpha of the sweep, the mean norm along the path.
        by_stride: Stride -> mean norm, curvature term, score term and step of the video's own path at that stride.
        lags: Lag in frames -> mean distance of frames so far apart, in [x].
        rounding_shift: How far the rounding of pixels moves a frame, in [x]; NaN where it was not measured.
        seconds: Time for each video, encoding apart.
    """

    encoded: EncodedVideos
    paths: tuple[PathMeasures, ...]
    by_alpha: dict[str, Float[Tensor, "v a"]]
    by_stride: dict[int, Float[Tensor, "v 4"]]
    lags: dict[int, Float[Tensor, " v"]]
    rounding_shift: Float[Tensor, " v"]
    seconds: float

    def path(self, name: str) -> PathMeasures:
        """The path of that name."""
        return next(path for path in self.paths if path.name == name)


@dataclass(frozen=True, kw_only=True)
class Again:
    """Some neighbouring frames of every video, at least three, encoded after a change of pixels that no one can see."""

    frames: Sequence[int]
    points: Float[Tensor, "v k d"]


@dataclass(frozen=True)
class _Kind:
    """A path to be measured and where its draws stand in the stack."""

    name: str
    family: str
    parameter: float
    draws: Sequence[Float[Tensor, "v n d"]]


@dataclass(frozen=True, kw_only=True)
class Analyser:
    """Measures batches of encoded videos.

    Args:
        score: Which score the geometry is made of.
        alpha: Power of the density, above 0.
        derivatives: How a path of frames is differentiated.
        optimiser: What deforms a video into a geodesic.
        amplitudes: Of the perturbations, in steps of the video.
        perturbations: How many times each is drawn.
        widths: Of the smoothing kernels, in frames.
        draws: How often a score that draws random numbers is sampled; others are evaluated once.
        strides: Also look at every second, fourth... frame alone.
        alphas: Powers at which the norms are given as well, which costs nothing.
        seed: What the random numbers follow from.
    """

    score: Score
    alpha: float
    derivatives: Derivatives = field(default_factory=Arcs)
    optimiser: Optimiser = field(default_factory=Optimiser)
    amplitudes: Sequence[float] = (0.1, 0.3, 1.0)
    perturbations: int = 4
    widths: Sequence[float] = (0.5, 1.0, 2.0, 4.0)
    draws: int = 16
    strides: Sequence[int] = (1, 2, 4)
    alphas: Sequence[float] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, int | float) or not 0 < self.alpha < float("inf"):
            raise UserError(f"alpha must be a finite number above 0 for the video analysis, got {self.alpha!r}.")
        for name in ("amplitudes", "widths"):
            values = list(getattr(self, name))
            if not values or not all(isinstance(value, int | float) and 0 < value < float("inf") for value in values):
                raise UserError(f"task.{name} must be one or more finite numbers above 0, got {values}.")
        if self.perturbations < 1:
            raise UserError(f"task.perturbations must be at least 1, got {self.perturbations}.")
        if not all(isinstance(stride, int) and stride >= 1 for stride in self.strides):
            raise UserError(f"task.strides must be whole numbers of at least 1, got {list(self.strides)}.")
        independent_draws(self.score, self.draws)

    def seeded(self, seed: int) -> "Analyser":
        """The same with other random numbers."""
        return replace(self, seed=seed)

    @property
    def shown(self) -> tuple[str, ...]:
        """The paths that stand in the figures, the middle amplitude and width among them: the four of the paper."""
        amplitude, width = self.amplitudes[len(self.amplitudes) // 2], self.widths[(len(self.widths) - 1) // 2]
        return ("video", "optimised", f"perturbed_{amplitude:g}", f"smoothed_{width:g}")

    def analyse(self, encoded: EncodedVideos, *, again: Again | None = None) -> BatchMeasures:
        """Makes all paths of the videos and measures them.

        Args:
            encoded: The videos.
            again: Neighbouring frames of the videos that were encoded once more, if any.
        """
        started = time.perf_counter()
        optimised = self._optimise(encoded)
        kinds = [
            *self._variations(encoded),
            _Kind(name="optimised", family="optimised", parameter=0.0, draws=(optimised.points,)),
        ]
        strides = [stride for stride in self.strides if encoded.points.shape[1] > 2 * stride]
        gradients = self._measure(encoded, kinds, strides)
        rounding = self._rounding_floor(encoded, gradients[1], again)
        paths = self._assemble(encoded, kinds, gradients[1], rounding, optimised)
        return BatchMeasures(
            encoded=encoded,
            paths=paths,
            by_alpha=self._by_alpha(kinds, gradients[1]),
            by_stride={stride: self._at_stride(gradients[stride].of(paths=[0])) for stride in strides},
            lags=_lags(encoded),
            rounding_shift=_rounding_shift(encoded, again),
            seconds=(time.perf_counter() - started) / len(encoded.batch),
        )

    def _optimise(self, encoded: EncodedVideos) -> Optimised:
        """With draws of its own where the score draws: judged by those it was found with it would look too good."""
        score = self.score
        if isinstance(score, Renoised):
            score = Renoised(score=score.score, window=score.window, draws=self.draws, seed=score.seed + OPTIMISED_SEED)
        return self.optimiser.optimise(
            encoded.points, sphere=encoded.sphere, field=encoded.field(score), alpha=self.alpha
        )

    def _variations(self, encoded: EncodedVideos) -> list[_Kind]:
        """Every path but the optimised one: what follows from the points alone."""
        points, sphere = encoded.points, encoded.sphere
        noises = [
            tangent_noise(points.shape[1], points.shape[2], seed=self.seed, draw=draw)
            for draw in range(self.perturbations)
        ]
        return [
            _Kind(name="video", family="video", parameter=0.0, draws=(points,)),
            _Kind(name="great_circle", family="great_circle", parameter=0.0, draws=(great_circle(points, sphere),)),
            *(
                _Kind(
                    name=f"perturbed_{amplitude:g}",
                    family="perturbed",
                    parameter=amplitude,
                    draws=[perturbed(points, sphere, amplitude=amplitude, noise=noise) for noise in noises],
                )
                for amplitude in self.amplitudes
            ),
            *(
                _Kind(
                    name=f"smoothed_{width:g}",
                    family="smoothed",
                    parameter=width,
                    draws=(smoothed(points, sphere, width=width),),
                )
                for width in self.widths
            ),
        ]

    def _fields(self, encoded: EncodedVideos) -> list[ScoreField]:
        return [encoded.field(score) for score in independent_draws(self.score, self.draws)]

    def _measure(self, encoded: EncodedVideos, kinds: Sequence[_Kind], strides: Sequence[int]) -> dict[int, Gradient]:
        stack = torch.stack([points for kind in kinds for points in kind.draws], dim=1)
        return measure_gradient(
            stack,
            sphere=encoded.sphere,
            fields=self._fields(encoded),
            derivatives=self.derivatives,
            strides=sorted({1, *strides}),
        )

    def _rounding_floor(self, encoded: EncodedVideos, first: Gradient, again: Again | None) -> Float[Tensor, " v"]:
        """The noise of the norm along the videos, over the frames whose neighbours were encoded again as well."""
        if again is None:
            return torch.full_like(encoded.norms[:, 0], torch.nan)
        points = encoded.points.clone()
        points[:, list(again.frames)] = again.points
        second = measure_gradient(
            points[:, None], sphere=encoded.sphere, fields=self._fields(encoded), derivatives=self.derivatives
        )[1]
        noise = first.of(paths=[0]).noise_against(second, self.alpha)[:, 0]
        return noise[:, [frame - 1 for frame in again.frames[1:-1]]].mean(-1)

    def _assemble(
        self,
        encoded: EncodedVideos,
        kinds: Sequence[_Kind],
        gradient: Gradient,
        rounding: Float[Tensor, " v"],
        optimised: Optimised,
    ) -> tuple[PathMeasures, ...]:
        found, start = [], 0
        cost = gradient.step.shape[-1] * len(independent_draws(self.score, self.draws))
        for kind in kinds:
            columns = range(start, start + len(kind.draws))
            start = columns.stop
            part = gradient.of(paths=columns)
            statuses = {"video": "as_given", "great_circle": "closed_form"}.get(kind.family, "made")
            solved = kind.family == "optimised"
            found.append(
                PathMeasures(
                    name=kind.name,
                    family=kind.family,
                    parameter=kind.parameter,
                    points=kind.draws[0],
                    statuses=tuple(
                        optimised.statuses[index].value if solved else statuses for index in range(len(encoded.batch))
                    ),
                    evaluations=tuple(
                        cost * len(kind.draws) + (int(optimised.evaluations[index]) if solved else 0)
                        for index in range(len(encoded.batch))
                    ),
                    norm=part.norm(self.alpha).mean(1),
                    floor=part.sampling_floor(self.alpha).mean(1),
                    rounding_floor=rounding if kind.family == "video" else torch.full_like(rounding, torch.nan),
                    score_term=self.alpha * norm(part.force).mean(1),
                    curvature_term=norm(part.curvature).mean(1),
                    cosine=part.cosine.mean(1),
                    step=part.step.mean(1),
                    from_video=torch.stack([_apart(encoded.points, points) for points in kind.draws]).mean(0),
                    length=torch.stack([_length(encoded, points) for points in kind.draws]).mean(0),
                )
            )
        return tuple(found)

    def _by_alpha(self, kinds: Sequence[_Kind], gradient: Gradient) -> dict[str, Float[Tensor, "v a"]]:
        wanted = {kind.name: index for index, kind in enumerate(kinds) if kind.family in ("video", "great_circle")}
        return {
            name: torch.stack([gradient.of(paths=[index]).norm(alpha)[:, 0].mean(-1) for alpha in self.alphas], dim=-1)
            for name, index in wanted.items()
            if self.alphas
        }

    def _at_stride(self, gradient: Gradient) -> Float[Tensor, "v 4"]:
        terms = (
            gradient.norm(self.alpha),
            norm(gradient.curvature),
            self.alpha * norm(gradient.force),
            gradient.step,
        )
        return torch.stack([term[:, 0].mean(-1) for term in terms], dim=-1)


def _apart(a: Float[Tensor, "v n d"], b: Float[Tensor, "v n d"]) -> Float[Tensor, "v m"]:
    return norm(a[:, 1:-1] - b[:, 1:-1])


def _length(encoded: EncodedVideos, points: Float[Tensor, "v n d"]) -> Float[Tensor, " v"]:
    return encoded.sphere.distance(points[:, :-1], points[:, 1:]).sum(-1)


def _rounding_shift(encoded: EncodedVideos, again: Again | None) -> Float[Tensor, " v"]:
    if again is None:
        return torch.full_like(encoded.norms[:, 0], torch.nan)
    return norm(again.points - encoded.points[:, list(again.frames)]).mean(-1)


def _lags(encoded: EncodedVideos) -> dict[int, Float[Tensor, " v"]]:
    points, sphere = encoded.points, encoded.sphere
    lags = [2**power for power in range(16) if 2**power < points.shape[1]]
    return {lag: sphere.distance(points[:, :-lag], points[:, lag:]).mean(-1) for lag in lags}
