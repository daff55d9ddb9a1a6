"""When the iteration of the default boundary solver goes on, slows down and stops."""

from dataclasses import dataclass

__all__ = ["MOST_FAILURES", "Rules"]

MOST_FAILURES = 10


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When an iteration goes on, slows down and stops.

    Attributes:
        target: the alpha of the problem, or another geometry's strength.
        tolerance: the relative residual at which a pair is done, once its alpha is the target.
        loose: the relative residual at which alpha grows while it is below the target.
        growth: the factor by which it grows.
        budget_share: the share of the budget that may be spent.
        memory: how many iterates are mixed.
        trust: the largest move of a knot in a step, as a share of the distance of the ends.
        patience: iterations without progress after which the step along what the memory cannot explain is halved.
        halvings: how often it is halved before the pair is given up.
        fall: a pair is also done when its relative residual has fallen to this share of the first one, where that is
            the error of a coarser grid and the next will find one of its own; 0 for the tolerance alone.
        iterations: after how many a pair is given up; no limit if not given.
        failures: how many iterates in a row may have a score that is not finite.
    """

    target: float
    tolerance: float
    loose: float
    growth: float
    budget_share: float
    memory: int
    trust: float
    patience: int
    halvings: int
    fall: float = 0.0
    iterations: int | None = None
    failures: int = MOST_FAILURES
