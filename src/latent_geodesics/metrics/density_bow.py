"""How far the log-density of a path is from linear: what is lost, or gained, between two ends.

`max_u |log p(g(u)) - (1 - u) log p(g(0)) - u log p(g(1))|`, in nats: zero where log p changes evenly along the path, as
along the geodesics of the graph of log p; large where a path cuts across improbable points, or climbs to improbably
probable ones.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.metrics.base import Column, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph


class DensityBow(SequenceMetric):
    """The column of the module's text; a method without a path, or under a prompt that moves, has none."""

    needs = "path"
    columns: ClassVar = {"log_density_bow": Column(title="bow of the log-density, nats", better="lower")}

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """The column."""
        if measured.curves is None:
            return {}
        level = measured.curves.log_density
        linear = torch.lerp(level[:, :1], level[:, -1:], measured.curves.u.to(level))
        moving = measured.posed.moving.to(level.device)
        return {"log_density_bow": torch.where(moving, torch.nan, (level - linear).abs().amax(-1))}
