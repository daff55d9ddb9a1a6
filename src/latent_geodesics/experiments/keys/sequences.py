"""What a method makes of a sequence of keys: frames, a row of numbers, and its speeds where it has a path."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.records import Status
from latent_geodesics.data import KeySequence
from latent_geodesics.data.images import psnr
from latent_geodesics.experiments.keys.legs import key_frames
from latent_geodesics.methods import EncodedPairs, Method
from latent_geodesics.methods.base import FAILED, failed
from latent_geodesics.methods.chains import draw_chain, has_path
from latent_geodesics.run.files import title_of

log = logging.getLogger(__name__)

DRAWN = 241
WIDEST_STRIP = 24


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a method made of a sequence; no frames where it failed, and no speeds where it has no path."""

    row: Mapping[str, Any]
    frames: Float[Tensor, "n 3 h w"] | None = None
    speeds: np.ndarray = field(default_factory=lambda: np.empty(0))


def left_out(methods: Mapping[str, Method]) -> dict[str, str]:
    """Method -> why it can have no continuous velocity, of those that cannot."""
    return {
        name: f"'{title_of(name)}' makes the frames of one pair at a time and has no path of latents whose velocity "
        "could be continuous: it is left out; smooth=false joins its frames."
        for name, method in methods.items()
        if not has_path(method)
    }


def make_sequence(
    name: str, method: Method, legs: EncodedPairs, sequence: KeySequence, steps: Sequence[int], *, smooth: bool
) -> Made:
    """The sequence by a method; `steps` are how many steps between frames each leg has."""
    row = {"pair": sequence.id, "group": sequence.group, "cluster": sequence.id, "method": name}
    try:
        made = (
            _along_a_path(method, legs, sequence, steps, smooth=smooth)
            if has_path(method)
            else _leg_by_leg(method, legs, steps)
        )
    except Exception as error:  # whatever a method raises is that method's, and the run goes on
        log.debug("%s on %s", name, sequence.id, exc_info=error)
        made = Made(row={"status": FAILED, "failure": failed(name, sequence.id, error)})
    return Made(row={**row, **made.row}, frames=made.frames, speeds=made.speeds)


def _along_a_path(
    method: Method, legs: EncodedPairs, sequence: KeySequence, steps: Sequence[int], *, smooth: bool
) -> Made:
    chain, frames, cost = draw_chain(method, legs, sequence, steps, smooth=smooth)
    row = {
        "status": _worst(chain.statuses),
        "seconds": cost["seconds"],
        "evaluations": cost["evaluations"],
        "unet_calls": cost["unet_calls"],
        "peak_memory_mb": cost["peak_memory_mb"],
        "miss": chain.misses,
        "turn": chain.turns,
    }
    speeds = chain.velocities(torch.linspace(0, 1, DRAWN, dtype=torch.float64)).norm(dim=-1)
    return Made(row=row, frames=frames, speeds=speeds.cpu().numpy())


def _leg_by_leg(method: Method, legs: EncodedPairs, steps: Sequence[int]) -> Made:
    """Sequences between neighbours, one after the other; each key is shown as the leg has it that arrives there."""
    morphs = [
        method.morph(legs.restrict([leg]), torch.linspace(0, 1, count + 1, dtype=torch.float64))
        for leg, count in enumerate(steps)
    ]
    row = {
        "status": _worst([status for morph in morphs for status in morph.statuses]),
        "seconds": sum(morph.seconds for morph in morphs),
        "evaluations": 0,
        "unet_calls": sum(morph.unet_calls for morph in morphs),
        "peak_memory_mb": max(morph.peak_memory_mb for morph in morphs),
    }
    frames = [morph.frames[0, 1 if leg else 0 :].cpu() for leg, morph in enumerate(morphs)]
    return Made(row=row, frames=torch.cat(frames))


def _worst(statuses: Sequence[str]) -> str:
    """The status of a sequence: that of the first leg that did not end as it should, or of the first."""
    good = (Status.CONVERGED.value, Status.RESOLVED.value, Status.CLOSED_FORM.value)
    return next((status for status in statuses if status not in good), statuses[0])


def strip_of(
    keys: Float[Tensor, "k1 3 h w"], steps: Sequence[int], shown: Mapping[str, Float[Tensor, "n 3 h w"]]
) -> dict[str, Float[Tensor, "m 3 h w"]]:
    """The keys where they belong, and below them every sequence; of long ones some frames, the keys among them."""
    at = key_frames(steps)
    count = at[-1] + 1
    chosen = sorted({*at, *np.linspace(0, count - 1, min(count, WIDEST_STRIP)).round().astype(int).tolist()})
    first = torch.ones(count, *keys.shape[1:])
    first[at] = keys.cpu().float()
    return {"keys": first[chosen]} | {name: frames[chosen] for name, frames in shown.items()}


def worst_key(keys: Float[Tensor, "k1 3 h w"], steps: Sequence[int], frames: Float[Tensor, "n 3 h w"] | None) -> float:
    """PSNR in dB of the key that a sequence shows worst; NaN without frames."""
    return math.nan if frames is None else float(psnr(frames[key_frames(steps)], keys).min())
