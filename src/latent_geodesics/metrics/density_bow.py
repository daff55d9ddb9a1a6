r"""Whether a path is as typical on its way as at its ends.

A morph whose middle is far more probable than both ends has left the set in which noisy images lie, by the side on
which pictures fade; one whose middle is far less probable has left it by the other.

- `log_density_bow`: `max_u |log p(g(u)) - ((1-u) log p(g(0)) + u log p(g(1)))|`, in nats, from the line integral of
  the score;
- `noise_shift`: `|eps| / sqrt(d)` at the middle of the path less the mean of both ends', `eps = -sigma s` the noise
  that the network sees; three evaluations a path. It is that of the score that the geometry is made of.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.metrics.base import SequenceMetric
from latent_geodesics.metrics.columns import Column
from latent_geodesics.metrics.measured import MeasuredMorph

__all__ = ["DensityBow"]


class DensityBow(SequenceMetric):
    """The two columns of the module's text; a method without a path has neither."""

    columns: ClassVar = {
        "log_density_bow": Column(title="bow of the log-density, nats", better="lower"),
        "noise_shift": Column(title="noise in the middle less the ends'"),
    }

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """Both columns."""
        if measured.curves is None:
            return {}
        level = measured.curves.log_density
        u = measured.curves.u.to(level)
        linear = torch.lerp(level[:, :1], level[:, -1:], u)
        found = {"log_density_bow": (level - linear).abs().amax(-1)}
        if measured.morph.solution is None:
            return found
        at = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        x = measured.morph.solution.path.point(at)
        score = measured.pairs.problem.field.score(x, at.to(x).expand(x.shape[:-1]))
        noise = score.norm(dim=-1) * measured.pairs.model.sigma(measured.pairs.tau) / x.shape[-1] ** 0.5
        return found | {"noise_shift": noise[:, 1] - (noise[:, 0] + noise[:, 2]) / 2}
