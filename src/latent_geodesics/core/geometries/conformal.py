r"""The metric `p^(-2 alpha) I`: improbable regions are slow to cross, in all directions alike.

    S[g] = int p(g)^-alpha |g'| du,        P_x g'' = -alpha |g'|^2 P_v s,

at constant Euclidean speed. Fermat's principle with the refractive index `p^-alpha`; `alpha` is an inverse temperature.

References:
    Yu et al., Probability Density Geodesics in Image Diffusion Latent Space (2025), arXiv 2504.06675.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.geometries.base import Geometry, Sight, checked_strength
from latent_geodesics.core.vectors import normal_to


@dataclass(frozen=True, kw_only=True)
class Conformal(Geometry):
    """The geometry of `p^alpha`, in which lengths are relative to the density at the start of a path.

    Args:
        alpha: the power on `p`, finite and at least zero.

    Raises:
        UserError: if alpha is no such number.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        checked_strength("alpha", self.alpha)

    @property
    def strength(self) -> float:
        """`alpha`."""
        return float(self.alpha)

    @property
    def power(self) -> float:
        """`alpha`."""
        return self.strength

    def force(self, sight: Sight) -> Float[Tensor, "*b d"]:
        """`P_v s`."""
        return normal_to(sight.velocity, sight.pull)

    def line_element(
        self,
        strength: float | Float[Tensor, "..."],
        *,
        speed: Float[Tensor, "*b"],
        rate: Float[Tensor, "*b"],
        log_density: Float[Tensor, "*b"],
    ) -> Float[Tensor, "*b"]:
        """`p^-alpha |v|`."""
        del rate
        return (-strength * log_density).exp() * speed

    def stretch(
        self, strength: float | Float[Tensor, "..."], log_density: Float[Tensor, "*b k"]
    ) -> Float[Tensor, "*b k"]:
        """`-alpha log p`."""
        return -strength * (log_density - log_density.mean(-1, keepdim=True))
