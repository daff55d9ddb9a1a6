"""Timing: at which positions of a path the frames of a sequence are taken.

A method draws its sequence at any positions; a `Timing` draws it once on trial and says where the frames should be.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.attributes import shared_network

Draw = Callable[[Tensor], Tensor]
"""The frames [n 3 h w] of one pair at positions [n] in [0, 1]."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""The distances [n] of images [n 3 h w] in [0, 1] from others."""


class AttributeDistance:
    """Creates the perceptual distance that ships with the project, `perceptual_clevr`.

    Args:
        network: Folder of the attribute network whose features are compared.
    """

    def __init__(self, *, network: str) -> None:
        self._network = shared_network(network)

    def __call__(self, a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """The distance of each image of the one row from that of the other."""
        with torch.no_grad():
            return self._network.perceptual_distance(a.cpu(), b.cpu())


class Timing(ABC):
    """Chooses the positions of a pair's frames."""

    @abstractmethod
    def positions(self, draw: Draw, u: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The positions to draw in place of u, from 0 to 1 and never falling.

        Args:
            draw: Draws the pair's sequence.
            u: How far along the sequence each frame should be, in [0, 1].
        """


class PerceptualTiming(Timing):
    """Equal perceptual steps: the frame at u lies where the share u of the sequence's whole change has happened.

    With trial frames x_0 .. x_m at positions v_k and the change C_k = sum_{j<k} D(x_j, x_{j+1})^q, the position of u is
    that where the piecewise linear C(v) / C_m equals u.

    References:
        Zhang et al. 2023, arXiv 2312.07409 (one pass, q = 1); Yang et al. 2023, arXiv 2311.06792 (IMPUS, who search
        until the steps are equal).

    Args:
        distance: D.
        power: q, above 0. 1 is as published; a distance that is quadratic in small changes, as squared features are,
            has equal steps after one pass with 1/2.
        passes: How many trial sequences are drawn, each at the positions found before, at least 1.
    """

    def __init__(self, *, distance: Distance, power: float = 1.0, passes: int = 1) -> None:
        if not 0 < power < float("inf"):
            raise UserError(f"the power of a perceptual timing must be above 0 (1 is as published), got {power}.")
        if passes < 1:
            raise UserError(f"a perceptual timing needs at least one pass, got {passes}.")
        self.distance, self.power, self.passes = distance, power, passes

    def positions(self, draw: Draw, u: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The positions; u itself where nothing changes along the sequence."""
        found = u
        for _ in range(self.passes):
            frames = draw(found)
            steps = self.distance(frames[:-1], frames[1:]).double().cpu().pow(self.power)
            change = torch.nn.functional.pad(steps.cumsum(0), (1, 0))
            if not float(change[-1]) > 0:
                return u
            found = _where(change / change[-1], found.double().cpu(), u.double().cpu()).to(u)
        return found


def _where(share: Float[Tensor, " m"], position: Float[Tensor, " m"], u: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The position at which a piecewise linear, rising share reaches u; the ends stay the ends."""
    right = torch.searchsorted(share, u).clamp(1, len(share) - 1)
    left = right - 1
    width = (share[right] - share[left]).clamp_min(torch.finfo(torch.float64).tiny)
    found = torch.lerp(position[left], position[right], ((u - share[left]) / width).clamp(0, 1))
    return torch.where(u <= 0, position[0], torch.where(u >= 1, position[-1], found))
