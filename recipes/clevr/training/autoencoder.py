"""The first stages: an autoencoder, diffusers' `AutoencoderKL`, and the whitening of its latents.

Loss, with x an image in [-1, 1], y its reconstruction, w >= 1 a weight that is large on objects and edges,
<.>_w the w-weighted mean:

    L = <|y - x|>_w + g (<|dx_h (y - x)|>_w + <|dx_v (y - x)|>_w) + k KL(q(z|x) || N(0, 1)),

dx_h, dx_v being differences between neighbouring pixels and w = 1 + c chroma + e edge, the larger of its 5x5
neighbourhood. Plain L1 is dominated by the smooth background and leaves the objects blurred.

Whitening: with mean m and covariance C of the posterior means over all places of the training frames, the ZCA map is
z' = C^(-1/2) (z - m): it decorrelates the channels and gives each unit variance while moving them as little as
possible. The map goes into `quant_conv`, its inverse into `post_quant_conv`, both 1x1 convolutions, so the
decoded image is unchanged and the folder stays an ordinary Stable Diffusion one with `scaling_factor` 1. The
posterior's log-variance becomes a constant, its mean over the frames.

Once the latents are whitened the encoder stays as it is and the decoder alone goes on with the same loss
(`DecoderTraining`): the diffusion model needs the latents early, the decoder has until the end.

References: Rombach et al., High-resolution image synthesis with latent diffusion models, 2022, arXiv 2112.10752.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.images import psnr
from recipes.clevr.training.fit import BudgetedModule, TrainingSettings, publish_grid
from recipes.clevr.training.frames import Frames, as_unit

_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings(TrainingSettings):
    """What the autoencoder is and how it is trained.

    Args (those of `TrainingSettings`, and):
        channels: widths from the image to the latent; each further one halves the side.
        layers: residual blocks a width.
        latent_channels: channels of the latent.
        resolution: side of the images, pixels.
        kl: weight k of the KL term (a mean over elements).
        gradient: weight g of the differences.
        chroma: weight c.
        edge: weight e.
        show_every: steps between grids.
    """

    channels: tuple[int, ...] = (32, 64, 64)
    layers: int = 1
    latent_channels: int = 4
    resolution: int = 64
    batch: int = 16
    weight_decay: float = 0.0
    kl: float = 2e-4
    gradient: float = 1.0
    chroma: float = 5.0
    edge: float = 5.0
    precision: str = "32-true"
    save_every: int = 200
    show_every: int = 500

    def __post_init__(self) -> None:
        if self.batch < 1 or self.save_every < 1 or self.show_every < 1:
            raise ValueError("batch, save_every and show_every must be >= 1")
        if min(self.kl, self.gradient, self.chroma, self.edge) < 0:
            raise ValueError("the weights kl, gradient, chroma and edge must be >= 0")


def build_autoencoder(settings: AutoencoderSettings) -> AutoencoderKL:
    """An untrained autoencoder."""
    blocks = len(settings.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=tuple(settings.channels),
        layers_per_block=settings.layers,
        latent_channels=settings.latent_channels,
        norm_num_groups=min(16, settings.channels[0]),
        sample_size=settings.resolution,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def foreground_weight(images: Float[Tensor, "n 3 h w"], *, chroma: float, edge: float) -> Float[Tensor, "n 1 h w"]:
    """W >= 1 of images in [0, 1], as the module says."""
    colour = images.amax(1, keepdim=True) - images.amin(1, keepdim=True)
    grey = functional.pad(images.mean(1, keepdim=True), (0, 1, 0, 1), mode="replicate")
    across = (grey[..., :-1, 1:] - grey[..., :-1, :-1]).abs()
    down = (grey[..., 1:, :-1] - grey[..., :-1, :-1]).abs()
    return functional.max_pool2d(1.0 + chroma * colour + edge * (across + down), 5, stride=1, padding=2)


def reconstruct(autoencoder: AutoencoderKL, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Decoded posterior means of images in [0, 1]."""
    with torch.no_grad():
        parts = [
            autoencoder.decode(autoencoder.encode(2 * part - 1).latent_dist.mean).sample
            for part in torch.split(images, 32)
        ]
    return ((torch.cat(parts).float() + 1) / 2).clamp(0, 1)


class AutoencoderTraining(BudgetedModule):
    """Trains an `AutoencoderKL` on frames.

    Args (those of `BudgetedModule`, and):
        frames: to train on.
        held_out: for the reported PSNR and the grids.
    """

    settings: AutoencoderSettings
    title = "autoencoder"  # of the curves and grids in the logger

    def __init__(
        self, *, settings: AutoencoderSettings, frames: Frames, held_out: Frames, seed: int, folder: Path
    ) -> None:
        super().__init__(settings=settings, samples=len(frames), seed=seed, folder=folder)
        self.autoencoder = build_autoencoder(settings)
        self.frames, self.held_out = frames, held_out

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """The loss of the batch that belongs to this step."""
        settings, chosen = self.settings, self.chosen()
        images = as_unit(self.frames.images[chosen]).to(self.device)
        posterior = self.posterior(chosen, images)
        noise = torch.randn(posterior.mean.shape, generator=self.generator()).to(self.device)
        decoded = self.autoencoder.decode(posterior.mean + posterior.std * noise).sample.float()
        pixel, gradient = self._errors(decoded - (2 * images - 1), images)
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        loss: Tensor = pixel + settings.gradient * gradient + settings.kl * kl
        parts = {"loss": loss, "pixel": pixel, "kl": kl}
        self.log_dict({f"{self.title}/{name}": value for name, value in parts.items()}, prog_bar=True)
        self.log(f"{self.title}/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def posterior(self, chosen: Int64[Tensor, " b"], images: Float[Tensor, "b 3 h w"]) -> Any:
        """The distribution of the latents of the chosen frames, whose images in [0, 1] are given."""
        return self.autoencoder.encode(2 * images - 1).latent_dist

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Now and then: held-out PSNR and a grid of originals over reconstructions."""
        if self.global_step % self.settings.show_every == 0 and self.trainer.is_global_zero:
            self.show()
        super().on_train_batch_end(outputs, batch, batch_idx)

    def show(self) -> None:
        """Measure and publish reconstructions of held-out frames."""
        images = as_unit(self.held_out.images[:64]).to(self.device)
        decoded = reconstruct(self.autoencoder, images)
        value = psnr(images, decoded).mean()
        if self.logger is not None:
            self.logger.log_metrics({f"{self.title}/psnr": float(value)}, step=self.global_step)
        publish_grid(
            torch.cat([images[:12], decoded[:12]]),
            columns=12,
            file=self.folder / f"reconstructions-{self.global_step:06d}-{float(value):.1f}dB.png",
            logger=self.logger,
            name=f"{self.title}/reconstructions",
            step=self.global_step,
        )

    def _errors(
        self, error: Float[Tensor, "n 3 h w"], images: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        weight = foreground_weight(images, chroma=self.settings.chroma, edge=self.settings.edge)
        weight = weight / weight.mean()
        across = (error[..., :, 1:] - error[..., :, :-1]).abs() * weight[..., :, 1:]
        down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
        return (error.abs() * weight).mean(), across.mean() + down.mean()


class DecoderTraining(AutoencoderTraining):
    """Trains the decoder alone, from the latents of a finished encoder.

    Args:
        autoencoder: the whitened autoencoder, of the shape of `settings`; its decoder is trained in place.
        latents: posterior means of the frames.
        training: the arguments of `AutoencoderTraining`.
    """

    title = "decoder"

    def __init__(self, *, autoencoder: AutoencoderKL, latents: Float[Tensor, "n c i j"], **training: Any) -> None:
        super().__init__(**training)
        if len(latents) != len(self.frames):
            raise ValueError(f"a latent a frame is needed, got {len(latents)} and {len(self.frames)}")
        self.autoencoder, self.latents = autoencoder, latents
        for part in (autoencoder.decoder, autoencoder.post_quant_conv):
            part.requires_grad_(True).train()
        for part in (autoencoder.encoder, autoencoder.quant_conv):
            part.requires_grad_(False)

    def posterior(self, chosen: Int64[Tensor, " b"], images: Float[Tensor, "b 3 h w"]) -> DiagonalGaussianDistribution:
        """The stored means with the variance that whitening left, the same everywhere."""
        means = self.latents[chosen].to(self.device)
        logvar = self.autoencoder.quant_conv.bias[means.shape[1] :, None, None].expand_as(means)
        return DiagonalGaussianDistribution(torch.cat([means, logvar], dim=1))


def given_autoencoder(folder: Path) -> AutoencoderKL:
    """The autoencoder of a model, float32, not trainable.

    Raises:
        UserError: when there is none.
    """
    try:
        autoencoder = AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"There is no autoencoder in '{folder}' ({' '.join(str(error).split())[:200]}): give "
            "task.given_autoencoder the folder of a model in diffusers' layout."
        ) from error
    found: AutoencoderKL = autoencoder.eval().requires_grad_(False)
    return found


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
