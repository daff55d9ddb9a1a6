"""The line integral of the score held against exact log-densities, with the error that its quadrature states.

Wavy paths through densities whose log is known: along each the true log-density less its value at the start is compared
with the line integral at every position of the quadrature, and the difference with the stated error.
"""

import math

import pandas as pd
import torch

from latent_geodesics.core.fields import (
    Density,
    Exponential,
    GaussianMixture,
    HalfSpace,
    IsotropicGaussian,
    PoincareBall,
    StereographicSphere,
)
from latent_geodesics.core.geometry import density_profile
from latent_geodesics.core.manifold import Euclidean
from latent_geodesics.core.path import KnotPath

PATHS = 8
KNOTS = 9
PIECES = (8, 16, 32)


def check_line_integrals(*, seed: int) -> pd.DataFrame:
    """A row for each density and resolution.

    The columns are `density`, `dimension`, `pieces`, `range`, `true_error`, `stated_error` and `covered`. Errors are
    the largest over eight paths and all positions, in nats, in float64; `range` is how far the log-density varies
    along the paths; `covered` is the share of positions at which the true error is at most the stated one.
    """
    rows = []
    for number, (name, density, dimension, centre, half_width) in enumerate(_cases()):
        path = _wavy(dimension, centre, half_width, seed=seed + number)
        for pieces in PIECES:
            profile = density_profile(path, density, pieces=pieces)
            x = path.point(profile.u)
            exact = density.log_prob(x, profile.u.expand(x.shape[:-1]))
            exact = exact - exact[:, :1]
            wrong = (profile.log_density - exact).abs()
            rows.append(
                {
                    "density": name,
                    "dimension": dimension,
                    "pieces": pieces,
                    "range": float((exact.amax(-1) - exact.amin(-1)).max()),
                    "true_error": float(wrong.max()),
                    "stated_error": float(profile.error.max()),
                    "covered": float((wrong <= profile.error + 1e-12).double().mean()),
                }
            )
    return pd.DataFrame(rows)


def _cases() -> list[tuple[str, Density, int, float, float]]:
    """Densities in dimensions small and large; centre and half the width of the box that the paths run in."""
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    ring = torch.stack([angles.cos(), angles.sin()], dim=-1)
    far = torch.randn(5, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ones = torch.ones(8, dtype=torch.float64)
    slope = torch.tensor([0.6, -0.8], dtype=torch.float64)
    return [
        ("ring of 8 Gaussians", GaussianMixture(means=ring, scales=0.25 * ones), 2, 0.0, 1.0),
        ("mixture of 5 Gaussians", GaussianMixture(means=far, scales=2.0 * ones[:5]), 64, 0.0, 1.0),
        ("one Gaussian", IsotropicGaussian(mean=torch.zeros(16, dtype=torch.float64)), 16, 0.0, 1.5),
        ("half-space", HalfSpace(), 2, 1.5, 0.8),
        ("Poincare ball", PoincareBall(), 8, 0.0, 0.32),
        ("stereographic sphere", StereographicSphere(), 8, 0.0, 1.2),
        ("exponential", Exponential(direction=slope), 2, 0.0, 2.0),
    ]


def _wavy(dimension: int, centre: float, half_width: float, *, seed: int) -> KnotPath:
    """Lines between random points of the inner half of the box, bent by a quarter of its width; all within the box."""
    generator = torch.Generator().manual_seed(seed)
    x0, x1, bend = (2 * torch.rand(PATHS, 1, dimension, generator=generator, dtype=torch.float64) - 1 for _ in range(3))
    u = torch.linspace(0, 1, KNOTS, dtype=torch.float64)[:, None]
    line = torch.lerp(0.7 * x0, 0.7 * x1, u) + 0.25 * bend * torch.sin(2 * math.pi * u)
    return KnotPath.through(knots=centre + half_width * line, manifold=Euclidean())
