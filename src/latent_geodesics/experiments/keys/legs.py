"""What becomes of each leg of a sequence, between two neighbouring keys: a fade, a morph or a jump, as of a pair."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.data import KeySequence
from latent_geodesics.methods import EncodedPairs, Morph
from latent_geodesics.methods.base import GIVEN
from latent_geodesics.metrics import Ghosting, MeasuredMorph, Verdict, in_eight_bits, verdict_word

NONE = "none"


def key_frames(steps: Sequence[int]) -> list[int]:
    """Which frames of a sequence are keys; `steps` are how many steps between frames each leg has."""
    return [0, *accumulate(steps)]


def leg_rows(
    method: str, frames: Float[Tensor, "n 3 h w"], legs: EncodedPairs, sequence: KeySequence, steps: Sequence[int]
) -> list[dict[str, Any]]:
    """A row for each leg: its times, its verdict, and the columns of `Verdict` and `Ghosting` of its frames.

    `half_changed` is the time at which half of its change has happened. A leg without a frame between its keys has the
    verdict `none` and no numbers.
    """
    rows = []
    spans = zip(pairwise(key_frames(steps)), pairwise(sequence.times), strict=True)
    for leg, ((first, last), (start, end)) in enumerate(spans):
        numbers = _measured(frames[first : last + 1], legs.restrict([leg])) if last - first > 1 else {}
        half = start + numbers.get("change_at", math.nan) * (end - start)
        row = {"pair": sequence.id, "leg": leg + 1, "start": start, "end": end, "method": method}
        rows.append({**row, "verdict": verdict_word(numbers) or NONE, "half_changed": half, **numbers})
    return rows


def over_legs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The verdicts of a sequence from leg to leg, and the means of its other numbers."""
    table = pd.DataFrame(rows)
    means = table.drop(columns=["pair", "leg", "start", "end", "method", "verdict", "half_changed"]).mean()
    return {"verdict": ", ".join(table["verdict"])} | {str(name): mean for name, mean in means.items()}


def _measured(frames: Float[Tensor, "n 3 h w"], leg: EncodedPairs) -> dict[str, float]:
    """Column -> number, of frames as their files hold them."""
    morph = Morph(frames=in_eight_bits(frames)[None], statuses=(GIVEN,), evaluations=torch.zeros(1), seconds=math.nan)
    u = torch.linspace(0, 1, len(frames), dtype=torch.float64)
    measured = MeasuredMorph(pairs=leg, morph=morph, u=u, curves=None)
    columns = {name: values for metric in (Verdict(), Ghosting()) for name, values in metric.measure(measured).items()}
    return {name: float(values[0]) for name, values in columns.items()}
