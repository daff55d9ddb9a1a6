"""The distances that the geodesic one is compared with, between the same pictures.

| name | what |
|---|---|
| `spherical` | the arc between the noisy latents on the common sphere: the geodesic distance for alpha = 0 |
| `euclidean` | the straight line between the noisy latents, with the norms that they have |
| `autoencoder` | the straight line between the clean latents, tau = 0 |
| `pixels` | the root mean square difference of the pixels |
| `perceptual_clevr` | the shipped attribute network's features; see `models.attributes` |
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.manifold import Sphere
from latent_geodesics.experiments.distances.plan import Ends
from latent_geodesics.models.attributes import AttributeNetwork
from latent_geodesics.models.latent_model import LatentModel

RIVALS = ("spherical", "euclidean", "autoencoder", "pixels", "perceptual_clevr")
CHUNK = 64


def rival_distances(
    pictures: Float[Tensor, "m 3 h w"],
    ends: Sequence[Ends],
    *,
    x: Float[Tensor, "m d"],
    radius: float,
    model: LatentModel,
    network: AttributeNetwork,
) -> dict[str, Float[np.ndarray, " k"]]:
    """Name -> distance between the two pictures of each of `ends`; `x` are their latents, with their own norms."""
    first, second = torch.tensor(list(ends), dtype=torch.long).reshape(-1, 2).T
    clean, noisy, sphere = model.encode(pictures, tau=0.0).cpu(), x.cpu(), Sphere(radius)
    points = sphere.project(noisy)
    found = {
        "spherical": sphere.distance(points[first], points[second]),
        "euclidean": (noisy[first] - noisy[second]).norm(dim=-1),
        "autoencoder": (clean[first] - clean[second]).norm(dim=-1),
        "pixels": (pictures[first] - pictures[second]).square().mean(dim=(1, 2, 3)).sqrt(),
        "perceptual_clevr": _perceptual(network, pictures, first, second),
    }
    return {name: found[name].double().numpy() for name in RIVALS}


@torch.no_grad()
def _perceptual(network: AttributeNetwork, pictures: Tensor, first: Tensor, second: Tensor) -> Tensor:
    starts = range(0, len(first), CHUNK)
    parts = ((first[start : start + CHUNK], second[start : start + CHUNK]) for start in starts)
    return torch.cat([torch.zeros(0), *(network.perceptual_distance(pictures[a], pictures[b]) for a, b in parts)])
