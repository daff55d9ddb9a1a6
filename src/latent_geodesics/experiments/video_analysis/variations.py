"""Paths made from a video's: perturbed, smoothed, and the great circle between its ends. Both ends always stay.

A *step* is the mean distance of neighbouring frames of the video; amplitudes are in steps and widths in frames, so that
videos of different pace are treated alike.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.manifold import Sphere
from latent_geodesics.core.path import GreatCircle

REACH = 4.0  # of a Gaussian kernel, in widths


def mean_step(points: Float[Tensor, "v n d"], sphere: Sphere) -> Float[Tensor, " v"]:
    """The mean distance of neighbouring frames, in [x]."""
    return sphere.distance(points[:, :-1], points[:, 1:]).mean(-1)


def great_circle(points: Float[Tensor, "v n d"], sphere: Sphere) -> Float[Tensor, "v n d"]:
    """As many even points of the shorter great circle between the ends: what no smoothing can go beyond."""
    u = torch.linspace(0, 1, points.shape[1], dtype=torch.float64)
    return GreatCircle(x0=points[:, 0], x1=points[:, -1], sphere=sphere).point(u)


def tangent_noise(frames: int, dimension: int, *, seed: int, draw: int) -> Float[Tensor, "n d"]:
    """Gaussian noise of mean square length 1 for each frame, the same for every video and amplitude.

    Args:
        frames: `n`.
        dimension: `d`.
        seed: What the random numbers follow from.
        draw: Which of the independent draws.
    """
    generator = torch.Generator().manual_seed(seed * 65_537 + draw)
    return torch.randn(frames, dimension, generator=generator) / math.sqrt(dimension)


def perturbed(
    points: Float[Tensor, "v n d"], sphere: Sphere, *, amplitude: float, noise: Float[Tensor, "n d"]
) -> Float[Tensor, "v n d"]:
    """Every inner frame moved along the sphere by `amplitude` steps times the tangent part of its noise."""
    size = (amplitude * mean_step(points, sphere))[:, None, None]
    away = size * sphere.tangent(points, noise.to(points).expand_as(points))
    moved = sphere.exp(points[:, 1:-1], away[:, 1:-1])
    return torch.cat([points[:, :1], moved, points[:, -1:]], 1)


def smoothed(points: Float[Tensor, "v n d"], sphere: Sphere, *, width: float) -> Float[Tensor, "v n d"]:
    """The frames averaged over time with a Gaussian kernel of standard deviation `width` frames, then projected.

    Beyond its ends a path goes on as its own reflection in the end, which the kernel therefore leaves in place.
    """
    n = points.shape[1]
    reach = min(n - 1, max(1, round(REACH * width)))
    before = 2 * points[:, :1] - points[:, 1 : reach + 1].flip(1)
    after = 2 * points[:, -1:] - points[:, n - 1 - reach : n - 1].flip(1)
    extended = torch.cat([before, points, after], 1)
    lags = torch.arange(-reach, reach + 1, dtype=points.dtype, device=points.device)
    kernel = torch.exp(-0.5 * (lags / width).square())
    mean = extended.unfold(1, 2 * reach + 1, 1) @ (kernel / kernel.sum())
    inner = sphere.project(mean[:, 1:-1])
    return torch.cat([points[:, :1], inner, points[:, -1:]], 1)
