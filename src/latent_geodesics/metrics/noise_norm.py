"""Whether a path stays where noisy images lie, by the norm of the noise that the network finds there.

A noisy latent is x = sqrt(abar) z + sigma eps with |eps| near sqrt(d), and a network that has learnt the noise predicts
one of nearly that norm: |eps(x)| / sqrt(d) is close to 1 for noised real images, with a spread of a few hundredths. It
is less where x is more probable than noisy images are (for the conditional score |s| = |eps| / sigma), which is where a
path through the most probable latents leads. Inverted images lie below 1 themselves, so the middle of a path is held
against its ends: `noise_norm_ends` are those.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.metrics.base import FrameMetric
from latent_geodesics.metrics.columns import Column
from latent_geodesics.metrics.measured import MeasuredMorph

MIDDLE = (0.25, 0.75)


class NoiseNorm(FrameMetric):
    """|eps| / sqrt(d) over the middle half of a path, and at its ends; a method without a path has neither.

    The points are those that are decoded, under the condition by which they are. Costs a network evaluation a frame.
    """

    needs = "path"
    columns: ClassVar = {
        "noise_norm": Column(title="|eps| / sqrt(d) in the middle"),
        "noise_norm_ends": Column(title="|eps| / sqrt(d) at the ends"),
    }

    def per_frame(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, "p n"]]:
        """`noise_norm` at the position of each frame; NaN without a path."""
        solution, pairs = measured.morph.solution, measured.posed
        if solution is None:
            return {"noise_norm": torch.full(measured.morph.frames.shape[:2], torch.nan)}
        model, x = pairs.model, pairs.points(solution.path, measured.u)
        rows = x.flatten(0, 1).float()
        t = torch.full((len(rows),), model.time(pairs.tau), dtype=torch.long, device=rows.device)
        eps = model.network.noise(rows, t, pairs.condition(measured.u).flatten(0, 1))
        return {"noise_norm": (eps.norm(dim=-1) / model.dimension**0.5).view(x.shape[:2]).cpu()}

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """Both columns."""
        found = self.per_frame(measured)["noise_norm"]
        low, high = MIDDLE
        middle = ((measured.u >= low) & (measured.u <= high)).cpu()
        return {"noise_norm": found[:, middle].mean(-1), "noise_norm_ends": found[:, [0, -1]].mean(-1)}
