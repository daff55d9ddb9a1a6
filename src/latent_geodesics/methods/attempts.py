"""Running a method so that a pair on which it fails costs no other pair its sequence."""

import logging
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.records import Status
from latent_geodesics.methods.base import Method, Morph
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.methods.statuses import FAILED, UNINVERTED

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What came of a method on some pairs: sequences, or frames that are all NaN and what was raised, in words."""

    pairs: EncodedPairs
    morph: Morph
    failure: str | None = None


def attempt(name: str, method: Method, pairs: EncodedPairs, u: Float[Tensor, " n"]) -> list[Attempt]:
    """Runs a method on a batch, and where that fails on each of its pairs alone.

    Args:
        name: The method's name, for the log.
        method: The method.
        pairs: The batch.
        u: The positions of the frames.

    Returns:
        Attempts that hold every pair once, in the batch's order.
    """
    alone = len(pairs.batch) == 1
    fault = pairs.fault(0) if alone and pairs.lost else None
    if fault is not None:
        return [Attempt(pairs=pairs, morph=_nothing(pairs, u, UNINVERTED), failure=fault.sentence)]
    if not pairs.lost:
        try:
            return [Attempt(pairs=pairs, morph=_whole(method.morph(pairs, u)))]
        except Exception as error:  # whatever a method raises is that method's, and the run goes on
            if alone:
                log.debug("%s on %s", name, pairs.batch.ids[0], exc_info=error)
                failure = failed(name, pairs.batch.ids[0], error)
                return [Attempt(pairs=pairs, morph=_nothing(pairs, u, FAILED), failure=failure)]
    return [part for row in range(len(pairs.batch)) for part in attempt(name, method, pairs.restrict([row]), u)]


def failed(name: str, item: str, error: Exception) -> str:
    """What a method raised on an item of a run, in words; the log is told."""
    failure = " ".join(f"{type(error).__name__}: {error}".split())
    log.warning("%s failed on %s; the run goes on. %s", name, item, failure)
    return failure


def _whole(morph: Morph) -> Morph:
    """What a method made, of which every frame is a picture, unless its status says already that none is.

    Raises:
        UserError: where one is not.
    """
    for status, frames in zip(morph.statuses, morph.frames, strict=True):
        holes = int((~torch.isfinite(frames).flatten(1).all(-1)).sum())
        if holes and status != Status.NON_FINITE_SCORE.value:
            raise UserError(
                f"{holes} of {len(frames)} frames came out of the network and the autoencoder with pixels that are not "
                "finite numbers; lower tau or guidance, or choose model.dtype=float32"
            )
    return morph


def _nothing(pairs: EncodedPairs, u: Float[Tensor, " n"], status: str) -> Morph:
    """No sequences: NaN in every pixel."""
    images = pairs.batch.images_a
    return Morph(
        frames=torch.full((len(images), len(u), *images.shape[1:]), torch.nan),
        statuses=(status,) * len(images),
        evaluations=torch.zeros(len(images)),
        seconds=float("nan"),
    )
