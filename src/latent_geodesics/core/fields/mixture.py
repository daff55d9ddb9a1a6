r"""Mixtures of isotropic Gaussians: the smallest density with several modes and valleys between them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.fields.base import Density


class GaussianMixture(Density):
    r"""`p(x) = sum_k weights_k N(x; means_k, scales_k^2 I)`, with its score in closed form.

    Args:
        means: centres.
        scales: standard deviations, above zero.
        weights: mixture weights, above zero; they are normalised to sum to one.

    Raises:
        ValueError: if shapes disagree, or a scale or weight is not a positive number.
    """

    def __init__(
        self,
        *,
        means: Float[Tensor, "k d"],
        scales: Float[Tensor, " k"],
        weights: Float[Tensor, " k"] | None = None,
    ) -> None:
        weights = torch.ones_like(scales) if weights is None else weights
        if means.ndim != 2 or scales.shape != means.shape[:1] or weights.shape != means.shape[:1]:
            shapes = f"{tuple(means.shape)}, {tuple(scales.shape)} and {tuple(weights.shape)}"
            raise ValueError(f"means, scales and weights must have the shapes [k d], [k] and [k]; received {shapes}.")
        for name, values in (("scales", scales), ("weights", weights)):
            if not bool(((values > 0) & torch.isfinite(values)).all()):
                raise ValueError(f"{name} must be positive and finite; received {values.tolist()}.")
        self.means, self.scales = means, scales
        self.weights = weights / weights.sum()

    def log_prob(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The normalised log-density, in nats; `u` is ignored."""
        return torch.logsumexp(self._log_terms(x), dim=-1)

    def score(self, x: Float[Tensor, "*b d"], u: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """`sum_k r_k(x) (means_k - x) / scales_k^2` with the responsibilities `r_k`; `u` is ignored."""
        share = torch.softmax(self._log_terms(x), dim=-1) / self.scales.to(x).square()
        return share @ self.means.to(x) - share.sum(-1, keepdim=True) * x

    def _log_terms(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b k"]:
        means, scales, weights = self.means.to(x), self.scales.to(x), self.weights.to(x)
        squared = (x.unsqueeze(-2) - means).square().sum(-1)
        log_normaliser = x.shape[-1] * (scales.log() + 0.5 * math.log(2 * math.pi))
        return weights.log() - log_normaliser - 0.5 * squared / scales.square()
