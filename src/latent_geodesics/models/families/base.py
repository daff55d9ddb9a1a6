"""What is particular to one family of models: its parts, what its network is asked, its texts, times and latents.

A family is one file here and one line in `FAMILIES`. Everything else sees flat latents, one embedding of each text and
a noise schedule.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.noise_schedule import NoiseSchedule

Maps = Float[Tensor, "n c h w"]
Embeddings = Float[Tensor, "n l c"]

COLOURS = 3
PATCH = 2
"""The side in latents of the autoencoder of what a transformer takes as one token."""


@dataclass(frozen=True, kw_only=True)
class Components:
    """The parts of a model."""

    family: "Family"  # what its parts mean
    vae: Any  # the autoencoder between images and clean latents
    network: Any  # the denoising network
    scheduler: Any  # holds the noise schedule that the network was trained with
    # Name -> tokenizer or text encoder; None for one that the model can do without and does not have
    texts: Mapping[str, Any] = field(default_factory=dict)
    # Gives the network anew, in float32 and on its device; None where its weights are all that there is
    reload: Callable[[], Any] | None = None
    options: Mapping[str, bool] = field(default_factory=dict)  # what the pipeline that wrote them was told besides

    @property
    def text_encoders(self) -> dict[str, Any]:
        """Those of `texts` that have weights."""
        return {name: part for name, part in self.texts.items() if isinstance(part, torch.nn.Module)}


class Family(ABC):
    """Says what the parts of a pipeline of diffusers mean."""

    pipelines: ClassVar[tuple[str, ...]]  # the pipelines that write such folders
    network: ClassVar[str]  # the component that is the denoising network
    parts: ClassVar[Mapping[str, tuple[str, ...]]]  # component -> the classes of it whose meaning is known
    optional: ClassVar[frozenset[str]] = frozenset()  # components that a folder may lack
    controlled: ClassVar[bool] = False  # whether its attention layers can be steered and adapted, as those of a U-Net
    pooled: ClassVar[bool] = False  # whether an embedding's last rows tell of the text as a whole
    # Settings of a scheduler by which its steps are other than deterministic ones along the flow
    sampling: ClassVar[tuple[str, ...]] = ("thresholding", "clip_sample", "stochastic_sampling")
    # Whether a precision is chosen by measuring; otherwise the network has the one that it was trained in
    measured: ClassVar[bool] = False

    def embedder(self, components: Components) -> Callable[[str], Float[Tensor, "l c"]]:
        """What turns a text into the one embedding that conditions the network on it, without gradients."""
        return torch.no_grad()(partial(self.embed, components, self.pipeline(components)))

    @abstractmethod
    def embed(self, components: Components, pipeline: Any, text: str) -> Float[Tensor, "l c"]:
        """The embedding of a text, by the pipeline of diffusers where it is of use."""

    @abstractmethod
    def predict(self, network: Any, images: Maps, told: Tensor, condition: Embeddings, pixels: int) -> Maps:
        """The network's raw output for latents and embeddings in its precision.

        It is told a time [n]; along one side of a latent lie so many pixels of an image.
        """

    def pipeline(self, components: Components) -> Any:
        """The pipeline of diffusers that a model's parts belong to, which knows how its texts are embedded."""
        import diffusers

        own = {self.network: components.network, "vae": components.vae, "scheduler": components.scheduler}
        return getattr(diffusers, self.pipelines[0])(**own, **components.texts)

    def usual_precision(self, device: torch.device) -> str:
        """What the network runs in where nothing was measured."""
        if device.type == "cpu":
            return "float32"
        return "float16" if self.measured else "bfloat16"

    def problems(self, components: Components) -> list[str]:
        """What of a model's settings does not fit together, or needs more than this family gives."""
        vae = components.vae.config
        found = [
            f"its autoencoder {side} images of {channels} channels, not 3"
            for side, channels in (("reads", vae.in_channels), ("makes", vae.out_channels))
            if channels != COLOURS
        ]
        scale, shift = vae.get("scaling_factor", 1.0), vae.get("shift_factor") or 0.0
        if not isinstance(scale, int | float) or not isinstance(shift, int | float) or not scale:
            found.append(f"its autoencoder scales latents by {scale} and shifts them by {shift}")
        for name, encoder in components.text_encoders.items():
            tokenizer, words = components.texts[name.replace("text_encoder", "tokenizer")], encoder.config.vocab_size
            if tokenizer is None:
                found.append(f"its {name} has no tokenizer")
            elif len(tokenizer) > words:
                found.append(f"the tokenizer of its {name} has {len(tokenizer)} tokens, which itself knows {words} of")
        return found + [
            f"its network reads {what} of {read} channels, not the {given} that its text encoders give"
            for what, read, given in self.widths(components)
            if read != given
        ]

    def notes(self, components: Components) -> list[str]:
        """What the pipeline does when it makes images and is not done here, a sentence each."""
        scheduler = components.scheduler
        known = inspect.signature(type(scheduler).__init__).parameters  # others it keeps and does not read
        named = [name for name in self.sampling if name in known and scheduler.config.get(name)]
        if not named:
            return []
        return [
            f"the scheduler has {', '.join(named)} set, by which its pipeline takes steps that have no inverse: here "
            "they are taken without, so that images can differ from the pipeline's"
        ]

    @abstractmethod
    def widths(self, components: Components) -> list[tuple[str, Any, int]]:
        """What the network reads of a text, how many channels of it, and how many the text encoders give."""

    @abstractmethod
    def schedule(self, components: Components, steps: int, latent_shape: tuple[int, int, int]) -> NoiseSchedule:
        """The noise schedule of the pipeline at latents of a size."""

    def latent_shape(self, vae: Any, image_size: tuple[int, int]) -> tuple[int, int, int]:
        """`(c, h, w)` of the latents of images."""
        factor = reduction_factor(vae)
        return int(vae.config.latent_channels), image_size[0] // factor, image_size[1] // factor

    def encode(self, vae: Any, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h w"]:
        """The clean latents of images in [-1, 1]: the mean of the encoder's distribution, shifted and scaled."""
        mean: Tensor = vae.encode(images).latent_dist.mode()
        return float(vae.config.scaling_factor) * (mean - _shift(vae))

    def decode(self, vae: Any, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 h w"]:
        """The images of clean latents."""
        images: Tensor = vae.decode((latents / float(vae.config.scaling_factor) + _shift(vae)).to(vae.dtype)).sample
        return images

    def largest(self, components: Components) -> int | None:
        """The longest side of images that the network has positions for; None for any."""
        return None

    def multiple(self, components: Components) -> int:
        """What the sides of images must be multiples of."""
        return reduction_factor(components.vae)

    def sample_size(self, components: Components) -> Any:
        """The side or sides, in latents of the autoencoder, of the images that it was trained on; None if not told."""
        return components.network.config.sample_size


class FlowTransformer(Family):
    """A family whose network is a transformer that predicts the velocity of a flow.

    Attributes:
        packed: Whether the channels of a token's latents are put side by side before the network sees them.
    """

    network = "transformer"
    packed: ClassVar[bool] = True

    def problems(self, components: Components) -> list[str]:  # noqa: D102
        network, latents = components.network.config, components.vae.config.latent_channels
        wanted, what = (PATCH**2 * latents, "two by two") if self.packed else (latents, "its")
        returned = (network.get("out_channels") or network.in_channels) * (network.patch_size**2 if self.packed else 1)
        sides = (("reads", network.in_channels), ("returns", returned))
        return super().problems(components) + [
            f"its transformer {side} {channels} channels and {what} latents have {wanted}"
            for side, channels in sides
            if channels != wanted
        ]

    def multiple(self, components: Components) -> int:  # noqa: D102
        return reduction_factor(components.vae) * PATCH

    def sample_size(self, components: Components) -> Any:
        """128 latents, the pipelines' default, where the network's settings do not say."""
        return components.network.config.get("sample_size", 128)


def image_shift(config: Any, tokens: int) -> float:
    """`mu`, the shift of a schedule at images of so many tokens: linear between those of two sizes."""
    usual = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
    found = {name: config.get(name, value) for name, value in usual.items()}
    low, high, base, most = found.values()
    if None in found.values() or low == high:
        raise UserError(
            f"the model's scheduler does not say how it shifts its noise: give {', '.join(found)}, the first "
            "two being different"
        )
    return float(base + (most - base) * (tokens - low) / (high - low))


def reduction_factor(vae: Any) -> int:
    """How many image pixels lie along one side of a latent pixel."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def beside_tokens(tokens: Float[Tensor, "l c"], pooled: Float[Tensor, " m"]) -> Float[Tensor, "l+k c"]:
    """One embedding of a text's tokens and of the text as a whole, which is put behind them in rows as wide.

    So it moves, is stored and is fitted as the tokens are.
    """
    width = tokens.shape[-1]
    rows = -(-len(pooled) // width)
    padded = torch.nn.functional.pad(pooled, (0, rows * width - len(pooled)))
    return torch.cat([tokens, padded.reshape(rows, width)])


def split_pooled(condition: Float[Tensor, "n l c"], size: int) -> tuple[Float[Tensor, "n k c"], Float[Tensor, "n m"]]:
    """The tokens and the `size` values of the text as a whole that `beside_tokens` put together."""
    rows = -(-size // condition.shape[-1])
    return condition[:, :-rows], condition[:, -rows:].flatten(1)[:, :size]


def _shift(vae: Any) -> float:
    return float(getattr(vae.config, "shift_factor", None) or 0.0)
