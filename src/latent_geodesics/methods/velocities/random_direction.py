"""Leave an image in a random direction."""

import hashlib

import torch

from latent_geodesics.methods.departure import Departure, Launch
from latent_geodesics.methods.velocities.base import InitialVelocity, aimed, check_angle

__all__ = ["RandomDirection"]


class RandomDirection(InitialVelocity):
    """A standard Gaussian vector, made tangent, as in the code published with Yu et al. 2025 (arXiv 2504.06675).

    The draw of an image depends on the seed and the image's name alone.

    Args:
        seed: Where the random numbers start.
        angle: The length of the path as an angle, in radians; None keeps the vector's own length, as published, which
            is about one radian, since both it and the latent have norms of about sqrt(d).

    Raises:
        UserError: if `angle` is not positive.
    """

    words = "a random direction"

    def __init__(self, *, seed: int = 0, angle: float | None = 0.7) -> None:
        check_angle(angle)
        self.seed, self.angle = seed, angle

    def launch(self, departure: Departure) -> Launch:
        """The first image, and a direction drawn for it."""
        size = departure.first.latents.shape[1]
        draws = [torch.randn(size, generator=self._generator(name), dtype=torch.float64) for name in departure.ids]
        return aimed(
            torch.stack(draws), departure, angle=self.angle, cause="drawn at random", remedy="choose another seed"
        )

    def _generator(self, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
