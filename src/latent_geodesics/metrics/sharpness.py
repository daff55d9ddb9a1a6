r"""Whether frames are as sharp as the images they lead between: a blend of two sharp images is not.

With V(x) the variance over pixels of the discrete Laplacian of x's luminance (Pertuz et al. 2013),

    sharpness = mean over the inner frames of V(x_k) / ((1 - u_k) V(A) + u_k V(B)).

1: as sharp as the two images; below: blurred; above: sharper, or noisier, which this cannot tell apart.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from latent_geodesics.metrics.base import Column, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph

_LUMINANCE = (0.299, 0.587, 0.114)
_LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


class Sharpness(SequenceMetric):
    """`sharpness`, relative to the ends; NaN where both images are of one colour."""

    columns: ClassVar = {"sharpness": Column(title="sharpness, ends = 1")}

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """The column."""
        batch, frames = measured.pairs.batch, measured.morph.frames
        inner = frames[:, 1:-1]
        found = laplacian_variance(inner.flatten(0, 1)).view(inner.shape[:2])
        first, second = laplacian_variance(batch.images_a.to(frames)), laplacian_variance(batch.images_b.to(frames))
        expected = torch.lerp(first[:, None], second[:, None], measured.u[1:-1].to(first))
        return {"sharpness": torch.where(expected > 0, found / expected, torch.nan).mean(-1)}


def laplacian_variance(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """The variance of the Laplacian of the luminance of images in [0, 1], over the pixels that have four neighbours."""
    images = images.double()
    luminance = (images * torch.tensor(_LUMINANCE).to(images)[:, None, None]).sum(1, keepdim=True)
    kernel = torch.tensor(_LAPLACIAN).to(images)[None, None]
    return functional.conv2d(luminance, kernel).flatten(1).var(-1, correction=0)
