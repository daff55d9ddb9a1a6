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


class Ghosting(SequenceMetric):
    """The two columns of the module's text; `ghosting` is NaN where every inner frame is one of the ends."""

    columns: ClassVar = {
        "ghosting": Column(title="ghosting, cross-fade = 1", better="lower"),
        "blend_rmse": Column(title="distance to a cross-fade", shown=False),
    }

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """Both columns."""
        batch = measured.pairs.batch
        ghosting, rest = blends(measured.morph.frames, batch.images_a, batch.images_b)
        return {"ghosting": ghosting, "blend_rmse": rest.mean(-1).sqrt()}


def blends(
    frames: Float[Tensor, "p n 3 h w"], images_a: Float[Tensor, "p 3 h w"], images_b: Float[Tensor, "p 3 h w"]
) -> tuple[Float[Tensor, " p"], Float[Tensor, "p m"]]:
    """The ghosting of sequences between two images each, and r^2 a pixel of each inner frame."""
    a, b = (image.to(frames).flatten(1).double() for image in (images_a, images_b))
    way = b - a
    least = torch.finfo(way.dtype).tiny
    rests, nearer = [], []
    for frame in frames[:, 1:-1].unbind(1):  # one at a time: in double precision a long film takes much memory
        from_a = frame.flatten(1).double() - a
        weight = ((from_a * way).sum(-1) / way.square().sum(-1).clamp_min(least)).clamp(0, 1)[:, None]
        rests.append((from_a - weight * way).square().mean(-1))
        nearer.append(torch.minimum(from_a.square().mean(-1), (from_a - way).square().mean(-1)))
    rest, apart = torch.stack(rests, dim=1), torch.stack(nearer, dim=1).sum(-1)
    return torch.where(apart > 0, 1 - rest.sum(-1) / apart, torch.nan), rest
