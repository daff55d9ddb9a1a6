r"""Whether frames are mere blends of the two ends: what low perceptual lengths reward, and no morph should be.

The best blend of the two images A, B for a frame x has the weight that least squares gives, kept between 0 and 1:

    w = clip(<x - A, B - A> / |B - A|^2, 0, 1),        r^2 = |x - (1 - w) A - w B|^2.

Over the inner frames,

- `ghosting` = 1 - sum r^2 / sum e^2 with e = min(|x - A|, |x - B|): the share of what sets the frames apart from the
  nearer end that a blend explains. A cross-fade has 1. An object that has moved to where neither end shows one, on the
  same floor, has 1/4 (with o^2 the squared difference that one object makes, e^2 = 2 o^2 and r^2 = 3/2 o^2).
- `blend_rmse`: the root mean square of r over pixels and channels, of images in [0, 1]: the distance to the nearest
  cross-fade.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.metrics.base import SequenceMetric
from latent_geodesics.metrics.columns import Column
from latent_geodesics.metrics.measured import MeasuredMorph

__all__ = ["Ghosting"]


class Ghosting(SequenceMetric):
    """The two columns of the module's text; `ghosting` is NaN where every inner frame is one of the ends."""

    columns: ClassVar = {
        "ghosting": Column(title="ghosting, cross-fade = 1", better="lower"),
        "blend_rmse": Column(title="distance to a cross-fade", shown=False),
    }

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """Both columns."""
        batch = measured.pairs.batch
        x = measured.morph.frames[:, 1:-1].flatten(2).double()
        a, b = (image.to(x).flatten(1)[:, None] for image in (batch.images_a, batch.images_b))
        way = b - a
        weight = ((x - a) * way).sum(-1) / way.square().sum(-1).clamp_min(torch.finfo(x.dtype).tiny)
        weight = weight.clamp(0, 1)[..., None]
        rest = (x - torch.lerp(a.expand_as(x), b.expand_as(x), weight)).square().mean(-1)
        nearer = torch.minimum((x - a).square().mean(-1), (x - b).square().mean(-1))
        apart = nearer.sum(-1)
        return {
            "ghosting": torch.where(apart > 0, 1 - rest.sum(-1) / apart, torch.nan),
            "blend_rmse": rest.mean(-1).sqrt(),
        }
