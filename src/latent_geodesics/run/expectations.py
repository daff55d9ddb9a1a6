"""What a run must show: bounds on the numbers of its summary, kept beside the experiment that claims them.

An `expected.json` maps a name of the summary to its bounds and the reason for them:

    {"geodesic/length_better_than_slerp": {"at_least": 0.9, "because": "the geodesic is the shortest path"}}
"""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from latent_geodesics.core.errors import UserError

log = logging.getLogger(__name__)

BOUNDS = ("at_least", "at_most")


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Whether one number of a summary lies within its bounds; `value` is NaN when the run gave none."""

    name: str
    value: float
    at_least: float = -math.inf
    at_most: float = math.inf
    because: str = ""

    @property
    def held(self) -> bool:
        """Whether the expectation held."""
        return self.at_least <= self.value <= self.at_most

    def __str__(self) -> str:
        bounds = [f"{words} {bound:g}" for words, bound in (("at least", self.at_least), ("at most", self.at_most))
                  if math.isfinite(bound)]  # fmt: skip
        return f"{'held  ' if self.held else 'FAILED'}  {self.name} = {self.value:.4g}, expected {' and '.join(bounds)}"


def compare(expected: Path, summary: Mapping[str, float]) -> list[Expectation]:
    """Holds a run's summary against a file of expectations.

    Raises:
        UserError: when the file is missing, is no JSON, or names a bound that does not exist.
    """
    try:
        claims = json.loads(expected.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"The expectations '{expected}' do not exist: name a folder of experiments/.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"The expectations '{expected}' are no JSON ({error}): correct the file.") from error
    return [_verdict(name, claim, summary, expected) for name, claim in claims.items()]


def hold(expected: Path, summary: Mapping[str, float]) -> None:
    """Holds a summary against a file of expectations and says which of them held.

    Raises:
        UserError: when one did not, or as `compare` does.
    """
    verdicts = compare(expected, summary)
    for verdict in verdicts:
        log.info("%s", verdict)
    failed = [verdict.name for verdict in verdicts if not verdict.held]
    if failed:
        raise UserError(f"{len(failed)} of {len(verdicts)} expectations of '{expected}' failed: {', '.join(failed)}.")


def _verdict(name: str, claim: Mapping[str, float | str], summary: Mapping[str, float], expected: Path) -> Expectation:
    bounds = {key: float(value) for key, value in claim.items() if key in BOUNDS}
    unknown = set(claim) - set(BOUNDS) - {"because"}
    if unknown or not bounds:
        raise UserError(
            f"The expectation '{name}' of '{expected}' must give at_least or at_most and may give because, "
            f"got {sorted(claim)}."
        )
    return Expectation(name=name, value=summary.get(name, math.nan), because=str(claim.get("because", "")), **bounds)
