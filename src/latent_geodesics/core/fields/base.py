r"""Score fields: what the geodesic equation needs to know of a probability density.

A density `p` on `R^d` enters every equation of this package only through its score `s(x) = grad log p(x)`. The score
may also depend on the position `u` in [0, 1] on the path, because a text prompt may vary along it.

Conventions: points are flat vectors `x` of size `d` with any leading axes; where there is a batch of pairs, it is the
first axis. `s` has the unit 1/[x].
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any, Self, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.fields.resolution import Resolution

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
