r"""The records that go into a solver and come out of it, and those that it keeps meanwhile, with a row a pair.

Symbols: `p` pairs of end points, flat points of size `d`, `alpha` the power on the density, `k` iterations.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from latent_geodesics.core.fields import Resolution, ScoreField
from latent_geodesics.core.geometries import Conformal, Geometry
from latent_geodesics.core.manifold import Manifold, Sphere
from latent_geodesics.core.path import Path


class Status(Enum):
    """How a pair ended; `value` is a short name for tables, `sentence` says what to do."""

    CONVERGED = "converged"
    RESOLVED = "converged_to_resolution"
    BUDGET_EXHAUSTED = "budget_exhausted"
    STALLED = "stalled"
    SADDLE = "saddle"
    NON_FINITE_SCORE = "non_finite_score"
    COINCIDENT_ENDS = "coincident_ends"
    ANTIPODAL_ENDS = "antipodal_ends"
    INTEGRATED = "integrated"
    STOPPED_SHORT = "stopped_short"
    STEP_TOO_SMALL = "step_too_small"
    ZERO_VELOCITY = "zero_velocity"
    CLOSED_FORM = "closed_form"
    OPTIMISED = "optimised"

    @property
    def sentence(self) -> str:
        """What happened and the remedy, for a person."""
        return _SENTENCES[self]

    @property
    def ok(self) -> bool:
        """Whether the path is what was asked for."""
        return self in _AS_ASKED_FOR

    @classmethod
    def solved(cls) -> tuple[str, ...]:
        """How tables name the ends of a pair that was solved: to the tolerance asked for, or to what is resolved."""
        return cls.CONVERGED.value, cls.RESOLVED.value


_AS_ASKED_FOR = {
    Status.CONVERGED,
    Status.RESOLVED,
    Status.COINCIDENT_ENDS,
    Status.INTEGRATED,
    Status.CLOSED_FORM,
    Status.OPTIMISED,
}

_SENTENCES = {
    Status.CONVERGED: "The path is a geodesic to the tolerance asked for; nothing to do.",
    Status.RESOLVED: "The path is solved to what the precision of its scores resolves, which is coarser than the "
    "tolerance asked for; nothing to do, unless the last digits matter: then compute the scores in float32.",
    Status.BUDGET_EXHAUSTED: "The evaluations ran out before the residual met the tolerance; "
    "the best path so far is given: raise max_evaluations or the tolerance.",
    Status.STALLED: "The residual stopped falling above the tolerance; the best path so far is given: "
    "lower alpha, raise the number of intervals, or average the score if it is noisy.",
    Status.SADDLE: "The path meets the geodesic equation, but paths beside it are shorter, and the evaluations ran out "
    "before one of them was solved: raise max_evaluations, or the number of starts.",
    Status.NON_FINITE_SCORE: "The score was NaN or infinite on the way; the last finite path is given: "
    "check the field there, or lower alpha to keep the path where the score is defined.",
    Status.COINCIDENT_ENDS: "The two end points are the same; the path is constant; nothing to do.",
    Status.ANTIPODAL_ENDS: "The end points are antipodal to rounding, and the density does not tell the great circles "
    "that join them apart: those looked at are equally long, and one of them is given; "
    "to choose another, move one end a little, to the side on which the path should pass.",
    Status.INTEGRATED: "The path was followed to its end; nothing to do.",
    Status.STOPPED_SHORT: "The evaluations ran out before the end of the path, which stays where it got to: "
    "raise max_evaluations or the tolerance, or ask for a shorter path.",
    Status.STEP_TOO_SMALL: "Even the smallest step missed the tolerance, so the path stays where it got to: "
    "raise the tolerance, lower alpha, or compute in float64 if the tolerance is near rounding error.",
    Status.ZERO_VELOCITY: "The initial velocity is zero or normal to the manifold, so the path stays at its start: "
    "give a velocity with a tangent part.",
    Status.CLOSED_FORM: "The path is known in closed form: nothing was solved, and it is no geodesic of the density.",
    Status.OPTIMISED: "The path was found by its method's own measure, without the network; it is no geodesic of the "
    "density.",
}


@dataclass(frozen=True)
class Trace:
    """What happened at each iteration, a row an iteration, a column a pair; a finished pair repeats its last row.

    Attributes:
        evaluations: score evaluations spent on the pair so far.
        residual: mean norm of the geodesic gradient over the knots, in 1/[x]; NaN where it was not measured.
        length: that of the geometry, `int p~^-alpha |g'| du` relative to the start point, say, from the scores at the
            knots.
        step: the factor on the solver's step that led to this row; 1 is an undamped step.
        alpha: the strength in force (the power on `p`, say), below that of the geometry while a solver approaches it.
    """

    evaluations: Real[Tensor, "k p"]
    residual: Float[Tensor, "k p"]
    length: Float[Tensor, "k p"]
    step: Float[Tensor, "k p"]
    alpha: Float[Tensor, "k p"]


@dataclass(frozen=True)
class Solution:
    """A path for each pair, with how it was found.

    Attributes:
        path: the paths, over all pairs.
        status: how each pair ended.
        stats: one number a pair under each name: at least `evaluations`, `iterations` and `residual`, the mean over
            the interior knots of `|P_v (alpha s + g'' / |g'|^2)|`; of a boundary solver also `tolerance`, the relative
            residual in force: the one asked for, or what the scores resolve where that is larger; of the default one
            `residual_between`, the relative residual at positions between the knots, `length_error`, the share of
            itself by which the length is estimated to exceed that of the geodesic nearby, and `strength`, the mean of
            the weighted force along the shortest path times the length of that path. NaN where it was not looked at.
        trace: the course of the iteration.
        resolution: how well the scores were resolved that the path was found with; None for full precision.
    """

    path: Path
    status: tuple[Status, ...]
    stats: Mapping[str, Real[Tensor, " p"]]
    trace: Trace
    resolution: Resolution | None = None

    @property
    def status_names(self) -> tuple[str, ...]:
        """How each pair ended, as tables say it."""
        return tuple(status.value for status in self.status)

    def sentence(self, pair: int) -> str:
        """How a pair ended and what to do, for a person, with the tolerance in force where it is not the one asked."""
        status = self.status[pair]
        if status is not Status.RESOLVED or self.resolution is None:
            return status.sentence
        return (
            f"Solved to what {self.resolution.precision} resolves, a relative residual of "
            f"{float(self.stats['tolerance'][pair]):.1g}. {status.sentence}"
        )


class BoundaryProblem:
    """Find the geodesic from `x0` to `x1`; in the geometry of `p^alpha`: `g'' + alpha |g'|^2 P_v s(g) = 0`.

    Args:
        field: the score `s` of `p`.
        manifold: the space of the path; the ends must lie on it.
        x0: start points, float32 or float64.
        x1: end points, like `x0`.
        alpha: the power on `p`, finite and at least zero; zero asks for straight lines or great circles. Short for
            `geometry=Conformal(alpha=alpha)`; one if neither is given.
        geometry: the geometry, in place of alpha.

    Raises:
        ValueError: if shapes, dtypes or devices disagree, a number is not finite, or an end is off the manifold.
    """

    def __init__(
        self,
        *,
        field: ScoreField,
        manifold: Manifold,
        x0: Float[Tensor, "p d"],
        x1: Float[Tensor, "p d"],
        alpha: float | None = None,
        geometry: Geometry | None = None,
    ) -> None:
        _check_pair("x0", x0, "x1", x1)
        _check_common(field, manifold, len(x0))
        for name, x in (("x0", x0), ("x1", x1)):
            _check_on(manifold, name, x)
        self.field, self.manifold, self.geometry = field, manifold, _chosen(alpha, geometry)
        self.x0, self.x1 = x0.detach(), x1.detach()

    @property
    def alpha(self) -> float:
        """The strength of the geometry: the power on `p` in that of `p^alpha`."""
        return self.geometry.strength

    def restrict(self, pairs: Int[Tensor, " m"]) -> "BoundaryProblem":
        """The problems of some of the pairs."""
        return BoundaryProblem(
            field=self.field.restrict(pairs),
            manifold=self.manifold.restrict(pairs),
            x0=self.x0[pairs],
            x1=self.x1[pairs],
            geometry=self.geometry,
        )


class InitialProblem:
    """Follow the geodesic that leaves `x0` with velocity `v0`, from `u = 0` to `u = 1`.

    Args:
        field: the score `s` of `p`.
        manifold: the space of the path; `x0` must lie on it, `v0` is projected on its tangent space there.
        x0: start points, float32 or float64.
        v0: velocities `dg/du`, so that `|v0|` is the Euclidean length of the path.
        alpha: the power on `p`, finite and at least zero. Short for `geometry=Conformal(alpha=alpha)`; one if neither
            is given.
        geometry: the geometry, in place of alpha.

    Raises:
        ValueError: if shapes, dtypes or devices disagree, a number is not finite, or `x0` is off the manifold.
    """

    def __init__(
        self,
        *,
        field: ScoreField,
        manifold: Manifold,
        x0: Float[Tensor, "p d"],
        v0: Float[Tensor, "p d"],
        alpha: float | None = None,
        geometry: Geometry | None = None,
    ) -> None:
        _check_pair("x0", x0, "v0", v0)
        _check_common(field, manifold, len(x0))
        _check_on(manifold, "x0", x0)
        self.field, self.manifold, self.geometry = field, manifold, _chosen(alpha, geometry)
        self.x0, self.v0 = x0.detach(), v0.detach()

    @property
    def alpha(self) -> float:
        """The strength of the geometry: the power on `p` in that of `p^alpha`."""
        return self.geometry.strength


def _chosen(alpha: Any, geometry: Any) -> Geometry:
    if geometry is None:
        return Conformal(alpha=1.0 if alpha is None else alpha)
    if alpha is not None:
        raise ValueError(f"give alpha or geometry, not both; received alpha = {alpha!r} and {geometry!r}.")
    if not isinstance(geometry, Geometry):
        raise ValueError(f"geometry must be a Geometry, such as Conformal(alpha=1.0); received {geometry!r}.")
    return geometry


def _check_pair(name_a: str, a: Any, name_b: str, b: Any) -> None:
    for name, x in ((name_a, a), (name_b, b)):
        if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
            received = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{name} must be a float32 or float64 tensor; received {received}; convert it first.")
        if x.ndim != 2 or 0 in x.shape:
            raise ValueError(f"{name} must have the shape [pairs, dimension], neither zero; received {tuple(x.shape)}.")
        if not bool(torch.isfinite(x).all()):
            bad = (~torch.isfinite(x).all(-1)).nonzero().flatten().tolist()
            raise ValueError(f"{name} must be finite; pairs {bad} hold NaN or infinity; leave them out or fix them.")
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        received = f"{tuple(a.shape)} {a.dtype} on {a.device} and {tuple(b.shape)} {b.dtype} on {b.device}"
        raise ValueError(f"{name_a} and {name_b} must agree in shape, dtype and device; received {received}.")


def _check_common(field: Any, manifold: Any, pairs: int) -> None:
    if not isinstance(field, ScoreField):
        raise ValueError(f"field must be a ScoreField; received {type(field).__name__}; subclass ScoreField.")
    if not isinstance(manifold, Manifold):
        raise ValueError(f"manifold must be Euclidean() or Sphere(radius); received {manifold!r}.")
    if isinstance(manifold, Sphere) and isinstance(manifold.radius, Tensor) and len(manifold.radius) != pairs:
        raise ValueError(
            f"the sphere has {len(manifold.radius)} radii for {pairs} pairs; give one radius or one for each."
        )


def _check_on(manifold: Manifold, name: str, x: Float[Tensor, "p d"]) -> None:
    off = (~manifold.contains(x, 1e-5)).nonzero().flatten().tolist()
    if off:
        raise ValueError(
            f"{name} must lie on {manifold!r}; pairs {off} have the norms {x[off].norm(dim=-1).tolist()}; "
            f"pass manifold.project({name})."
        )


class Batched:
    """A dataclass whose tensors, also those in records of this kind, have a row a pair.

    What is no tensor but can be restricted to pairs (a grid, a field) is; everything else is the same for all pairs.

    Attributes:
        axis: the axis of the tensors that counts the pairs.
        shared: the names of tensors that are the same for all pairs.
    """

    axis: ClassVar[int] = 0
    shared: ClassVar[tuple[str, ...]] = ()

    def restrict(self, rows: Int[Tensor, " b"]) -> Self:
        """Those of some pairs."""

        def take(value: Any) -> Any:
            if isinstance(value, Tensor):
                there = rows.to(value.device)
                return value[:, there] if self.axis else value[there]
            return value.restrict(rows) if hasattr(value, "restrict") else value

        return self._made(take)

    def pick(self, mask: Bool[Tensor, " a"]) -> Self:
        """Those of a mask on the CPU."""
        return self.restrict(mask.nonzero().flatten())

    def where(self, mask: Bool[Tensor, " a"], other: Self) -> Self:
        """This one for the pairs of a mask, the other for the rest; the mask is where the tensors are."""

        def choose(mine: Any, its: Any) -> Any:
            if isinstance(mine, Tensor):
                return torch.where(mask.reshape(-1, *[1] * (mine.ndim - 1 - self.axis)), mine, its)
            return mine.where(mask, its) if isinstance(mine, Batched) else mine

        return self._made(choose, other)

    def put(self, rows: Int[Tensor, " b"], part: Self) -> Self:
        """With the pairs of some rows replaced."""

        def place(mine: Any, its: Any) -> Any:
            if isinstance(mine, Tensor):
                return mine.index_copy(self.axis, rows.to(mine.device), its)
            return mine.put(rows, its) if isinstance(mine, Batched) else mine

        return self._made(place, part)

    def _made(self, change: Callable[..., Any], *others: Self) -> Self:
        every = {entry.name: [getattr(record, entry.name) for record in (self, *others)] for entry in fields(self)}  # type: ignore[arg-type]
        return type(self)(
            **{name: values[0] if name in self.shared else change(*values) for name, values in every.items()}
        )
