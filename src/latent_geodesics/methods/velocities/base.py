"""The seam of initial velocities: images in, starts and velocities on their spheres out.

Every velocity is checked here: a zero one, one without a tangent part (a radial one) and one that is not finite give no
direction, and are refused with a sentence that names the image.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.manifold import Manifold, Sphere
from latent_geodesics.methods.departure import Departure, Launch

__all__ = ["InitialVelocity", "aimed", "check_angle", "tangent_part"]


class InitialVelocity(ABC):
    """Says in which direction, how far and under which condition a path leaves its image.

    Attributes:
        needs_second: whether it needs a second image.
        words: what the velocity is, for reports.
    """

    needs_second: bool = False
    words: str = ""

    @abstractmethod
    def launch(self, departure: Departure) -> Launch:
        """Start and velocity for each image.

        Raises:
            UserError: when a velocity is zero, radial, not finite or of the wrong size.
        """

    def check(self, prompts: dict[str, tuple[str, str]]) -> None:
        """Refuse, before anything is computed, images that this velocity cannot leave.

        Args:
            prompts: for each image what it shows, and what its second image shows.
        """
        del prompts


def aimed(
    directions: Float[Tensor, "p d"],
    departure: Departure,
    *,
    angle: float | None,
    cause: str,
    remedy: str,
) -> Launch:
    """A launch from the first images, each on the sphere of its own norm, along the tangent parts of `directions`.

    Args:
        directions: a vector for each image, tangent or not.
        departure: the images.
        angle: the length of the paths as an angle, in radians; None keeps the length of each vector, as published.
        cause: what the vectors are, for a message.
        remedy: what to do when one of them gives no direction.

    Raises:
        UserError: when a vector is not finite, zero, or radial.
    """
    x0, radius = departure.first.latents, departure.first.norms
    directions = directions.to(x0)
    tangent = tangent_part(directions, x0, Sphere(radius=radius), ids=departure.ids, cause=cause, remedy=remedy)
    length = directions.norm(dim=-1) if angle is None else angle * radius
    return Launch(
        x0=x0,
        v0=tangent / tangent.norm(dim=-1, keepdim=True) * length[:, None],
        radius=radius,
        norms=radius,
        condition0=departure.first.condition,
    )


def tangent_part(
    v: Float[Tensor, "p d"], x: Float[Tensor, "p d"], manifold: Manifold, *, ids: list[str], cause: str, remedy: str
) -> Float[Tensor, "p d"]:
    """The part of each velocity along the manifold, where there is one.

    Raises:
        UserError: when a velocity is not finite, zero, or has no tangent part beyond rounding error.
    """
    tangent = manifold.tangent(x, v)
    size, along = v.norm(dim=-1), tangent.norm(dim=-1)
    least = math.sqrt(torch.finfo(v.dtype).eps)
    for bad, words in (
        (~torch.isfinite(v).all(-1), "is not finite"),
        (size == 0, "is zero"),
        (along <= least * size, "is radial (it points away from the origin and has no part along the sphere)"),
    ):
        if bool(bad.any()):
            name = ids[int(bad.nonzero()[0])]
            raise UserError(f"The initial velocity of '{name}', {cause}, {words}, so there is no way to go: {remedy}.")
    return tangent


def check_angle(angle: float | None) -> None:
    """Refuse an angle that is not a positive number.

    Raises:
        UserError: for one that is not.
    """
    if angle is not None and not (math.isfinite(angle) and angle > 0):
        raise UserError(f"The angle of an initial velocity must be a positive number of radians, or null; got {angle}.")
