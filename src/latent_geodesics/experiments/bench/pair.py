"""One pair from its images to its frames: what a user waits for."""

from typing import Any

import torch

from latent_geodesics.core.records import Status
from latent_geodesics.data import PairBatch
from latent_geodesics.methods import PairEncoder
from latent_geodesics.methods.base import CurveMethod
from latent_geodesics.models.accelerator import DECODING, SOLVING
from latent_geodesics.models.latent_model import LatentModel


def pair_cost(
    model: LatentModel,
    batch: PairBatch,
    method: CurveMethod,
    *,
    score: Any,
    tau: float,
    alpha: float,
    frames: int,
    guidance: float,
) -> dict[str, float]:
    """Seconds by stage and what was asked of the network, once all is warm and with no inversion remembered.

    Args:
        model: The diffusion model.
        batch: One pair.
        method: What makes its sequence.
        score: The score that makes the geometry.
        tau: Noise level.
        alpha: Power of the density.
        frames: Images of the sequence, both ends included.
        guidance: Classifier-free guidance at decoding.

    Returns:
        `pair/seconds` and its parts by stage; `pair/score_evaluations`; latents through the U-Net for inverting
        (`pair/inversion_calls`) and for solving and decoding (`pair/unet_calls`); `pair/converged`, 1 where the path
        was solved to the tolerance asked for or to what its scores resolve, else 0.
    """
    encoder = PairEncoder(model=model, score=score, tau=tau, alpha=alpha, guidance=guidance, remember=False)
    u = torch.linspace(0, 1, frames, dtype=torch.float64)
    method.morph(encoder.encode(batch), u)  # what is slow the first time
    before = model.network_evaluations
    pairs = encoder.encode(batch)  # of a network with random weights too, which may have no inverse
    inverted = model.network_evaluations - before
    morph = method.morph(pairs, u)
    stages = dict(pairs.seconds) | {SOLVING: morph.seconds_solving, DECODING: morph.seconds_decoding}
    assert morph.solution is not None
    return {f"pair/seconds_{stage}": seconds for stage, seconds in stages.items()} | {
        "pair/seconds": sum(stages.values()),
        "pair/score_evaluations": float(morph.evaluations[0]),
        "pair/inversion_calls": float(inverted),
        "pair/unet_calls": morph.unet_calls,
        "pair/converged": float(morph.solution.status[0].value in Status.solved()),
    }
