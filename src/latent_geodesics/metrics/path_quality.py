"""Numbers of a path in the latent space, from its curves."""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.metrics.base import SequenceMetric
from latent_geodesics.metrics.columns import Column
from latent_geodesics.metrics.measured import MeasuredMorph

__all__ = ["PathQuality"]


class PathQuality(SequenceMetric):
    """Length, log-density and residual of a path; a method without a path has none of them.

    - `length`: int p~^-alpha |g'| du, p~ relative to the density at the path's start;
    - `log_density_mean`, `log_density_min`: over the path without its two ends, which every method shares, in nats,
      relative to its start;
    - `log_density_end`: at the far end. Where the prompt changes along the path the score is the gradient of no single
      density, and this number tells by how much paths between the same ends disagree;
    - `residual_mean`: mean norm of the geodesic gradient over the interior of the path.
    """

    columns: ClassVar = {
        "log_density_mean": Column(title="mean log-density, nats", better="higher"),
        "log_density_min": Column(title="least log-density, nats", better="higher"),
        "log_density_end": Column(title="log-density at the far end, nats", shown=False),
        "length": Column(title="relative length", better="lower"),
        "residual_mean": Column(title="residual", better="lower"),
    }

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """The columns named above."""
        curves = measured.curves
        if curves is None:
            return {}
        return {
            "length": curves.length,
            "log_density_mean": curves.log_density[:, 1:-1].mean(-1),
            "log_density_min": curves.log_density[:, 1:-1].min(-1).values,
            "log_density_end": curves.log_density[:, -1],
            "residual_mean": curves.residual[:, 1:-1].mean(-1),
        }
