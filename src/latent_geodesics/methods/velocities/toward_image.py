"""Leave one image in the direction of another."""

import math

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.manifold import Sphere
from latent_geodesics.methods.departure import Departure, Launch
from latent_geodesics.methods.velocities.base import InitialVelocity, aimed

__all__ = ["TowardImage"]


class TowardImage(InitialVelocity):
    """The logarithm of the second image at the first: the velocity of the great circle that joins them.

    The geodesic that leaves the first image this way does not meet the second, unless the density is uniform: it shows
    where the density turns it. The condition stays that of the first image.

    Args:
        share: The length of the path as a share of the distance to the second image.

    Raises:
        UserError: if `share` is not a positive number.
    """

    needs_second = True
    words = "the direction from one image to another (the logarithm map)"

    def __init__(self, *, share: float = 1.0) -> None:
        if not (math.isfinite(share) and share > 0):
            raise UserError(f"share must be a positive number (1 goes as far as the second image is); got {share}.")
        self.share = share

    def launch(self, departure: Departure) -> Launch:
        """The first image of each pair, and the great-circle velocity to the second times `share`."""
        assert departure.second is not None
        sphere = Sphere(radius=departure.first.norms)
        toward = sphere.log(departure.first.latents, sphere.project(departure.second.latents))
        return aimed(
            self.share * toward,
            departure,
            angle=None,
            cause="the direction to the second image",
            remedy="give two images that differ, and that are not opposite each other",
        )
