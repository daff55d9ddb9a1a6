"""What a metric is given: sequences with what several metrics need of them, each thing found once, and their curves.

Density, speed and residual along a path (`path_curves`) come all from one evaluation of the score at the same
positions:

- log-density relative to the start: log p(g(u)) - log p(g(0)) = int_0^u g' . s du, by a rule of fourth order;
- speed |g'(u)|;
- residual |P_v (alpha s + g'' / |g'|^2)|, the norm of the geodesic gradient;
- length int p~^-alpha |g'| du with p~ = p / p(g(0));
- strength alpha int |P s| |g'| du with the part P s of the score along the manifold, which is alpha mean|P s| times the
  distance: by how much alpha log p could change along the path at most, about;
- closure: the line integral of the score along the path less that along a reference between the same ends. The score of
  a density gives both the same; what a network gives is no exact gradient. With c the closure, lengths of paths between
  two ends are known up to the factor e^(alpha |c|), since the density can be fixed at either end.

In another geometry than that of p^alpha, length and residual are its own; what it asks for beside the score follows
from the scores at the positions. The definition is one for all methods, whatever a solver's own discretisation.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.fields import ScoreField, well_resolved
from latent_geodesics.core.geometries import Geometry, Sight
from latent_geodesics.core.geometry import as_geometry, normal_to
from latent_geodesics.core.manifold import Manifold
from latent_geodesics.core.path import Path, Spline, shortest_path
from latent_geodesics.core.records import BoundaryProblem
from latent_geodesics.data import PairBatch
from latent_geodesics.methods import EncodedPairs, Morph
from latent_geodesics.metrics.networks import PerceptualNetwork
from latent_geodesics.models.latent_model import LatentModel

LEAST_POSITIONS = 4

T = TypeVar("T")

_FRAMES = 4


@dataclass(frozen=True, kw_only=True)
class PathCurves:
    """What a path is like along its way."""

    u: Float[Tensor, " n"]  # positions in [0, 1]
    log_density: Float[Tensor, "p n"]  # in nats, relative to the start
    speed: Float[Tensor, "p n"]  # Euclidean speed |g'|
    residual: Float[Tensor, "p n"]  # norm of the geodesic gradient, in 1/[x]
    length: Float[Tensor, " p"]  # length relative to the density at the start
    strength: Float[Tensor, " p"]  # alpha int |P s| |g'| du, without a unit
    alpha: float  # the power on the density
    # The same of another path between the same ends, against which this one is closed; None for none
    reference: "PathCurves | None" = None

    def inner_mean(self, values: Float[Tensor, "p n"]) -> Float[Tensor, " p"]:
        """The mean over the way, without its two ends: of a curve, whatever the pace at which it is run through."""
        weights = self.speed[:, 1:-1].to(values).clamp_min(1e-30)
        return (values[:, 1:-1] * weights).sum(-1) / weights.sum(-1)

    @property
    def closure(self) -> Float[Tensor, " p"]:
        """The line integral of the score less the reference's, in nats; NaN without a reference."""
        if self.reference is None:
            return torch.full_like(self.length, torch.nan)
        return self.log_density[:, -1] - self.reference.log_density[:, -1]

    @property
    def length_misfit(self) -> Float[Tensor, " p"]:
        """By how much the length differs where the reference's density at the far end is taken, not the start's."""
        return self.length * torch.expm1(self.alpha * self.closure.abs())


def path_curves(
    path: Path,
    field: ScoreField,
    manifold: Manifold,
    alpha: float | Geometry,
    *,
    positions: int = 65,
    reference: PathCurves | None = None,
) -> PathCurves:
    """Follows each path at evenly spaced positions, at least 4; costs that many evaluations of the score a pair.

    Scores as coarse as bfloat16's are measured in float32, where the field has it. `alpha` is the power on the density,
    or a geometry; `reference` the curves of other paths between the same ends, see `reference_curves`.
    """
    if positions < LEAST_POSITIONS:
        raise ValueError(f"a path is followed at {LEAST_POSITIONS} positions or more; received {positions}.")
    geometry = as_geometry(alpha)
    u = torch.linspace(0, 1, positions, dtype=torch.float64)
    x, v = path.point(u), path.velocity(u)
    at = u.to(x).expand(x.shape[:-1])
    score = well_resolved(field, x[:, [0, -1]], at[:, [0, -1]]).score(x, at)
    speed = v.norm(dim=-1)
    rate = (v * score).sum(-1)
    log_density = _cumulative(rate.double())
    referred = geometry.refer(log_density)
    acceleration, pull = manifold.tangent(x, path.acceleration(u)), manifold.tangent(x, score)
    slope = rate @ _slopes(positions).to(rate).T if geometry.needs_curvature else torch.zeros_like(rate)
    sight = Sight(velocity=v, pull=pull, curvature=slope - (pull * acceleration).sum(-1), log_density=referred.to(x))
    weight = geometry.weight(geometry.strength, geometry.gauge(sight))[..., None]
    bend = acceleration / speed.square().clamp_min(1e-30)[..., None]
    gradient = normal_to(v, weight * geometry.force(sight) + bend)
    cost = geometry.line_element(geometry.strength, speed=speed.double(), rate=rate.double(), log_density=referred)
    return PathCurves(
        u=u,
        log_density=log_density,
        speed=speed,
        residual=gradient.norm(dim=-1),
        length=_cumulative(cost)[:, -1],
        strength=geometry.power * _cumulative((pull.norm(dim=-1) * speed).double())[:, -1],
        alpha=geometry.power,
        reference=reference,
    )


@cache
def _slopes(positions: int) -> Float[Tensor, "n n"]:
    """The matrix from values at evenly spaced positions to the slopes there of the spline through them."""
    u = torch.linspace(0, 1, positions, dtype=torch.float64)
    return Spline(u).matrix(u, 1)


def reference_curves(problem: BoundaryProblem) -> PathCurves:
    """The curves of the straight line between the ends of a problem, on a sphere of the great circle."""
    path = shortest_path(problem.manifold, problem.x0, problem.x1)
    return path_curves(path, problem.field, problem.manifold, problem.geometry)


def closed_curves(
    path: Path, field: ScoreField, manifold: Manifold, alpha: float | Geometry, *, positions: int = 65
) -> PathCurves:
    """The curves of paths of which nothing else is known, closed against the shortest paths between their own ends."""
    ends = path.point(torch.tensor([0.0, 1.0], dtype=torch.float64))
    straight = shortest_path(manifold, ends[:, 0], ends[:, 1])
    reference = path_curves(straight, field, manifold, alpha, positions=positions)
    return path_curves(path, field, manifold, alpha, positions=positions, reference=reference)


def _cumulative(values: Float[Tensor, "p n"]) -> Float[Tensor, "p n"]:
    """The integrals from 0 to evenly spaced positions in [0, 1]: of cubics through four neighbouring values each."""
    f, step = values, 1 / (values.shape[-1] - 1)
    first = 9 * f[:, :1] + 19 * f[:, 1:2] - 5 * f[:, 2:3] + f[:, 3:4]
    inner = 13 * (f[:, 1:-2] + f[:, 2:-1]) - f[:, :-3] - f[:, 3:]
    last = 9 * f[:, -1:] + 19 * f[:, -2:-1] - 5 * f[:, -3:-2] + f[:, -4:-3]
    steps = torch.cat([first, inner, last], dim=-1) * (step / 24)
    return torch.nn.functional.pad(steps.cumsum(-1), (1, 0))


class MetricMemory:
    """What several metrics, and copies of them, need of the same images, found once."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}

    def recall(self, key: Hashable, find: Callable[[], T]) -> T:
        """What was found under a key before, or else is found now."""
        if key not in self._found:
            self._found[key] = find()
        found: T = self._found[key]
        return found

    def __deepcopy__(self, memo: Any) -> "MetricMemory":
        return self


@dataclass(frozen=True, kw_only=True)
class FrameDistances:
    """Perceptual distances of sequences, from one pass over their frames."""

    steps: Float[Tensor, "*p m"]  # D(x_k, x_{k+1})
    truth: Float[Tensor, "*p n"]  # D(x_k, y_k) to the true frames y; NaN for pairs that have none


@dataclass(frozen=True, kw_only=True)
class GivenPairs:
    """Pairs between which others made sequences: images and true frames, and no latents."""

    batch: PairBatch  # the images
    model: LatentModel | None = None  # a diffusion model, for the metrics that need one to judge frames


@dataclass(frozen=True, kw_only=True)
class MeasuredMorph:
    """A method's sequences with what metrics may need of them; frames are of the size of the images."""

    pairs: EncodedPairs | GivenPairs  # the pairs, their true frames among them
    morph: Morph  # what the method made
    u: Float[Tensor, " n"]  # the positions of its frames in [0, 1]
    curves: PathCurves | None  # density, speed and residual along its path, for the methods that have a path
    own: MetricMemory = field(default_factory=MetricMemory, repr=False, compare=False)  # found once for these sequences
    # Found once for these pairs, whatever the method
    shared: MetricMemory = field(default_factory=MetricMemory, repr=False, compare=False)

    def __post_init__(self) -> None:
        height, width = self.morph.frames.shape[-2:]
        wanted = tuple(self.pairs.batch.images_a.shape[-2:])
        if (height, width) != wanted:
            raise UserError(
                f"The frames of a sequence have {width} x {height} pixels and its images {wanted[1]} x {wanted[0]}: "
                "metrics compare images of one size, so the method must give frames of the size of the images."
            )

    @property
    def posed(self) -> EncodedPairs:
        """The problem that the path belongs to: the run's, unless the method has one of its own."""
        found = self.pairs if self.morph.posed is None else self.morph.posed
        if isinstance(found, GivenPairs):
            raise TypeError("frames that were given belong to no problem: only metrics of frames measure them")
        return found

    @property
    def model(self) -> LatentModel:
        """The diffusion model; metrics that ask for it say so in their `needs`."""
        if self.pairs.model is None:
            raise TypeError("frames that were given have no model: only metrics of frames measure them")
        return self.pairs.model

    @property
    def failed(self) -> Bool[Tensor, " p"]:
        """Which sequences are none, because their frames are not all numbers."""
        return ~self.morph.frames.isfinite().flatten(1).all(-1).cpu()

    @property
    def empty(self) -> Float[Tensor, "p n"]:
        """A NaN for every frame."""
        return torch.full(self.morph.frames.shape[:2], torch.nan)

    def truth(self, row: int) -> Float[Tensor, "n 3 h w"] | None:
        """The true frames of a pair at the positions of the sequence; None where it has none there."""
        return self.pairs.batch.true_frames(row, len(self.u))

    def against_truth(self, compare: Callable[[Tensor, Tensor], Tensor]) -> Float[Tensor, "p n"]:
        """What `compare` gives of each frame and the true one; NaN without true frames."""
        found = self.empty
        for row, sequence in enumerate(self.morph.frames):
            truth = self.truth(row)
            if truth is not None:
                found[row] = compare(sequence, truth.to(sequence))
        return found

    def distances(self, network: PerceptualNetwork) -> FrameDistances:
        """The distances that sequence metrics are made of; each frame goes through the network once."""

        def find() -> FrameDistances:
            found = [_distances(network, frames, self.truth(row)) for row, frames in enumerate(self.morph.frames)]
            steps, truth = torch.stack([one.steps for one in found]), torch.stack([one.truth for one in found])
            return FrameDistances(steps=steps, truth=truth)

        return self.own.recall(("distances", network.key), find)

    def truth_distances(self, network: PerceptualNetwork, row: int) -> Float[Tensor, "n n"] | None:
        """The distance of each frame of a sequence from each true frame; None where there are no true frames."""
        truth = self.truth(row)
        if truth is None:
            return None
        frames = self.morph.frames[row]
        found: Tensor = self.own.recall(("against truth", network.key, row), lambda: _across(network, frames, truth))
        return found


def _distances(
    network: PerceptualNetwork, frames: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"] | None
) -> FrameDistances:
    """Of one sequence: what a network finds in a pair must not depend, by rounding, on the pairs beside it.

    A few frames at a time: the features of a whole sequence would not fit at 512 pixels.
    """
    steps, errors, last = [], [], None
    for start in range(0, len(frames), _FRAMES):
        part = slice(start, start + _FRAMES)
        here = network.embed(frames[part])
        joined = here if last is None else [torch.cat(layers) for layers in zip(last, here, strict=True)]
        steps.append(network.compare([layer[:-1] for layer in joined], [layer[1:] for layer in joined]))
        if truth is not None:
            errors.append(network.compare(here, network.embed(truth[part].to(frames))))
        last = [layer[-1:] for layer in here]
    return FrameDistances(
        steps=torch.cat(steps), truth=torch.cat(errors) if errors else torch.full((len(frames),), torch.nan)
    )


def _across(
    network: PerceptualNetwork, frames: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "n n"]:
    """Every frame against every true one, a few of either at a time."""
    columns = []
    for true in torch.split(truth.to(frames), _FRAMES):
        theirs, rows = network.embed(true), []
        for some in torch.split(frames, _FRAMES):
            ours, count = network.embed(some), len(some)
            left = [layer.repeat_interleave(len(true), dim=0) for layer in ours]
            right = [layer.repeat(count, 1, 1, 1) for layer in theirs]
            rows.append(network.compare(left, right).view(count, len(true)))
        columns.append(torch.cat(rows))
    return torch.cat(columns, dim=1)


def in_eight_bits(frames: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 3 h w"]:
    """Frames as their picture files hold them, 256 levels a channel: what is measured is what is kept. NaN stays."""
    return frames.clamp(0, 1).mul(255).round() / 255
