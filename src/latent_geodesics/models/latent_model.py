"""A pre-trained latent diffusion model: images to latents at a noise level, back again, and the score in between.

The space of all geodesics is the *noisy latent space*: images are encoded, then carried to the noise level tau by
deterministic DDIM inversion; decoding runs the same steps back. At tau = 0 it is the autoencoder's latent space
itself.

Symbols: `c, h, w` latent channels, height, width; `d = c h w`; `tau` noise level in [0, 1), reached in `round(tau *
steps)` DDIM steps. Images are float32 in [0, 1], latents are flat float32; half precision stays inside the network.

References:
    Rombach et al. 2022, arXiv 2112.10752 (latent diffusion); Song, Meng, Ermon 2020, arXiv 2010.02502 (DDIM).
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.accelerator import ENCODING, Stopwatch, is_compiled
from latent_geodesics.models.families import Components
from latent_geodesics.models.inversion import Inverted, denoise, invert
from latent_geodesics.models.latent_field import Ladder, LatentField, TextConditioner
from latent_geodesics.models.network import Denoiser, Guidance, ImageCodec
from latent_geodesics.models.precision import Precision, fastest_layout
from latent_geodesics.models.scores import Conditional, Score, check_guidance
from latent_geodesics.models.store import TensorCache, content_key, weights_hash
from latent_geodesics.models.textual_inversion import TextInversion, TextSubject

log = logging.getLogger(__name__)

# Relative change at which an inversion step is solved; in half precision less is not resolved.
_INVERSION_TOLERANCE = 1e-5
_HALF_TOLERANCE = 5e-4


class LatentModel:
    """Encodes, decodes, conditions and scores with one diffusion model. Usually made by `load_model`.

    Args:
        components: the networks, on their device, without gradients.
        image_size: `(height, width)` of the images in pixels.
        steps, batch_size, refinements, inversion_tolerance, cache_dir, cache_limit_mb: as of `load_model`.
        precision: what the U-Net's precision was chosen by, for `machinery`.

    Attributes:
        image_size: `(height, width)` of the images in pixels.
        latent_shape: `(c, h, w)` of a latent.
        dimension: the size `d = c h w` of a flat latent.
        device: where the networks live.
    """

    def __init__(
        self,
        *,
        components: Components,
        image_size: tuple[int, int],
        steps: int = 50,
        batch_size: int = 32,
        refinements: int = 20,
        inversion_tolerance: float | None = None,
        cache_dir: Path | None = None,
        cache_limit_mb: float = 2000.0,
        precision: Precision | None = None,
    ) -> None:
        if not _is(int, refinements) or refinements < 0:
            raise UserError(
                "refinements must be a whole number of at least 0 (0 is the published inversion); received "
                f"{refinements}"
            )
        if inversion_tolerance is not None and not (_is(float, inversion_tolerance) and 0 < inversion_tolerance < 1):
            raise UserError(f"inversion_tolerance must lie between 0 and 1; received {inversion_tolerance}")
        if not _is(float, cache_limit_mb) or not cache_limit_mb >= 0:
            raise UserError(f"cache_limit_mb must be a number of at least 0; received {cache_limit_mb}")
        family, self.device, self.image_size = components.family, torch.device(components.network.device), image_size
        self._components, self._refinements, self._inversion_tolerance = components, refinements, inversion_tolerance
        self._precision = precision or Precision(dtype=str(components.network.dtype).removeprefix("torch."))
        self._cache = TensorCache(folder=cache_dir, limit_mb=cache_limit_mb)
        half = components.network.dtype is not torch.float32 and self.device.type != "cpu"
        decoding = torch.float16 if half else torch.float32
        self._codec = ImageCodec(
            vae=components.vae, family=family, image_size=image_size, batch_size=batch_size, decoding=decoding
        )
        self.latent_shape = self._codec.latent_shape
        self._embed = TextConditioner(family.embedder(components))
        self.schedule = family.schedule(components, steps, self.latent_shape)
        self.network = Denoiser(
            module=components.network,
            family=family,
            pixels=image_size[0] // self.latent_shape[1],
            schedule=self.schedule,
            shape=self.latent_shape,
            batch_size=batch_size,
            precision=self._precision.dtype,
        )
        self.dimension = self.network.dimension
        self._layout = fastest_layout(self.network, condition=lambda: self._embed([""]), folder=cache_dir)
        self._ladder = Ladder(
            network=self.network,
            reload=components.reload,
            layout=self._layout,
            fingerprint=lambda: self.fingerprint,
            folder=cache_dir,
        )

    @property
    def network_evaluations(self) -> int:
        """The number of latents sent through the network so far, for whatever purpose."""
        return self.network.evaluations

    @property
    def machinery(self) -> dict[str, Any]:
        """What the network runs on: device, precision, memory layout, and what these were chosen by."""
        return {
            "device": str(self.device),
            "dtype": self._precision.dtype,
            "precisions": asdict(self._precision),
            "compiled": is_compiled(self._components.network),
            "layout": "channels_last" if self._layout.channels_last else "channels_first",
            "evaluations_per_second": dict(self._layout.rates),
        }

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of the weights as loaded (so of their dtype too) and of the noise schedule."""
        components = self._components
        parts = {"vae": components.vae, components.family.network: components.network, **components.text_encoders}
        schedule = (self.schedule.signal, self.schedule.clean_signal, self.schedule.prediction, self.network.precision)
        return weights_hash(parts, *schedule, folder=self._cache.folder)

    def time(self, tau: float) -> int:
        """The diffusion time t of the noise level tau."""
        return self.schedule.time(self.schedule.level(tau))

    def abar(self, tau: float) -> float:
        """`abar_t`, the signal variance at the noise level tau."""
        return float(self.schedule.signal[self.time(tau)])

    def sigma(self, tau: float) -> float:
        """`sigma_t`, the noise standard deviation at the noise level tau."""
        return float(self.schedule.noise_beside(self.abar(tau)))

    def condition(self, prompts: Sequence[str]) -> Float[Tensor, "p l c"]:
        """The text embeddings of prompts; a prompt too long is cut, with a warning."""
        return self._embed(prompts)

    def encode(self, images: Float[Tensor, "p 3 h w"], **options: Any) -> Float[Tensor, "p d"]:
        """The latents of images at a noise level, by the options of `invert`; warns of those that it left unsolved."""
        found = self.invert(images, **options)
        if told := found.told():
            log.warning(told)
        return found.x

    @torch.no_grad()
    def invert(
        self,
        images: Float[Tensor, "p 3 h w"],
        *,
        condition: Float[Tensor, "p l c"] | None = None,
        tau: float = 0.0,
        guidance: float = 1.0,
        negative: Float[Tensor, "p l c"] | None = None,
        refinements: int | None = None,
        remember: bool = False,
        watch: Stopwatch | None = None,
    ) -> Inverted:
        """The latents of images at a noise level, and how well each is solved.

        Args:
            images: images of `image_size`, in [0, 1].
            condition: embedding of each image (or one for all) under which to invert; None is the empty prompt.
            tau: noise level in [0, 1).
            guidance: weight of classifier-free guidance during the inversion; 1 is purely conditional.
            negative: embedding that guidance moves away from; None is the empty prompt.
            refinements: the most refinements of a step of the inversion; None is the model's own.
            remember: whether to keep the latents in the cache folder, and to take them from there; not while the
                network is changed. What is kept belongs to these very images together: by rounding, the latents of one
                depend on those beside it, and what a call gives must not depend on which calls there were before.
            watch: told when the autoencoder is done; what comes after is for the caller to end.
        """
        level = self.schedule.level(tau)
        setting = self._guidance(len(images), condition, guidance, negative)
        refinements = self._refinements if refinements is None else refinements
        remember = remember and self._cache.folder is not None
        if remember:
            settings = (self.fingerprint, self.schedule.times, level, guidance, refinements, self._inversion_tolerance)
            key = content_key("inversion and its way back", settings, images, setting.condition, setting.negative)
            kept = self._cache.load(key)
            if kept is not None:
                return Inverted.unpacked(kept.to(self.device), level)
        clean = self._codec.encode(images)
        if watch is not None:
            watch.lap(ENCODING)
        # Each step grows the rounding of those before it: by a network in float16 latents would be off by a hundredth
        # of their norm, by one in bfloat16 by three.
        network = self._ladder.finer if self._has_finer else self.network
        usual = _HALF_TOLERANCE if network.rounding else _INVERSION_TOLERANCE
        tolerance = self._inversion_tolerance or usual
        found = invert(network, clean, level=level, guidance=setting, refinements=refinements, tolerance=tolerance)
        if remember:
            self._cache.store({key: found.packed()})
        return found

    def decode(
        self,
        x: Float[Tensor, "n d"],
        *,
        condition: Float[Tensor, "n l c"] | None = None,
        tau: float = 0.0,
        guidance: float = 1.0,
        negative: Float[Tensor, "n l c"] | None = None,
    ) -> Float[Tensor, "n 3 h w"]:
        """The images in [0, 1] of latents at a noise level: deterministic DDIM down to 0, then the autoencoder.

        Args:
            x: latents at noise level tau.
            condition: embedding of each latent (or one for all); None is the empty prompt.
            tau: noise level in [0, 1).
            guidance: weight of classifier-free guidance, at least 0; 1 costs one network evaluation a step, others two.
            negative: embedding that guidance moves away from; None is the empty prompt.
        """
        if x.ndim != 2 or x.shape[1] != self.dimension or len(x) == 0:
            raise UserError(f"latents must have the shape [n, {self.dimension}]; received {list(x.shape)}")
        level = self.schedule.level(tau)
        setting = self._guidance(len(x), condition, guidance, negative)
        start = x.to(self.device, torch.float32)
        with torch.no_grad():
            clean = denoise(self.network, start, level=level, guidance=setting)
            if self._has_finer and not bool(torch.isfinite(clean).all()):
                log.warning("The network overflowed in %s: this is done again in float32.", self.network.precision)
                clean = denoise(self._ladder.finer, start, level=level, guidance=setting)
        return self._codec.decode(clean)

    def field(
        self,
        *,
        condition0: Float[Tensor, "p l c"],
        condition1: Float[Tensor, "p l c"] | None = None,
        tau: float,
        score: Score | None = None,
        negative: Float[Tensor, "p l c"] | None = None,
        pair_ids: Sequence[int] | None = None,
    ) -> LatentField:
        """The score at noise level tau along the paths of p pairs.

        Args:
            condition0: embedding of each pair at u = 0.
            condition1: embedding of each pair at u = 1, between which the condition moves linearly; None keeps the
                first.
            tau: noise level in [0, 1).
            score: which density's gradient; None is `Conditional`.
            negative: embedding of each pair (or one for all) in place of the score's negative text.
            pair_ids: what names each pair's random draws; None gives all pairs the same draws, whatever the batch.
        """
        p = len(condition0)
        if pair_ids is not None and len(pair_ids) != p:
            raise UserError(f"pair_ids must name each of the {p} pairs; received {len(pair_ids)}")
        return LatentField(
            networks=self._ladder.networks,
            resolve=self._ladder.resolve if self.network.rounding else None,
            embed=self._embed,
            score=score or Conditional(),
            time=self.time(tau),
            condition0=self._rows(condition0, p, "condition0"),
            condition1=None if condition1 is None else self._rows(condition1, p, "condition1"),
            negative=None if negative is None else self._rows(negative, p, "negative"),
            pair=torch.tensor([0] * p if pair_ids is None else list(pair_ids), dtype=torch.long),
        )

    def invert_text(
        self,
        images: Float[Tensor, "p 3 h w"],
        prompts: Sequence[str],
        *,
        steps: int = 500,
        learning_rate: float = 0.005,
        batch_size: int = 2,
        seed: int = 0,
        shared: bool = False,
        progress: bool | None = None,
    ) -> Float[Tensor, "p l c"]:
        """The embeddings under which the model best denoises images, started from their prompts.

        Each image's result depends on the image, its prompt and the settings alone, and is kept in the cache folder.

        Args:
            images: images of `image_size`, in [0, 1].
            prompts: prompt of each image.
            steps: optimisation steps.
            learning_rate: step size.
            batch_size: random draws a step for each embedding.
            seed: seed of the draws.
            shared: one embedding for all images, started from their distinct prompts in a row; it is returned p times.
            progress: whether to show a bar; None shows it on a terminal only.
        """
        if len(prompts) != len(images) or isinstance(prompts, str):
            raise UserError(f"text inversion needs one prompt per image; received {prompts!r} for {len(images)} images")
        inversion = TextInversion(steps=steps, learning_rate=learning_rate, batch_size=batch_size, progress=progress)
        texts = [" ".join(dict.fromkeys(prompts))] if shared else prompts
        images = images.to(self.device, torch.float32)
        each = len(images) // len(texts)
        latents = self._codec.encode(images)
        groups = zip(torch.split(images, each), torch.split(latents, each), texts, self._embed(texts), strict=True)
        subjects = [TextSubject(images=i, latents=z, prompt=text, initial=start) for i, z, text, start in groups]
        embeddings = inversion.run(self.network, subjects, seed=seed, fingerprint=self.fingerprint, cache=self._cache)
        return embeddings.expand(len(images), -1, -1)

    @property
    def _has_finer(self) -> bool:
        """Whether float32 can take the network's place: it rounds, and has no adapters, which are on it alone."""
        return bool(self.network.rounding) and not self.network.adapted

    def _rows(self, condition: Tensor, rows: int, name: str) -> Float[Tensor, "rows l c"]:
        """One embedding for each of the rows; a single one serves all."""
        if condition.ndim != 3 or len(condition) not in (1, rows):
            shape = list(condition.shape)
            raise UserError(f"{name} must hold one embedding per row, [{rows}, tokens, channels]; received {shape}")
        return condition.to(self.device, torch.float32).expand(rows, -1, -1)

    def _guidance(self, rows: int, condition: Tensor | None, weight: float, negative: Tensor | None) -> Guidance:
        check_guidance(weight)
        empty = self._embed([""])
        return Guidance(
            condition=self._rows(empty if condition is None else condition, rows, "condition"),
            negative=self._rows(empty if negative is None else negative, rows, "negative"),
            weight=weight,
        )


def _is(kind: type, value: Any) -> bool:
    """Whether a value from a file of settings is a number, or a whole one; true and false are none."""
    return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
