r"""Distances of two sets of images by their features x_1 .. x_n and y_1 .. y_m in R^d.

Fréchet (Heusel et al. 2017, arXiv 1706.08500), with means and covariances (over n - 1 and m - 1):

    |mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)).

With S_x = A^T A and S_y = B^T B, tr (S_x S_y)^(1/2) is the sum of the singular values of A B^T. This takes the root of
no matrix, and is exact where there are fewer images than dimensions, as is usual here.

Kernel (Bińkowski et al. 2018, arXiv 1801.01401): the unbiased estimate of the squared maximum mean discrepancy under
k(a, b) = (a.b / d + 1)^3. All images are used at once; the mean over random subsets, which others report, has the same
expectation with more variance.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

_ROWS = 1024


def frechet_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """The Fréchet distance, in float64; NaN for a set of fewer than two. Biased upwards for few images."""
    if min(len(x), len(y)) < 2:
        return float("nan")
    x, y = x.double(), y.double()
    a, b = _factor(x), _factor(y)
    shared: Tensor = torch.linalg.svdvals(a @ b.T).sum()
    found: Tensor = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * shared
    return float(found)


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """The kernel distance, in float64; NaN for a set of fewer than two. Unbiased, so that it may fall below 0."""
    if min(len(x), len(y)) < 2:
        return float("nan")
    x, y = x.double(), y.double()
    return _mean_kernel(x, x, apart=True) + _mean_kernel(y, y, apart=True) - 2 * _mean_kernel(x, y, apart=False)


def _factor(x: Float[Tensor, "n d"]) -> Float[Tensor, "k d"]:
    """A with A^T A the covariance, in as few rows as it needs."""
    centred: Tensor = (x - x.mean(0)) / math.sqrt(len(x) - 1)
    if len(x) <= x.shape[1]:
        return centred
    _, triangle = torch.linalg.qr(centred, mode="r")
    return torch.as_tensor(triangle)


def _mean_kernel(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, apart: bool) -> float:
    """The mean of the kernel over pairs; `apart` leaves out those of an image with itself."""
    total = math.fsum(float(((rows @ y.T) / x.shape[1] + 1).pow(3).sum()) for rows in torch.split(x, _ROWS))
    if not apart:
        return total / (len(x) * len(y))
    own = float((x.square().sum(-1) / x.shape[1] + 1).pow(3).sum())
    return (total - own) / (len(x) * (len(x) - 1))
