"""All paths of a batch of videos, and the geodesic gradient along each.

For every video: the path of its frames; the optimised one, which the solver reaches from it; perturbed ones, of several
amplitudes, each drawn several times; smoothed ones, of several widths; and the great circle between its ends. The same
noise perturbs every video at every amplitude, and a score that draws random numbers uses the same for all paths.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.geometry import norm
from latent_geodesics.experiments.video_analysis.derivatives import Arcs, Derivatives
from latent_geodesics.experiments.video_analysis.encoding import Again, EncodedVideos
from latent_geodesics.experiments.video_analysis.gradient import Gradient, independent_draws, measure_gradient
from latent_geodesics.experiments.video_analysis.optimised import Optimised, Optimiser
from latent_geodesics.experiments.video_analysis.variations import great_circle, perturbed, smoothed, tangent_noise
from latent_geodesics.methods.conditions import power_of_density
from latent_geodesics.models.scores import Renoised, Score

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
        along: At the inner frames: `norm`, `|G|` in 1/[x]; `score_term`, `alpha |P_v s|`; `curvature_term`, `|b|`;
            `cosine`, between `-b` and `P_v s`; `step`, the distance of neighbouring frames in [x]; `floor`, the norm
            that the score's own draws would show without a gradient; `from_video`, the distance to the video's frame.
        rounding_floor: The norm that the rounding of pixels makes; measured along the video's own path, NaN elsewhere.
        length: Of the whole path, the sum of its arcs, in [x].
    """

    name: str
    family: str
    parameter: float
    points: Float[Tensor, "v n d"]
    statuses: tuple[str, ...]
    evaluations: tuple[int, ...]
    along: Mapping[str, Float[Tensor, "v m"]]
    rounding_floor: Float[Tensor, " v"]
    length: Float[Tensor, " v"]


@dataclass(frozen=True, kw_only=True)
class BatchMeasures:
    """What a batch of videos measured.

    Attributes:
        paths: Every path, the video's own first.
        by_alpha: Path -> power of the density -> mean norm along it, for the video and the great circle.
        by_stride: Stride -> means along the video's own path at that stride, by their names.
        distances: Lag -> mean distance of frames so far apart, in [x]; at lag 0 how far the rounding of pixels moves a
            frame, NaN where it was not measured.
        seconds: Time for each video, encoding apart.
    """

    encoded: EncodedVideos
    paths: tuple[PathMeasures, ...]
    by_alpha: Mapping[str, Mapping[float, Float[Tensor, " v"]]]
    by_stride: Mapping[int, Mapping[str, Float[Tensor, " v"]]]
    distances: Mapping[int, Float[Tensor, " v"]]
    seconds: float

    def path(self, name: str) -> PathMeasures:
        """The path of that name."""
        return next(path for path in self.paths if path.name == name)


@dataclass(frozen=True)
class _Made:
    """A path to be measured, of every video, and how it was come by."""

    name: str
    family: str
    draws: Sequence[Float[Tensor, "v n d"]]
    parameter: float = 0.0
    status: str = "made"


@dataclass(frozen=True, kw_only=True)
class Analyser:
    """Measures batches of encoded videos.

    Args:
        score: Which score the geometry is made of.
        alpha_d: Power of the density times the dimension of a latent, above 0; see `methods.conditions`.
        alpha: The power itself, in its place; one of the two is given.
        derivatives: How a path of frames is differentiated.
        optimiser: What deforms a video into a geodesic.
        amplitudes: Of the perturbations, in steps of the video; the one in the middle stands in the figures.
        perturbations: How many times each is drawn.
        widths: Of the smoothing kernels, in frames; the one in the middle stands in the figures.
        draws: How often a score that draws random numbers is sampled; others are evaluated once.
        strides: Also look at every second, fourth... frame alone.
        alphas_d: Powers, times the dimension too, at which the norms are given as well, which costs nothing.
        seed: What the random numbers follow from.
    """

    score: Score
    alpha_d: float | None = None
    alpha: float | None = None
    derivatives: Derivatives = field(default_factory=Arcs)
    optimiser: Optimiser = field(default_factory=Optimiser)
    amplitudes: Sequence[float] = (0.1, 0.3, 1.0)
    perturbations: int = 4
    widths: Sequence[float] = (0.5, 1.0, 2.0, 4.0)
    draws: int = 16
    strides: Sequence[int] = (1, 2, 4)
    alphas_d: Sequence[float] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.power(1):
            name = "alpha_d" if self.alpha is None else "alpha"
            raise UserError(f"{name} must be a finite number above 0 for the video analysis, got {self.power(1)!r}.")
        for name in ("amplitudes", "widths"):
            values = list(getattr(self, name))
            if not values or not all(isinstance(value, int | float) and 0 < value < float("inf") for value in values):
                raise UserError(f"task.analyser.{name} must be one or more finite numbers above 0, got {values}.")
        if self.perturbations < 1:
            raise UserError(f"task.analyser.perturbations must be at least 1, got {self.perturbations}.")
        if not all(isinstance(stride, int) and stride >= 1 for stride in self.strides):
            raise UserError(f"task.analyser.strides must be whole numbers of at least 1, got {list(self.strides)}.")
        independent_draws(self.score, self.draws)

    def power(self, dimension: int) -> float:
        """The power alpha on the density of latents of a dimension."""
        return power_of_density(alpha_d=self.alpha_d, alpha=self.alpha, dimension=dimension)

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
        started, d = time.perf_counter(), encoded.points.shape[-1]
        optimised = self._optimise(encoded)
        made = [*self._variations(encoded), _Made("optimised", "optimised", (optimised.points,))]
        strides = [stride for stride in self.strides if encoded.points.shape[1] > 2 * stride]
        gradients = self._measure(encoded, torch.stack([x for one in made for x in one.draws], dim=1), strides)
        of_video, of_circle = (gradients[1].of(paths=[index]) for index in (0, 1))
        return BatchMeasures(
            encoded=encoded,
            paths=self._assemble(
                encoded, made, gradients[1], self._rounding_floor(encoded, of_video, again), optimised
            ),
            by_alpha={
                name: {each / d: gradient.norm(each / d)[:, 0].mean(-1) for each in self.alphas_d}
                for name, gradient in (("video", of_video), ("great_circle", of_circle))
            },
            by_stride={
                stride: {name: values[:, 0].mean(-1) for name, values in at.of(paths=[0]).terms(self.power(d)).items()}
                for stride, at in gradients.items()
                if stride in strides
            },
            distances=_distances(encoded, again),
            seconds=(time.perf_counter() - started) / len(encoded.batch),
        )

    def _optimise(self, encoded: EncodedVideos) -> Optimised:
        """With draws of its own where the score draws: judged by those it was found with it would look too good."""
        score = self.score
        if isinstance(score, Renoised):
            score = Renoised(score=score.score, window=score.window, draws=self.draws, seed=score.seed + OPTIMISED_SEED)
        alpha = self.power(encoded.points.shape[-1])
        return self.optimiser.optimise(encoded.points, sphere=encoded.sphere, field=encoded.field(score), alpha=alpha)

    def _variations(self, encoded: EncodedVideos) -> list[_Made]:
        """Every path but the optimised one: what follows from the points alone, the video's own and its chord first."""
        points, sphere = encoded.points, encoded.sphere
        noises = [tangent_noise(*points.shape[1:], seed=self.seed, draw=draw) for draw in range(self.perturbations)]
        made = [
            _Made("video", "video", (points,), status="as_given"),
            _Made("great_circle", "great_circle", (great_circle(points, sphere),), status="closed_form"),
        ]
        for amplitude in self.amplitudes:
            draws = [perturbed(points, sphere, amplitude=amplitude, noise=noise) for noise in noises]
            made.append(_Made(f"perturbed_{amplitude:g}", "perturbed", draws, amplitude))
        for width in self.widths:
            made.append(_Made(f"smoothed_{width:g}", "smoothed", (smoothed(points, sphere, width=width),), width))
        return made

    def _measure(
        self, encoded: EncodedVideos, paths: Float[Tensor, "v w n d"], strides: Sequence[int] = ()
    ) -> dict[int, Gradient]:
        return measure_gradient(
            paths,
            sphere=encoded.sphere,
            fields=[encoded.field(score) for score in independent_draws(self.score, self.draws)],
            derivatives=self.derivatives,
            strides=sorted({1, *strides}),
        )

    def _rounding_floor(self, encoded: EncodedVideos, first: Gradient, again: Again | None) -> Float[Tensor, " v"]:
        """The noise of the norm along the videos, over the frames whose neighbours were encoded again as well."""
        if again is None:
            return torch.full_like(encoded.norms[:, 0], torch.nan)
        points = encoded.points.clone()
        points[:, list(again.frames)] = again.points
        second = self._measure(encoded, points[:, None])[1]
        noise = first.noise_against(second, self.power(points.shape[-1]))[:, 0]
        return noise[:, [frame - 1 for frame in again.frames[1:-1]]].mean(-1)

    def _assemble(
        self,
        encoded: EncodedVideos,
        made: Sequence[_Made],
        gradient: Gradient,
        rounding: Float[Tensor, " v"],
        optimised: Optimised,
    ) -> tuple[PathMeasures, ...]:
        """The measures of every path, whose draws stand one after another in the gradient."""
        found, start, videos = [], 0, len(encoded.batch)
        cost = gradient.step.shape[-1] * len(independent_draws(self.score, self.draws))
        for one in made:
            columns = range(start, start + len(one.draws))
            start, solved = columns.stop, one.family == "optimised"
            terms = gradient.of(paths=columns).terms(self.power(encoded.points.shape[-1]))
            away = [norm(encoded.points[:, 1:-1] - points[:, 1:-1]) for points in one.draws]
            spent = optimised.evaluations.tolist() if solved else [0] * videos
            found.append(
                PathMeasures(
                    name=one.name,
                    family=one.family,
                    parameter=one.parameter,
                    points=one.draws[0],
                    statuses=tuple(s.value for s in optimised.statuses) if solved else (one.status,) * videos,
                    evaluations=tuple(cost * len(one.draws) + int(more) for more in spent),
                    along={name: values.mean(1) for name, values in terms.items()}
                    | {"from_video": torch.stack(away).mean(0)},
                    rounding_floor=rounding if one.family == "video" else torch.full_like(rounding, torch.nan),
                    length=torch.stack([_length(encoded, points) for points in one.draws]).mean(0),
                )
            )
        return tuple(found)


def _length(encoded: EncodedVideos, points: Float[Tensor, "v n d"]) -> Float[Tensor, " v"]:
    return encoded.sphere.distance(points[:, :-1], points[:, 1:]).sum(-1)


def _distances(encoded: EncodedVideos, again: Again | None) -> dict[int, Float[Tensor, " v"]]:
    points, sphere = encoded.points, encoded.sphere
    lags = [2**power for power in range(16) if 2**power < points.shape[1]]
    found = {lag: sphere.distance(points[:, :-lag], points[:, lag:]).mean(-1) for lag in lags}
    if again is None:
        return found | {0: torch.full_like(encoded.norms[:, 0], torch.nan)}
    return found | {0: norm(again.points - points[:, list(again.frames)]).mean(-1)}
