"""Whitening of an autoencoder's latents, folded exactly into its own layers.

With mean m and covariance C of the posterior means over all places of the training frames, the ZCA map is z' =
C^(-1/2) (z - m): it decorrelates the channels and gives each unit variance while moving them as little as
possible. The map goes into `quant_conv`, its inverse into `post_quant_conv`, both 1x1 convolutions, so the
decoded image is unchanged and the folder stays an ordinary Stable Diffusion one with `scaling_factor` 1. The
posterior's log-variance becomes a constant, its mean over the frames.
"""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor

from recipes.clevr.training.frames import as_unit

__all__ = ["LatentMoments", "encode_means", "latent_moments", "whiten"]

_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class LatentMoments:
    """Moments of the posterior over all places of all frames.

    Args:
        mean: of the posterior means.
        covariance: of the posterior means.
        variance: mean of the posterior's own variances.
    """

    mean: Float[Tensor, " c"]
    covariance: Float[Tensor, "c c"]
    variance: Float[Tensor, " c"]


def encode_means(autoencoder: AutoencoderKL, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n c i j"]:
    """Posterior means of frames, float32."""
    with torch.no_grad():
        parts = [
            autoencoder.encode(2 * as_unit(part) - 1).latent_dist.mean.float() for part in torch.split(images, _CHUNK)
        ]
    return torch.cat(parts)


def latent_moments(autoencoder: AutoencoderKL, images: UInt8[Tensor, "n 3 h w"]) -> LatentMoments:
    """Moments over the given frames, at least two of them."""
    if len(images) < 2:
        raise ValueError(f"moments need at least two frames, got {len(images)}")
    means, variances = [], []
    with torch.no_grad():
        for part in torch.split(images, _CHUNK):
            posterior = autoencoder.encode(2 * as_unit(part) - 1).latent_dist
            means.append(posterior.mean.transpose(0, 1).flatten(1).double())
            variances.append(posterior.var.transpose(0, 1).flatten(1).double())
    places = torch.cat(means, dim=1)
    return LatentMoments(
        mean=places.mean(1), covariance=torch.cov(places), variance=torch.cat(variances, dim=1).mean(1)
    )


def whiten(autoencoder: AutoencoderKL, moments: LatentMoments) -> None:
    """Fold the ZCA map of `moments` into `autoencoder`, in place.

    Raises:
        ValueError: when a latent channel does not vary, so that no whitening exists.
    """
    values, vectors = torch.linalg.eigh(moments.covariance.double())
    if float(values[0]) <= 1e-10:
        raise ValueError(f"a latent channel is constant (smallest eigenvalue {float(values[0]):.3g}): train longer")
    forward = vectors @ torch.diag(values.rsqrt()) @ vectors.mT
    backward = vectors @ torch.diag(values.sqrt()) @ vectors.mT
    mean, channels = moments.mean.double(), len(moments.mean)
    quant, post = autoencoder.quant_conv, autoencoder.post_quant_conv
    with torch.no_grad():
        weight, bias = quant.weight.double().flatten(1), quant.bias.double()
        spread = forward.square() @ moments.variance.double()
        weight[:channels], weight[channels:] = forward @ weight[:channels], 0.0
        bias[:channels], bias[channels:] = forward @ (bias[:channels] - mean), spread.log()
        quant.weight.copy_(weight[..., None, None])
        quant.bias.copy_(bias)
        inner = post.weight.double().flatten(1)
        post.bias.copy_(post.bias.double() + inner @ mean)
        post.weight.copy_((inner @ backward)[..., None, None])
    autoencoder.register_to_config(scaling_factor=1.0)
