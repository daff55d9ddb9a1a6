r"""Score fields: what the geodesic equation needs to know of a probability density, and how well it is resolved.

A density `p` on `R^d` enters every equation of this package only through its score `s(x) = grad log p(x)`. The score
may also depend on the position `u` in [0, 1] on the path, because a text prompt may vary along it.

A score that is computed in float16 or bfloat16 is wrong by a share of itself, whatever the point. A solver that asks
for a residual below that share goes round in the rounding; one that knows the share stops there and says so.

Conventions: points are flat vectors `x` of size `d` with any leading axes; where there is a batch of pairs, it is the
first axis. `s` has the unit 1/[x].
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Self, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

MARGIN = 2.0
"""What a residual may be above the rounding of the scores: two of them, of two iterates, and what mixing adds."""

_LEAST_VALUES = 8

COARSE_ERROR = 2e-3
"""Rounding of scores above which finer ones are taken where there are any: what bfloat16 resolves leaves the length of
hard pairs off by more than a thousandth."""


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """The rounding of a field's scores.

    Attributes:
        error: the relative error `|s~ - s| / |s|` of a score as it is computed, a mean over points.
        precision: what makes it, for a person: `float16`, say.
    """

    error: float
    precision: str

    def floor(self, size: Float[Tensor, " a"], strength: Float[Tensor, " a"]) -> Float[Tensor, " a"]:
        """The relative residual of a path that the rounding of its scores leaves.

        Args:
            size: the mean of `|s|` along each path.
            strength: the mean of its tangential part, which residuals are a share of.
        """
        return MARGIN * self.error * size / strength.clamp(min=torch.finfo(strength.dtype).tiny)


def rounded_resolution(scores: Float[Tensor, "*b d"]) -> Resolution | None:
    """What scores that are all numbers of float16 or bfloat16 give away of the arithmetic that they come from.

    None where they are not, or where they are too few different numbers to tell. The error is the largest that
    rounding to nearest makes, half the spacing of the format at one.
    """
    if scores.dtype in (torch.float16, torch.bfloat16) or len(torch.unique(scores)) < _LEAST_VALUES:
        return None
    for precision in (torch.bfloat16, torch.float16):
        if bool((scores.to(precision).to(scores.dtype) == scores).all()):
            name = str(precision).removeprefix("torch.")
            return Resolution(error=torch.finfo(precision).eps / 2, precision=name)
    return None


Score = Callable[[Any, Tensor, Tensor], Tensor]


class _Tally:
    """The number of points evaluated so far, shared by a field and its views."""

    def __init__(self) -> None:
        self.points = 0
        self.running = False


def _counted(score: Score) -> Score:
    """Wrap `score` so that the outermost call alone, not the `super().score` inside it, adds to the tally."""

    @wraps(score)
    def counting(self: "ScoreField", x: Tensor, u: Tensor) -> Tensor:
        tally = self._tally
        if tally.running:
            return score(self, x, u)
        tally.running = True
        try:
            result = score(self, x, u)
        finally:
            tally.running = False
        tally.points += x.shape[:-1].numel()
        return result

    return counting


class ScoreField(ABC):
    """A score `s(x, u) = grad_x log p(x | u)`; subclass it and write `score`, everything else is given.

    Evaluations are counted for every subclass, whether or not it has a constructor of its own.

    Example:
        >>> class Laplace(ScoreField):
        ...     def score(self, x, u):
        ...         return -x.sign()
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "score" in cls.__dict__:
            cls.score = _counted(cls.__dict__["score"])  # type: ignore[method-assign, assignment]

    @abstractmethod
    def score(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """The gradient of the log-density.

        Args:
            x: points.
            u: the position of each point on its path, in [0, 1]; ignored by a field that does not vary along the path.

        Returns:
            The score at each point, in the dtype of `x`. NaN or infinity marks a point where it is not defined; solvers
            then end that pair with `Status.NON_FINITE_SCORE`.
        """

    @property
    def evaluations(self) -> int:
        """The number of points at which the score was evaluated so far."""
        return self._tally.points

    def restrict(self, pairs: Int[Tensor, " m"]) -> "ScoreField":
        """The view of this field for the pairs `pairs` of the problem: entry `i` of its first axis is pair `pairs[i]`.

        A field whose answer depends on the pair (its own prompt, say) overrides this and calls `share_evaluations` on
        the view. A field that is the same for all pairs is its own view.
        """
        del pairs
        return self

    def resolution(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Resolution | None:
        """How well the scores are resolved, measured at the given points unless it is known; None for full precision.

        A field that computes in a lower precision than that of `x` overrides this: no solver then asks for a smaller
        residual. What is measured here counts as no evaluation.
        """
        del x, u
        return None

    def finer(self) -> "ScoreField | None":
        """The same score in a higher precision, or None where there is none.

        The evaluations of both are counted together. Solvers finish with it where they are asked for more than this
        field resolves, and turn to it where this one overflows.
        """
        return None

    def share_evaluations(self, parent: "ScoreField") -> Self:
        """Count the evaluations of this field together with those of `parent`; returns this field."""
        self.__dict__["_shared_tally"] = parent._tally
        return self

    @property
    def _tally(self) -> _Tally:
        # Made on first use, so that a subclass need not call super().__init__().
        return cast(_Tally, self.__dict__.setdefault("_shared_tally", _Tally()))


class Density(ScoreField):
    """A field whose log-density is known; subclass it and write `log_prob`, the score follows by autograd.

    Example:
        >>> class Laplace(Density):
        ...     def log_prob(self, x, u):
        ...         return -x.abs().sum(-1)
    """

    @abstractmethod
    def log_prob(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The log-density at `x`, up to a constant that is the same for all `x`; in nats.

        Args:
            x: points.
            u: the position of each point on its path, in [0, 1].
        """

    def score(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """The gradient of `log_prob` by automatic differentiation, also inside `torch.no_grad`."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            total = self.log_prob(leaf, u.detach().clone()).sum()
            (gradient,) = torch.autograd.grad(total, leaf)
        return gradient.detach()


class _Guarded(ScoreField):
    """The score of a field, and that of its finer one at points where the first is not finite."""

    def __init__(self, field: ScoreField, finer: ScoreField) -> None:
        self._field, self._finer = field, finer
        self.share_evaluations(field)

    def score(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """The score; waits for the device to learn whether it is finite."""
        score = self._field.score(x, u)
        finite = torch.isfinite(score)
        return score if bool(finite.all()) else torch.where(finite, score, self._finer.score(x, u))

    def resolution(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Resolution | None:
        """That of the field itself."""
        return self._field.resolution(x, u)

    def restrict(self, pairs: Int[Tensor, " m"]) -> "_Guarded":
        """Both fields of some pairs."""
        return _Guarded(self._field.restrict(pairs), self._finer.restrict(pairs))


def guarded(field: ScoreField) -> ScoreField:
    """The field, with its finer one behind it where it has one: for solvers that cannot start afresh."""
    finer = field.finer()
    return field if finer is None else _Guarded(field, finer)


def well_resolved(field: ScoreField, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> ScoreField:
    """The field, or its finer one where it has one and resolves scores no better than `COARSE_ERROR`.

    Args:
        field: the field.
        x: points at which its resolution is measured unless it is known.
        u: their positions.
    """
    finer = field.finer()
    if finer is None:
        return field
    resolution = field.resolution(x, u)
    return finer if resolution is not None and resolution.error > COARSE_ERROR else field
